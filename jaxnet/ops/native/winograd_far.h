/* Which results of Winograd's convolution are computed directly.
 *
 * A transform mixes all numbers of a tile. If one of them is not finite, so are all results of the tile;
 * if one is far above the others, its rounding errors are larger than results that do not see it. But a
 * result must depend on its window alone: what others see changes it by at most 1e-5 of the largest
 * result of the input before the change.
 *
 * So how far may a number be above what a result sees? Let |tile| and |window| be the roots of the sums of
 * squares of what a tile reads and of what one of its results sees, and |w| the size of a weight.
 *
 * - Each of the 36 sums of a tile of 4 is a sum of products of size |tile| |w|, whose rounding errors do not
 *   cancel as the products do. So a result changes by at most about leak * |tile| |w|, where `leak` is a
 *   few roundings of 6e-8 times the growth by the transforms, and grows with the root of the number of
 *   products that are added in a row, at most RUN.
 * - The largest result before the change is at least about |window| |w|, since the window is the same.
 *
 * The change is within 1e-5 of the largest result if leak * |tile| <= 1e-5 * |window|, so a result is direct
 * if
 *
 *     |tile|^2 > far * |window|^2,    far = (1e-5 / leak)^2.
 *
 * The size of `leak` is measured by random cases with a number that is 3 to 2000
 * times as large as others, in images of 8x8: no other result may change by more than leak * |tile| /
 * |window| times the largest. A window of zeros does not count: its result is set to 0.
 *
 * While a tile is transformed, its squares are summed in registers, by cells of 2x2 pixels. Each window has
 * a whole cell, so a tile with |tile|^2 <= far * |cell|^2 for all cells is not far. Others are looked at.
 *
 * Results at the border do not see all weights. If the squares of the weights of a tap are as far below
 * those of another tap, or 0, or not finite, the whole convolution is direct.
 *
 * The gradient of the kernel is a sum over tiles, and its rounding errors are compared with all of a block of
 * tiles. What a tap does not see are numbers at the border, and those that it meets with zeros, as a masked
 * loss has them. So tiles at the border, and those that are not known to be near, are doubtful. Such a tile
 * is direct if |x|^2 |y|^2 is above `far` times the mean over the block of what each tap sees of it. */

#pragma once
#include <math.h>
#include "winograd_job.h"

enum { RUN = 128 };

/* Squares of numbers that are smaller or larger lose digits, or the products of Winograd's sums do. */
static const double LEAST = 1e-28, MOST_X = 1e34, MOST_W = 1e20, MOST_PRODUCT = 1e60;

/* The square of FAR. */
static float far_of(const Winograd *j) {
  double leak = 5.4e-7 + 1.2e-7 * sqrt((double)MIN(j->C, RUN));
  if (j->m == 2) leak /= j->kind == KERNEL ? 2 : 8;
  return (float)(1e-10 / (leak * leak));
}

/* What is known about the tiles of a block. Results are bits. */
typedef struct {
  int far; /* whether something is direct */
  uint16_t direct[MOST_TILES], zeros[MOST_TILES]; /* results, for KERNEL all or none; those that see zeros */
  uint8_t doubtful[MOST_TILES];                   /* for KERNEL: may have what a tap does not see */
  double read[MOST_TILES], given[MOST_TILES];     /* sums of squares of x, and of the gradient of y */
} Looks;

enum { WHOLE = 0xffff };

static void mark_direct(Looks *l, int64_t place, uint16_t results) {
  l->far |= results != 0;
  l->direct[place] |= results;
}

/* Sums of squares of the pixels of a tile and of all, for numbers times a scale. */
typedef struct {
  float pixels[MOST_READ * MOST_READ], all, scale;
} TileSquares;

/* The bits of the largest absolute value of a pixel; for what is not a number, larger than infinity's. */
static int32_t largest_of(const Images *a, const float *pixel) {
  const uint16_t *halves = (const uint16_t *)pixel;
  int32_t found = 0, bits;
  for (int64_t c = 0; c < a->features; c++) {
    if (a->half) bits = (int32_t)((uint32_t)halves[c] << 16);
    else memcpy(&bits, pixel + c, sizeof bits);
    found = MAX(found, bits & INT32_MAX);
  }
  return found;
}

/* A power of two that brings the largest number of a tile near 1, unless it is larger. */
static float scale_of(const Winograd *j, Place from) {
  int32_t top = 0;
  float largest;
  for (int i = 0; i < j->n * j->n; i++) {
    Place at = within(from, i, j->n);
    if (is_inside(&j->from, at)) top = MAX(top, largest_of(&j->from, pixel_of(&j->from, at, 0)));
  }
  memcpy(&largest, &top, sizeof largest);
  return largest > 0 && largest < 1 ? ldexpf(1, MIN(126, -ilogbf(largest))) : 1;
}

