/* The inner loops of script.h. Functions are those of XLA, NaN and infinities included. */

#pragma once

/* e**x, with relative error below 4e-7; 0 below 2**-125. The power of two is that of half the result,
 * since the largest ones have one that is not a float. */
INLINE VEC NAME(exponential)(VEC x) {
  const float round = 12582912 + 126;
  VEC inside = NAME(clipped)(x, -100, 89), shifted = inside * LOG2_E + round, n = shifted - round;
  VEC f = (inside - n * 0.693145752f - n * 1.42860677e-6f) * LOG2_E;
  VEC half = NAME(power)(f) * (VEC)((INTS)shifted << 23);
  return (VEC)((INTS)(half + half) & ~(n < -125.0f));
}

INLINE VEC NAME(root)(VEC x) {
  VEC y;
  for (int l = 0; l < LANES; l++) y[l] = __builtin_sqrtf(x[l]);
  return y;
}

INLINE VEC NAME(magnitude)(VEC x) { return (VEC)((INTS)x & 0x7fffffff); }

#define MAPPING(name, of_x)                                                     \
  static void NAME(map_##name)(const float *from, int64_t n, float *to) {       \
    for (int64_t i = 0; i < n; i += LANES) {                                    \
      VEC x = NAME(load)(from + i, n - i);                                      \
      NAME(put)(to + i, of_x, n - i);                                           \
    }                                                                           \
  }
MAPPING(neg, -x)
MAPPING(abs, NAME(magnitude)(x))
MAPPING(exp, NAME(exponential)(x))
MAPPING(tanh, NAME(tanh)(x))
MAPPING(logistic, 1.0f / (1.0f + NAME(exponential)(-x)))
MAPPING(sqrt, NAME(root)(x))
MAPPING(rsqrt, 1.0f / NAME(root)(x))
MAPPING(erf, NAME(erf)(x))
#undef MAPPING

/* 1 where a condition holds, else 0. */
INLINE VEC NAME(truth)(INTS condition) { return (VEC)(condition & (INTS)((VEC){0} + 1.0f)); }

/* `count` numbers of an array, or the only one of it if it is not `many`. */
INLINE VEC NAME(some)(const float *from, int64_t many, int64_t place, int64_t left) {
  if (many) return NAME(load)(from + place, left);
  return (VEC){0} + *from;
}

#define COMBINING(name, of_a_and_b)                                                              \
  static void NAME(combine_##name)(const float *first, int64_t many_first, const float *second,  \
                                   int64_t many_second, int64_t n, float *to) {                  \
    for (int64_t i = 0; i < n; i += LANES) {                                                     \
      VEC a = NAME(some)(first, many_first, i, n - i);                                           \
      VEC b = NAME(some)(second, many_second, i, n - i);                                         \
      NAME(put)(to + i, of_a_and_b, n - i);                                                      \
    }                                                                                            \
  }
COMBINING(add, a + b)
COMBINING(sub, a - b)
COMBINING(mul, a * b)
COMBINING(div, a / b)
COMBINING(max, NAME(choose)((a > b) | (a != a), a, b))
COMBINING(min, NAME(choose)((a < b) | (a != a), a, b))
COMBINING(gt, NAME(truth)(a > b))
COMBINING(ge, NAME(truth)(a >= b))
COMBINING(lt, NAME(truth)(a < b))
COMBINING(le, NAME(truth)(a <= b))
COMBINING(eq, NAME(truth)(a == b))
COMBINING(ne, NAME(truth)(a != b))
#undef COMBINING

static void NAME(select)(const float *which, const float *no, int64_t n, float *to) {
  for (int64_t i = 0; i < n; i += LANES) {
    INTS holds = NAME(load)(which + i, n - i) != 0.0f;
    VEC yes = NAME(load)(to + i, n - i);
    NAME(put)(to + i, NAME(choose)(holds, yes, NAME(load)(no + i, n - i)), n - i);
  }
}

