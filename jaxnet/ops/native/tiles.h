/* The inner loops, for one width of vectors. shared.h includes this file once per instruction set,
 * with LANES, the floats per vector, and MOST, the accumulators that fit into the registers.
 *
 * A tile is a rectangle of results that stay in registers: `count` of them by `vectors` vectors of
 * neighboring features. Both are constants in each instance of a function, so that the compiler
 * unrolls the loops over them. */

typedef float NAME(vec) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t NAME(ints) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t NAME(words) __attribute__((vector_size(4 * LANES), aligned(1), may_alias));
typedef uint16_t NAME(halves) __attribute__((vector_size(2 * LANES), aligned(1), may_alias));
typedef int8_t NAME(bytes) __attribute__((vector_size(LANES), aligned(1), may_alias));
#define VEC NAME(vec)

INLINE void NAME(put)(float *to, VEC value, int64_t left) {
  if (left >= LANES) *(VEC *)to = value;
#ifdef STORE_FIRST
  else if (left > 0) STORE_FIRST(to, value, left);
#else
  else for (int64_t i = 0; i < left; i++) to[i] = value[i];
#endif
}

INLINE VEC NAME(load)(const float *from, int64_t left) {
  if (left >= LANES) return *(const VEC *)from;
#ifdef LOAD_FIRST
  return left > 0 ? LOAD_FIRST(from, left) : (VEC){0};
#else
  VEC some = {0};
  for (int64_t i = 0; i < left; i++) some[i] = from[i];
  return some;
#endif
}

/* A vector of 16-bit numbers in the low halves of words, of at most `left`. */
INLINE NAME(words) NAME(low_halves)(const uint16_t *from, int64_t left) {
  if (left >= LANES) return __builtin_convertvector(*(const NAME(halves) *)from, NAME(words));
  VEC two = NAME(load)((const float *)from, left / 2);
  NAME(words) some = __builtin_convertvector(*(NAME(halves) *)&two, NAME(words));
  if (left > 0 && left % 2) some[left - 1] = from[left - 1];
  return some;
}

/* Numbers of an array of floats or of bfloat16, from a place on. */
INLINE VEC NAME(numbers)(const int half, const void *from, int64_t place, int64_t left) {
  return half ? (VEC)(NAME(low_halves)((const uint16_t *)from + place, left) << 16)
              : NAME(load)((const float *)from + place, left);
}

/* Rounds to the nearest bfloat16, to an even one between two: by one instruction, where the processor
 * also multiplies them, if `half`. */
INLINE void NAME(put_half)(const int half, uint16_t *to, VEC x, int64_t left) {
  NAME(words) bits = (NAME(words))x, none = (NAME(words))(x != x);
  bits = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  NAME(halves) some = __builtin_convertvector((bits & ~none) | (none & 0x7fc0), NAME(halves));
#ifdef TO_HALF
  if (half) some = TO_HALF(x);
#endif
  if (left >= LANES) *(NAME(halves) *)to = some;
  else if (left > 0) {
    const char *from = (const char *)&some;
    UNROLL for (int n = LANES / 2; n; n /= 2)
      if (left & n) {
        memcpy(to, from, 2 * n); /* of a size that the compiler knows */
        to += n;
        from += 2 * n;
      }
  }
}

/* total + x * w. With `half`, x and w are words of two bfloat16, whose two products are added. */
INLINE VEC NAME(with)(const int half, VEC total, float x, VEC w) {
#ifdef TWO_PRODUCTS
  if (half) return TWO_PRODUCTS(total, x, w);
#endif
  return total + x * w;
}

/* result[t] = sum over rows, taps and inputs of x[t] * w; with `onto` it is added to what was there.
 * With `half`, the numbers are words of two bfloat16, and the results are bfloat16.
 *
 * The compiler does not know the distance of the pixels x[t]. Four base pointers and the scales of
 * x86's addresses reach all of them without a register for each. HIDE keeps the compiler from
 * computing the addresses before the loop, for which there are too few registers. */