static void add_up(const Winograd *j, Square *in, TileSquares *t) {
  j->kernels->squares[j->from.half][j->m / 4](in, t->scale, t->pixels);
  float rows[MOST_READ] = {0};
  for (int i = 0; i < j->n * j->n; i++) rows[i % j->n] += t->pixels[i];
  t->all = 0;
  for (int i = 0; i < j->n; i++) t->all += rows[i];
}

static TileSquares squares_of(const Winograd *j, int64_t tile) {
  TileSquares found = {.scale = 1};
  Square in = {.features = j->C};
  Place from = source_of(j, tile);
  find_square(j, &j->from, from, j->n, 0, &in);
  add_up(j, &in, &found);
  if (found.all > 0 && found.all < LEAST) {
    found.scale = scale_of(j, from);
    add_up(j, &in, &found);
  }
  return found;
}

/* Where `put_sums` writes a sum. */
static int place_of(int64_t lanes, int sum) {
  int place = 0;
  for (int64_t left = sum % lanes, bits = 1; bits < lanes; bits *= 2, left /= 2) place = 2 * place + left % 2;
  return (int)(sum / lanes * lanes) + place;
}

/* Whether the sums of squares of cells say that a tile is near: each window, and of a gradient each part
 * that a tap sees, has a whole cell. These are lines 0 and 1, 2 and 3, 4 and 5 or, in a tile of 2, line 1
 * or 2. */
static int is_near(const Winograd *j, const float *sums, double *all) {
  const int *cell = j->cell;
  float least, total;
  if (j->m == 4) {
    least = total = sums[cell[0]];
    for (int i = 1; i < 9; i++) total += sums[cell[i]], least = MIN(least, sums[cell[i]]);
  } else {
    least = total = sums[cell[1]];
    for (int i = 2; i < 5; i++) total += sums[cell[i]], least = MIN(least, sums[cell[i]]);
    total += sums[cell[0]];
  }
  *all = total;
  return j->far * least - total > LEAST;
}

/* The same at the border, where cells that no result sees do not count. */
static int is_near_at_border(const Winograd *j, Place to, const float *sums, double *all) {
  static const int8_t line[2][3] = {{1, 2, 4}, {1, 2}};
  int64_t rows = j->to.rows - to.row, columns = j->to.columns - to.column;
  int first = j->m == 2, axis = 3 - first;
  float least = INFINITY, total = first ? sums[0] : 0;
  for (int i = 0; i < axis * axis; i++) {
    float cell = sums[j->cell[first + i]];
    total += cell;
    if (line[first][i / axis] <= rows && line[first][i % axis] <= columns) least = MIN(least, cell);
  }
  *all = total;
  return j->far * least - total > LEAST;
}

/* The sum of squares of a tile, also of tiny numbers. */
static double all_squares(const Winograd *j, int64_t tile) {
  TileSquares found = squares_of(j, tile);
  return found.all / ((double)found.scale * found.scale);
}

/* Looks at a tile whose sums do not say that it is near: which of its windows are far below it. */
static void look_at(const Winograd *j, int64_t tile, int64_t place, Looks *l) {
  TileSquares found = squares_of(j, tile);
  Place to = result_of(j, tile);
  float rows[MOST_READ][4];
  if (found.all == 0) {
    if (!j->finish) l->zeros[place] = WHOLE; /* the bias of `finish` is written for them */
    return;
  }
  if (!(found.all < MOST_X)) mark_direct(l, place, WHOLE);
  for (int i = 0; i < j->n * j->m; i++) {
    const float *three = found.pixels + i / j->m * j->n + i % j->m;
    rows[i / j->m][i % j->m] = three[0] + three[1] + three[2];
  }
  for (int i = 0; i < j->m * j->m; i++) {
    int row = i / j->m, column = i % j->m;
    float window = rows[row][column] + rows[row + 1][column] + rows[row + 2][column];
    if (window == 0 && !j->finish) l->zeros[place] |= (uint16_t)(1 << i);
    else if (found.all > j->far * window && is_inside(&j->to, within(to, i, j->m)))
      mark_direct(l, place, (uint16_t)(1 << i));
  }
}

/* Whether pixels of a tile of x or of y are at the border, where some taps do not see them. */
static int is_at_border(const Winograd *j, Place to) {
  return to.row == 0 || to.row + j->m >= j->to.rows || to.column == 0 || to.column + j->m >= j->to.columns;
}

