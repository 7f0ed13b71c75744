/* The tiles of sums and products, for the vectors of one instruction set, and the table of them.
 *
 * A tile is a rectangle of results that stay in registers: `count` of them by `vectors` vectors of
 * neighboring features. Both are constants in each instance of a function, so that the compiler
 * unrolls the loops over them. */

#pragma once
#include "vectors.h"

/* result[t] = sum over rows, taps and inputs of x[t] * w; with `onto` it is added to what was there, at
 * the end, since a sum of sums loses fewer digits than one sum of all.
 * With `half`, the numbers are words of two bfloat16, and the results are bfloat16.
 *
 * The compiler does not know the distance of the pixels x[t]. Four base pointers and the scales of
 * x86's addresses reach all of them without a register for each. HIDE keeps the compiler from
 * computing the addresses before the loop, for which there are too few registers. */
INLINE void NAME(sum)(const int half, const int count, const int vectors, const Sum *s,
                      int64_t start, void *result_, int64_t left) {
  float *result = result_;
  VEC total[28][2], first[2] = {{0}, {0}};
  const Finish *finish = half ? NULL : s->finish;
  if (finish) UNROLL for (int v = 0; v < vectors; v++) first[v] = *(const VEC *)(s->bias + v * LANES);
  UNROLL for (int t = 0; t < count; t++)
    UNROLL for (int v = 0; v < vectors; v++) total[t][v] = first[v];
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
  if (finish)
    UNROLL for (int t = 0; t < count; t++)
      UNROLL for (int v = 0; v < vectors; v++)
        total[t][v] = NAME(finished)(finish, total[t][v], result + t * s->result + v * LANES, left - v * LANES);
  UNROLL for (int t = 0; t < count; t++)
    UNROLL for (int v = 0; v < vectors; v++) {
      int64_t at = t * s->result + v * LANES;
      if (!half && s->onto) total[t][v] += *(const VEC *)(result + at);
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
  VEC total[12], first = s->finish ? *(const VEC *)s->bias : (VEC){0};
  UNROLL for (int t = 0; t < count; t++) total[t] = first;
  int64_t step = s->pixel * 4;
  for (int64_t r = 0; r < s->rows; r++)
    for (int64_t k = 0; k < s->taps; k++) {
      const char *x[4]; /* as in `sum` */
      const float *w = s->w[r] + k * s->tap_w;
      x[0] = (const char *)(s->x[r] + start + k * s->tap_x);
      UNROLL for (int i = 1; i < 4; i++) x[i] = x[i - 1] + 3 * step;
      for (int64_t c = 0; c < s->run; c++, w += LANES) {
        HIDE(step);
        VEC these = *(const VEC *)w;
        UNROLL for (int t = 0; t < count; t++)
          total[t] += *(const VEC *)(x[t / 3] + t % 3 * step) * these;
        UNROLL for (int i = 0; i < 4; i++) x[i] += 4 * LANES;
      }
    }
  if (s->finish)
    UNROLL for (int t = 0; t < count; t++)
      total[t] = NAME(finished)(s->finish, total[t], result + t * s->result, left);
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

/* The instances, and the table to find them in. */

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
const Tiles NAME(tiles) = {
  {ALL(SUM_ENTRY)}, {ALL(ADD_ENTRY)}, {BY_ROWS(ROWS_ENTRY)},
  {EACH(SUM_EACH_ENTRY)}, {ONE_ROW(ADD_EACH_ENTRY) BY_ROWS(ADD_EACH_ENTRY)},
#ifdef TWO_PRODUCTS
  {ALL(SUM_HALF_ENTRY)}, {ALL(ADD_HALF_ENTRY)}, {BY_ROWS(ROWS_HALF_ENTRY)},
#endif
};
