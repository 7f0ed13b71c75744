/* Results of Winograd's convolution that are computed directly; see winograd_far.h. Their tiles are copied
 * as float32, with zeros outside. */

#pragma once
#include "winograd_job.h"

static void copy_pixel(const Images *a, const float *pixel, int64_t features, float *to) {
  const uint16_t *halves = (const uint16_t *)pixel;
  if (!a->half) memcpy(to, pixel, features * sizeof(float));
  else for (int64_t c = 0; c < features; c++) to[c] = float_of(halves[c]);
}

/* Copies a square, some features of each pixel, `stride` apart. */
static void copy_square(const Images *a, Place corner, int size, int64_t feature, int64_t features,
                        int64_t stride, float *to) {
  for (int i = 0; i < size * size; i++, to += stride) {
    Place at = within(corner, i, size);
    if (is_inside(a, at)) copy_pixel(a, pixel_of(a, at, feature), features, to);
    else memset(to, 0, features * sizeof(float));
  }
}

/* Rounds to bfloat16, to an even one between two. */
static uint16_t half_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return x != x ? 0x7fc0 : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Writes some features of a pixel. */
static void put_pixel(const Images *a, const float *from, int64_t features, float *pixel) {
  uint16_t *halves = (uint16_t *)pixel;
  if (!a->half) memcpy(pixel, from, features * sizeof(float));
  else for (int64_t i = 0; i < features; i++) halves[i] = half_of(from[i]);
}

/* The weights of some features of results as (9, C, width), as `sum` reads them. */
static void pack_taps(const Winograd *j, int64_t net, int64_t d, int64_t width, float *to) {
  int64_t C = j->C, D = j->D, some = MIN(width, D - d);
  const float *from = j->weights + net * TAPS * C * D;
  for (int64_t tap = 0; tap < TAPS; tap++, to += C * width) {
    if (j->kind == INPUT) { /* they are (3, 3, D, C), to be reversed */
      j->kernels->pack(from + ((TAPS - 1 - tap) * D + d) * C, C, some, C, 1, to);
      continue;
    }
    for (int64_t c = 0; c < C; c++) {
      memcpy(to + c * width, from + (tap * C + c) * D + d, some * sizeof(float));
      memset(to + c * width + some, 0, (width - some) * sizeof(float));
    }
  }
}

/* The columns of a row of a tile from the first to the last that are direct, and how many these are. */
static int columns_of(const Winograd *j, int direct, int row, int *first) {
  int columns = direct >> (row * j->m) & ((1 << j->m) - 1), last = j->m;
  if (!columns) return 0;
  for (*first = 0; !(columns >> *first & 1);) ++*first;
  while (!(columns >> (last - 1) & 1)) last--;
  return last - *first;
}

/* Writes some features of neighboring results, with what follows them. */
static void finish_sums(const Winograd *j, const Sum *s, int count, int vectors, int64_t some, float *to) {
  Sum last = *s;
  last.result = j->D;
  j->kernels->tiles->sum[vectors - 1][count](&last, 0, to, some);
  if (j->finish->activate) j->finish->activate(to, count, j->D, some);
}

/* Some features of results of a tile, from a copy of what it reads. */
static void sum_tile(const Winograd *j, const float *copy, const float *packed, int64_t width, int direct,
                     Place to, int64_t d) {
  int64_t C = j->C, some = MIN(width, j->D - d);
  int vectors = (int)(width / j->kernels->lanes);
  const float *x[3], *w[3];
  float sums[4 * 32];
  Sum s = {
    .x = x, .w = w, .rows = 3, .taps = 3, .run = C, .tap_x = C, .tap_w = C * width, .pixel = C,
    .result = width, .finish = j->finish, .bias = j->finish ? j->finish->bias + d : NULL,
  };
  for (int r = 0; r < 3; r++) w[r] = packed + r * 3 * C * width;
  for (int row = 0; row < MIN(j->m, j->to.rows - to.row); row++) {
    int first = 0, count = columns_of(j, direct, row, &first);
    count = (int)MIN(count, j->to.columns - to.column - first);
    if (count <= 0) continue;
    for (int r = 0; r < 3; r++) x[r] = copy + ((row + r) * j->n + first) * C;
    if (j->finish) {
      Place first_one = {to.image, to.row + row, to.column + first};
      finish_sums(j, &s, count, vectors, some, pixel_of(&j->to, first_one, d));
      continue;
    }
    j->kernels->tiles->sum[vectors - 1][count](&s, 0, sums, width);
    for (int i = 0; i < count; i++) {
      float *pixel = pixel_of(&j->to, (Place){to.image, to.row + row, to.column + first + i}, d);
      put_pixel(&j->to, sums + i * width, some, pixel);
    }
  }
}