/* The sum of squares of the gradient of y, some features of a pixel. */
static double squares_given(const Winograd *j, Place at, int64_t d0, int64_t features) {
  const float *pixel = pixel_of(&j->to, at, d0);
  const uint16_t *halves = (const uint16_t *)pixel;
  double sum = 0;
  if (!j->to.half) sum = j->kernels->dot(pixel, pixel, features);
  if (sum > LEAST) return sum;
  sum = 0;
  for (int64_t d = 0; d < features; d++) {
    double one = j->to.half ? float_of(halves[d]) : pixel[d];
    sum += one * one;
  }
  return sum;
}

/* These sums for each gradient that a tile has; returns their sum. */
static double squares_by_pixel(const Winograd *j, int64_t tile, int64_t d0, int64_t features, double *to) {
  double all = 0;
  for (int i = 0; i < j->m * j->m; i++) {
    Place at = within(result_of(j, tile), i, j->m);
    to[i] = is_inside(&j->to, at) ? squares_given(j, at, d0, features) : 0;
    all += to[i];
  }
  return all;
}

/* The least sum of products of squares that a tap sees of a tile, for a window. */
static double least_of_taps(const Winograd *j, int64_t tile, int64_t d0, int64_t features) {
  TileSquares x = squares_of(j, tile);
  double given[16], least = INFINITY;
  squares_by_pixel(j, tile, d0, features, given);
  for (int tap = 0; tap < TAPS; tap++) {
    double sum = 0;
    for (int i = 0; i < j->m * j->m; i++)
      sum += x.pixels[(i / j->m + tap / 3) * j->n + i % j->m + tap % 3] * given[i];
    least = MIN(least, sum);
  }
  return TAPS * least / ((double)x.scale * x.scale);
}

/* The largest product of a doubtful tile, and what taps see of the others: as much as a tap that sees a
 * quarter of them, a window. Sums below LEAST count as LEAST, or as 0. */
static double compare_tiles(const Looks *l, int64_t count, double *seen) {
  double top = 0;
  *seen = 0;
  for (int64_t t = 0; t < count; t++) {
    if (l->direct[t]) continue;
    if (!l->doubtful[t]) *seen += l->read[t] * l->given[t] / 4;
    else top = MAX(top, MAX(l->read[t], LEAST) * MAX(l->given[t], LEAST));
  }
  return top;
}

/* Finds which tiles are direct in the gradient of the kernel. */
static void compare_gradients(const Winograd *j, Looks *l, int64_t t0, int64_t count, int64_t d0,
                              int64_t features) {
  double seen, far = j->far / (double)count, given[16];
  for (int64_t t = 0; t < count; t++) {
    double read = l->read[t], by_y = l->given[t];
    if (!(read < MOST_X && by_y < MOST_X && read * by_y < MOST_PRODUCT)) mark_direct(l, t, WHOLE);
  }
  double top = compare_tiles(l, count, &seen);
  for (int64_t t = 0; t < count && top > far * seen; t++)
    if (l->doubtful[t] && !l->direct[t]) seen += least_of_taps(j, t0 + t, d0, features);
  for (int64_t t = 0; t < count && top > far * seen; t++) {
    if (!l->doubtful[t] || l->direct[t]) continue;
    if (l->read[t] < LEAST) l->read[t] = all_squares(j, t0 + t);
    if (l->given[t] < LEAST) l->given[t] = squares_by_pixel(j, t0 + t, d0, features, given);
    if (l->read[t] * l->given[t] > far * seen) mark_direct(l, t, WHOLE);
  }
}

/* Sums the squares of a part of a net's weights, by tap. */
static void measure_weights(const Winograd *j, int64_t net, int64_t part) {
  int64_t size = j->C * j->D, parts = j->split.first_chunks;
  int64_t first = size * part / parts, count = size * (part + 1) / parts - first;
  for (int64_t tap = 0; tap < TAPS; tap++) {
    const float *from = j->weights + (net * TAPS + tap) * size + first;
    j->taps[(net * parts + part) * TAPS + tap] = j->kernels->dot(from, from, count);
  }
}

/* Whether some weights of a net are far above others; all parts are measured. */
static int has_far_weights(const Winograd *j, int64_t net) {
  double least = INFINITY, most = 0;
  for (int64_t tap = 0; tap < TAPS; tap++) {
    double sum = 0;
    for (int64_t part = 0; part < j->split.first_chunks; part++)
      sum += j->taps[(net * j->split.first_chunks + part) * TAPS + tap];
    if (!(sum < MOST_W)) return 1;
    least = MIN(least, sum);
    most = MAX(most, sum);
  }
  return most < LEAST || most > j->far * least;
}