INLINE void NAME(sum)(const int half, const int count, const int vectors, const Sum *s,
                      int64_t start, void *result_, int64_t left) {
  float *result = result_;
  VEC total[28][2];
  UNROLL for (int t = 0; t < count; t++)
    UNROLL for (int v = 0; v < vectors; v++)
      total[t][v] = !half && s->onto ? *(VEC *)(result + t * s->result + v * LANES) : (VEC){0};
  int64_t step = s->pixel * 4;
  for (int64_t r = 0; r < s->rows; r++)
    for (int64_t k = 0; k < s->taps; k++) {
      const char *x[4];
      const float *w = s->w[r] + k * s->tap_w;
      x[0] = (const char *)(s->x[r] + start + k * s->tap_x);
      UNROLL for (int i = 1; i < 4; i++) x[i] = x[i - 1] + 7 * step;
      for (int64_t c = 0; c < s->run; c++, w += vectors * LANES) {
        HIDE(step);
        VEC these[2];
        UNROLL for (int v = 0; v < vectors; v++) these[v] = *(const VEC *)(w + v * LANES);
        UNROLL for (int t = 0; t < count; t++) {
          float one = *(const float *)(x[t / 7] + t % 7 * step);
          UNROLL for (int v = 0; v < vectors; v++)
            total[t][v] = NAME(with)(half, total[t][v], one, these[v]);
        }
        UNROLL for (int i = 0; i < 4; i++) x[i] += 4;
      }
    }
  UNROLL for (int t = 0; t < count; t++)
    UNROLL for (int v = 0; v < vectors; v++) {
      int64_t at = t * s->result + v * LANES;
      if (half) NAME(put_half)(1, (uint16_t *)result_ + at, total[t][v], left - v * LANES);
      else NAME(put)(result + at, total[t][v], left - v * LANES);
    }
}

/* result[k][t] += sum over rows and columns of x[k][t] * y, where t are neighbors in memory and k
 * are rows of the kernel. With `half`, see `Add`. */
INLINE void NAME(add)(const int half, const int kernels, const int count, const int vectors,
                      const Add *a, int64_t start, int64_t feature, float *result) {
  VEC total[28][2];
  UNROLL for (int k = 0; k < kernels; k++)
    UNROLL for (int t = 0; t < count; t++)
      UNROLL for (int v = 0; v < vectors; v++)
        total[k * count + t][v] = half && a->first ? (VEC){0} :
          *(VEC *)(result + k * a->kernel + t * a->width + v * LANES);
  for (int64_t r = 0; r < a->rows; r++) {
    const float *x[5], *y = a->y[r] + feature;
    UNROLL for (int k = 0; k < kernels; k++) x[k] = a->x[k * a->rows + r] + start;
    for (int64_t c = 0; c < a->columns; c++, y += a->step_y) {
      VEC these[2];
      UNROLL for (int v = 0; v < vectors; v++) these[v] = *(const VEC *)(y + v * LANES);
      UNROLL for (int k = 0; k < kernels; k++) {
        UNROLL for (int t = 0; t < count; t++)
          UNROLL for (int v = 0; v < vectors; v++)
            total[k * count + t][v] = NAME(with)(half, total[k * count + t][v], x[k][t], these[v]);
        x[k] += a->step_x;
      }
    }
  }
  if (half && a->rounded) {
    UNROLL for (int t = 0; t < count; t++)
      UNROLL for (int v = 0; v < vectors; v++)
        NAME(put_half)(1, a->rounded + t * a->line + v * LANES, total[t][v], a->left - v * LANES);
    return;
  }
  UNROLL for (int k = 0; k < kernels; k++)
    UNROLL for (int t = 0; t < count; t++)
      UNROLL for (int v = 0; v < vectors; v++)
        *(VEC *)(result + k * a->kernel + t * a->width + v * LANES) = total[k * count + t][v];
}

/* As `sum` and `add`, for features that are convolved each by itself: x is a vector too. */
INLINE void NAME(sum_each)(const int count, const Sum *s, int64_t start, float *result,
                           int64_t left) {
  VEC total[12];
  UNROLL for (int t = 0; t < count; t++) total[t] = (VEC){0};
  for (int64_t r = 0; r < s->rows; r++)
    for (int64_t k = 0; k < s->taps; k++) {
      const float *x = s->x[r] + start + k * s->tap_x;
      const float *w = s->w[r] + k * s->tap_w;
      for (int64_t c = 0; c < s->run; c++, x += LANES, w += LANES)
        UNROLL for (int t = 0; t < count; t++)
          total[t] += *(const VEC *)(x + t * s->pixel) * *(const VEC *)w;
    }
  UNROLL for (int t = 0; t < count; t++) NAME(put)(result + t * s->result, total[t], left);
}