/* Sums, or the largest or smallest, of `rows` neighboring rows of n numbers. */
#define REDUCING(name, start, of_a_and_b)                                                \
  static void NAME(reduce_##name)(const float *from, int64_t rows, int64_t n, float *to) { \
    for (int64_t r = 0; r < rows; r++, from += n) {                                      \
      VEC all = (VEC){0} + (start);                                                      \
      int64_t i = 0;                                                                     \
      for (; i + LANES <= n; i += LANES) {                                               \
        VEC a = all, b = *(const VEC *)(from + i);                                       \
        all = of_a_and_b;                                                                \
      }                                                                                  \
      VEC one = (VEC){0} + (start);                                                      \
      for (int l = 0; l < LANES; l++) {                                                  \
        VEC a = one, b = (VEC){0} + all[l];                                              \
        one = of_a_and_b;                                                                \
      }                                                                                  \
      for (; i < n; i++) {                                                               \
        VEC a = one, b = (VEC){0} + from[i];                                             \
        one = of_a_and_b;                                                                \
      }                                                                                  \
      to[r] = one[0];                                                                    \
    }                                                                                    \
  }
REDUCING(sum, 0.0f, a + b)
REDUCING(max, -__builtin_inff(), NAME(choose)((a > b) | (a != a), a, b))
REDUCING(min, __builtin_inff(), NAME(choose)((a < b) | (a != a), a, b))
#undef REDUCING

/* A row of `inner` numbers times `count` vectors of each row of w, at most `left` numbers wide. */
INLINE void NAME(row_by)(const int count, const float *x, int64_t inner, const float *w, int64_t row,
                         int64_t left, float *to) {
  VEC total[8];
  UNROLL for (int v = 0; v < count; v++) total[v] = (VEC){0};
  for (int64_t i = 0; i < inner; i++, w += row)
    UNROLL for (int v = 0; v < count; v++) total[v] += x[i] * NAME(load)(w + v * LANES, left - v * LANES);
  UNROLL for (int v = 0; v < count; v++) NAME(put)(to + v * LANES, total[v], left - v * LANES);
}

/* x (rows, inner) times w (inner, outputs). */
static void NAME(times)(const float *x, const float *w, int64_t rows, int64_t inner, int64_t outputs, float *to) {
  const int64_t most = 8 * LANES;
  for (int64_t r = 0; r < rows; r++, x += inner, to += outputs) {
    int64_t o = 0;
    for (; o + most <= outputs; o += most) NAME(row_by)(8, x, inner, w + o, outputs, most, to + o);
    for (; o + 2 * LANES <= outputs; o += 2 * LANES)
      NAME(row_by)(2, x, inner, w + o, outputs, 2 * LANES, to + o);
    for (; o < outputs; o += LANES) NAME(row_by)(1, x, inner, w + o, outputs, outputs - o, to + o);
  }
}

/* x (rows, inner) times w (outputs, inner), whose rows are columns. */
static void NAME(times_turned)(const float *x, const float *w, int64_t rows, int64_t inner, int64_t outputs,
                               float *to) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t o = 0; o < outputs; o++)
      to[r * outputs + o] = NAME(dot)(x + r * inner, w + o * inner, inner);
}

/* By the numbers that script.py gives them. */
static const ScriptLoops NAME(script) = {
  .map = {
    NAME(map_neg), NAME(map_abs), NAME(map_exp), NAME(map_tanh), NAME(map_logistic), NAME(map_sqrt),
    NAME(map_rsqrt), NAME(map_erf),
  },
  .combine = {
    NAME(combine_add), NAME(combine_sub), NAME(combine_mul), NAME(combine_div), NAME(combine_max),
    NAME(combine_min), NAME(combine_gt), NAME(combine_ge), NAME(combine_lt), NAME(combine_le),
    NAME(combine_eq), NAME(combine_ne),
  },
  .select = NAME(select),
  .reduce = {NAME(reduce_sum), NAME(reduce_max), NAME(reduce_min)},
  .times = {NAME(times), NAME(times_turned)},
};