/* Those results of some tiles that are direct, or all without `direct`, features d0 to d1. 0 if there is no
 * memory. */
static int direct_sums(const Winograd *j, int64_t net, int64_t t0, int64_t count, const uint16_t *direct,
                       int64_t d0, int64_t d1) {
  int64_t C = j->C, lanes = j->kernels->lanes;
  float *memory[2];
  if (!allocate(2, (int64_t[]){TAPS * C * 2 * lanes, j->n * j->n * C}, memory)) return 0;
  for (int64_t d = d0; d < d1;) {
    int64_t width = j->kind == INPUT || d1 - d > lanes ? 2 * lanes : lanes; /* of panels */
    pack_taps(j, net, d, width, memory[0]);
    for (int64_t t = 0; t < count; t++) {
      if (direct && !direct[t]) continue;
      copy_square(&j->from, source_of(j, t0 + t), j->n, 0, C, C, memory[1]);
      sum_tile(j, memory[1], memory[0], width, direct ? direct[t] : 0xffff, result_of(j, t0 + t), d);
    }
    d += width;
  }
  free_vectors(memory[0]);
  return 1;
}

/* Adds a tile to the gradient of the kernel, (9, C, wide), from copies of what it reads and of the
 * gradient of y. */
static void add_tile(const Winograd *j, Place to, const float *x, const float *y, int64_t wide, float *sum) {
  const Kernels *k = j->kernels;
  const float *x_rows[4], *y_rows[4];
  Add a = {
    .x = x_rows, .y = y_rows, .rows = MIN(j->m, j->to.rows - to.row),
    .columns = MIN(j->m, j->to.columns - to.column), .step_x = j->C, .step_y = wide, .width = wide,
  };
  for (int row = 0; row < j->m; row++) y_rows[row] = y + row * j->m * wide;
  for (int tap = 0; tap < TAPS; tap++) {
    for (int row = 0; row < j->m; row++) x_rows[row] = x + ((row + tap / 3) * j->n + tap % 3) * j->C;
    for (int64_t c = 0; c < j->C; c += k->most)
      for (int64_t d = 0; d < wide; d += k->lanes)
        k->tiles->add[0][MIN(k->most, j->C - c)](&a, c, d, sum + (tap * j->C + c) * wide + d);
  }
}

/* Adds what is direct of some tiles. 0 if there is no memory. */
static int add_direct(const Winograd *j, int64_t t0, int64_t count, const uint16_t *direct, int64_t d0,
                      int64_t wide, float *sum) {
  int64_t C = j->C, gradients = j->m * j->m * wide;
  float *memory[2];
  if (!allocate(2, (int64_t[]){j->n * j->n * C, gradients}, memory)) return 0;
  memset(memory[1], 0, gradients * sizeof(float));
  for (int64_t t = 0; t < count; t++) {
    if (!direct[t]) continue;
    Place to = result_of(j, t0 + t);
    copy_square(&j->from, source_of(j, t0 + t), j->n, 0, C, C, memory[0]);
    copy_square(&j->to, to, j->m, d0, MIN(wide, j->D - d0), wide, memory[1]);
    add_tile(j, to, memory[0], memory[1], wide, sum);
  }
  free_vectors(memory[0]);
  return 1;
}