INLINE void NAME(add_each)(const int kernels, const int count, const Add *a, int64_t start,
                           int64_t feature, float *result) {
  VEC total[28];
  UNROLL for (int k = 0; k < kernels; k++)
    UNROLL for (int t = 0; t < count; t++)
      total[k * count + t] = *(VEC *)(result + k * a->kernel + t * a->width);
  for (int64_t r = 0; r < a->rows; r++) {
    const float *x[5], *y = a->y[r] + feature;
    UNROLL for (int k = 0; k < kernels; k++) x[k] = a->x[k * a->rows + r] + start;
    for (int64_t c = 0; c < a->columns; c++, y += a->step_y)
      UNROLL for (int k = 0; k < kernels; k++) {
        UNROLL for (int t = 0; t < count; t++)
          total[k * count + t] += *(const VEC *)(x[k] + t * a->step_tap) * *(const VEC *)y;
        x[k] += a->step_x;
      }
  }
  UNROLL for (int k = 0; k < kernels; k++)
    UNROLL for (int t = 0; t < count; t++)
      *(VEC *)(result + k * a->kernel + t * a->width) = total[k * count + t];
}

#ifndef PERMUTE
INLINE VEC NAME(permute)(VEC x, NAME(ints) places) {
  VEC some;
  for (int64_t i = 0; i < LANES; i++) some[i] = x[places[i] % LANES];
  return some;
}
#define PERMUTE NAME(permute)
#endif

/* A pixel of some groups as a vector for each input of a group. */
static void NAME(spread)(const Spread *s, const float *x, int64_t left, float *to) {
  NAME(ints) at = *(const NAME(ints) *)s->first;
  for (int64_t i = 0; i < s->depth; i++, at += 1, to += LANES) {
    VEC some = PERMUTE(NAME(load)(x, left), at);
    for (int64_t first = LANES; first < s->inputs; first += LANES) {
      VEC others = PERMUTE(NAME(load)(x + first, left - first), at);
      NAME(ints) here = at >= (int)first;
      some = (VEC)(((NAME(ints))some & ~here) | ((NAME(ints))others & here));
    }
    *(VEC *)to = some;
  }
}

/* A step of an LSTM, and a step back. */

/* tanh as a quotient of two polynomials, as in XLA; NaN stays NaN. */
INLINE VEC NAME(tanh)(VEC x) {
  const float most = 7.90531110763549805f;
  NAME(ints) high = x > most, low = x < -most;
  NAME(ints) bits = ((NAME(ints))x & ~(high | low)) | ((NAME(ints))((VEC){0} + most) & high) |
                    ((NAME(ints))((VEC){0} - most) & low);
  x = (VEC)bits;
  VEC x2 = x * x, p = (VEC){0} - 2.76076847742355e-16f, q = (VEC){0} + 1.19825839466702e-06f;
  p = p * x2 + 2.00018790482477e-13f;
  p = p * x2 - 8.60467152213735e-11f;
  p = p * x2 + 5.12229709037114e-08f;
  p = p * x2 + 1.48572235717979e-05f;
  p = p * x2 + 6.37261928875436e-04f;
  p = p * x2 + 4.89352455891786e-03f;
  q = q * x2 + 1.18534705686654e-04f;
  q = q * x2 + 2.26843463243900e-03f;
  q = q * x2 + 4.89352518554385e-03f;
  return x * p / q;
}

INLINE VEC NAME(sigmoid)(VEC x) { return NAME(tanh)(x * 0.5f) * 0.5f + 0.5f; }

static void NAME(cell)(const Cell *s, int64_t feature) {
  int64_t n = s->features, left = n - feature;
  VEC bias[4];
  for (int gate = 0; gate < 4; gate++) bias[gate] = NAME(load)(s->bias + gate * n + feature, left);
  for (int64_t r = 0; r < s->rows; r++) {
    int64_t at = r * n + feature, wide = 4 * r * n + feature;
    VEC z[4], old_c = NAME(load)(s->c + at, left);
    for (int gate = 0; gate < 4; gate++)
      z[gate] = NAME(load)(s->gates + wide + gate * n, left) + bias[gate] +
                *(const VEC *)(s->product + (4 * r + gate) * LANES);
    VEC i = NAME(sigmoid)(z[0]), f = NAME(sigmoid)(z[1]), g = NAME(tanh)(z[2]);
    VEC o = NAME(sigmoid)(z[3]), c = f * old_c + i * g, squashed = NAME(tanh)(c);
    if (s->slopes) {
      VEC slopes[] = {
        g * i * (1 - i), old_c * f * (1 - f), i * (1 - g * g), squashed * o * (1 - o),
      };
      for (int gate = 0; gate < 4; gate++)
        NAME(put)(s->slopes + wide + gate * n, slopes[gate], left);
      NAME(put)(s->by_old_c + at, f, left);
      NAME(put)(s->by_c + at, o * (1 - squashed * squashed), left);
    }
    if (s->mask && !s->mask[r]) {
      NAME(put)(s->h + at, NAME(load)(s->before + at, left), left);
      continue;
    }
    NAME(put)(s->h + at, o * squashed, left);
    NAME(put)(s->c + at, c, left);
  }
}

static void NAME(cell_back)(const CellBack *s) {
  int64_t n = s->features;
  for (int64_t r = 0; r < s->rows; r++)
    for (int64_t feature = 0; feature < n; feature += LANES) {
      int64_t at = r * n + feature, wide = 4 * r * n + feature, left = n - feature;
      VEC h = NAME(load)(s->given_h + at, left) + NAME(load)(s->h + at, left);
      if (s->mask && !s->mask[r]) {
        NAME(put)(s->kept + at, h, left);
        for (int gate = 0; gate < 4; gate++) NAME(put)(s->gates + wide + gate * n, (VEC){0}, left);
        continue;
      }
      VEC c = NAME(load)(s->c + at, left) + NAME(load)(s->by_c + at, left) * h;
      for (int gate = 0; gate < 4; gate++) {
        VEC slope = NAME(load)(s->slopes + wide + gate * n, left);
        NAME(put)(s->gates + wide + gate * n, slope * (gate < 3 ? c : h), left);
      }
      NAME(put)(s->c + at, NAME(load)(s->by_old_c + at, left) * c, left);
    }
}

#include "gemv_tiles.h"
#include "attention_tiles.h"
#include "norm_tiles.h"
#include "pool_tiles.h"
#include "winograd_tiles.h"
#include "outer_tiles.h"
#include "rnn_tiles.h"
#include "keep_tiles.h"
#ifdef TWO_PRODUCTS
#include "half_tiles.h"
#endif

/* The instances, and the tables to find them in. */

#define FEW(F, v) F(1, v) F(2, v) F(3, v) F(4, v) F(5, v) F(6, v)
#define EACH(F) FEW(F, 1) F(7, 1) F(8, 1) F(9, 1) F(10, 1) F(11, 1) F(12, 1)
#define ONE_ROW(F)                                                                                 \
  F(1, 1) F(1, 2) F(1, 3) F(1, 4) F(1, 5) F(1, 6) F(1, 7) F(1, 8) F(1, 9)
#if MOST >= 28
#define ALL(F)                                                                                     \
  FEW(F, 1) F(7, 1) F(8, 1) F(9, 1) F(10, 1) F(11, 1) F(12, 1) F(13, 1) F(14, 1) F(15, 1) F(16, 1) \
  F(17, 1) F(18, 1) F(19, 1) F(20, 1) F(21, 1) F(22, 1) F(23, 1) F(24, 1) F(25, 1) F(26, 1)        \
  F(27, 1) F(28, 1)                                                                                \
  FEW(F, 2) F(7, 2) F(8, 2) F(9, 2) F(10, 2) F(11, 2) F(12, 2) F(13, 2) F(14, 2)
#define BY_ROWS(F)                                                                                 \
  F(3, 1) F(3, 2) F(3, 3) F(3, 4) F(3, 5) F(3, 6) F(3, 7) F(3, 8) F(3, 9)                          \
  F(5, 1) F(5, 2) F(5, 3) F(5, 4) F(5, 5)
#else
#define ALL(F) FEW(F, 1) F(7, 1) F(8, 1) F(9, 1) F(10, 1) F(11, 1) F(12, 1) FEW(F, 2)
#define BY_ROWS(F) F(3, 1) F(3, 2) F(3, 3) F(3, 4) F(5, 1) F(5, 2)
#endif

#define SUM_OF(half, name, count, vectors)                                                         \
  static void NAME(name)(const Sum *s, int64_t start, float *result, int64_t left) {               \
    NAME(sum)(half, count, vectors, s, start, result, left);                                       \
  }
#define ADD_OF(half, name, kernels, count, vectors)                                                \
  static void NAME(name)(const Add *a, int64_t start, int64_t feature, float *to) {                \
    NAME(add)(half, kernels, count, vectors, a, start, feature, to);                               \
  }
#define SUM(count, vectors) SUM_OF(0, sum_##count##_##vectors, count, vectors)
#define ADD(count, vectors) ADD_OF(0, add_##count##_##vectors, 1, count, vectors)
#define ADD_ROWS(kernels, count) ADD_OF(0, rows_##kernels##_##count, kernels, count, 1)
#define SUM_EACH(count, vectors)                                                                   \
  static void NAME(sum_each_##count)(const Sum *s, int64_t start, float *result, int64_t left) {   \
    NAME(sum_each)(count, s, start, result, left);                                                 \
  }
#define ADD_EACH(kernels, count)                                                                   \
  static void NAME(each_##kernels##_##count)(const Add *a, int64_t start, int64_t feature, float *to) { \
    NAME(add_each)(kernels, count, a, start, feature, to);                                         \
  }
ALL(SUM) ALL(ADD) BY_ROWS(ADD_ROWS) EACH(SUM_EACH) ONE_ROW(ADD_EACH) BY_ROWS(ADD_EACH)

#ifdef TWO_PRODUCTS
#define SUM_HALF(count, vectors) SUM_OF(1, sum_half_##count##_##vectors, count, vectors)
#define ADD_HALF(count, vectors) ADD_OF(1, add_half_##count##_##vectors, 1, count, vectors)
#define ADD_ROWS_HALF(kernels, count) ADD_OF(1, rows_half_##kernels##_##count, kernels, count, 1)
ALL(SUM_HALF) ALL(ADD_HALF) BY_ROWS(ADD_ROWS_HALF)
#define SUM_HALF_ENTRY(count, vectors) [vectors - 1][count] = NAME(sum_half_##count##_##vectors),
#define ADD_HALF_ENTRY(count, vectors) [vectors - 1][count] = NAME(add_half_##count##_##vectors),
#define ROWS_HALF_ENTRY(kernels, count) [kernels / 2][count] = NAME(rows_half_##kernels##_##count),
#endif

#define SUM_ENTRY(count, vectors) [vectors - 1][count] = NAME(sum_##count##_##vectors),
#define ADD_ENTRY(count, vectors) [vectors - 1][count] = NAME(add_##count##_##vectors),
#define ROWS_ENTRY(kernels, count) [kernels / 2][count] = NAME(rows_##kernels##_##count),
#define SUM_EACH_ENTRY(count, vectors) [count] = NAME(sum_each_##count),
#define ADD_EACH_ENTRY(kernels, count) [kernels / 2][count] = NAME(each_##kernels##_##count),
static const Kernels NAME(kernels) = {
  LANES, MOST, {ALL(SUM_ENTRY)}, {ALL(ADD_ENTRY)}, {BY_ROWS(ROWS_ENTRY)},
  {EACH(SUM_EACH_ENTRY)}, {ONE_ROW(ADD_EACH_ENTRY) BY_ROWS(ADD_EACH_ENTRY)},
  NAME(spread), NAME(cell), NAME(cell_back), NAME(plain), NAME(plain_back), NAME(keep), NAME(gemv),
  NAME(pack), NAME(unpack), NAME(gather), NAME(finite), NAME(dot), NAME(softmax), NAME(slopes), NAME(attend_one),
  NAME(norm), NAME(moments), NAME(pool),
  {{{NAME(read_2), NAME(read_at_2)}, {NAME(read_4), NAME(read_at_4)}},
   {{NAME(read_half_2), NAME(read_half_at_2)}, {NAME(read_half_4), NAME(read_half_at_4)}}},
  {{{NAME(back_2), NAME(back_at_2)}, {NAME(back_4), NAME(back_at_4)}},
   {{NAME(back_half_2), NAME(back_half_at_2)}, {NAME(back_half_4), NAME(back_half_at_4)}}},
  {{NAME(write_2), NAME(write_4)}, {NAME(write_half_2), NAME(write_half_4)}},
  {NAME(weights_2), NAME(weights_4)},
  {NAME(kernel_2), NAME(kernel_4)},
  NAME(panels),
#ifdef TWO_PRODUCTS
  {ALL(SUM_HALF_ENTRY)}, {ALL(ADD_HALF_ENTRY)}, {BY_ROWS(ROWS_HALF_ENTRY)},
  NAME(turn), NAME(pair), NAME(round),
#endif
};

#undef VEC
#undef FEW
#undef EACH
#undef ONE_ROW
#undef ALL
#undef BY_ROWS
#undef SUM
#undef ADD
#undef ADD_ROWS
#undef SUM_EACH
#undef ADD_EACH
#undef SUM_OF
#undef ADD_OF
#undef SUM_ENTRY
#undef ADD_ENTRY
#undef ROWS_ENTRY
#undef SUM_EACH_ENTRY
#undef ADD_EACH_ENTRY
