/* The gradient of a kernel in no groups, tap by tap: a sum of outer products of pixels of x and y.
 *
 * A chunk makes a block of a tap's kernel from some pixels. For PIXELS of them at a time it copies x
 * and y into panels, whose lines are as wide as a tile: they stay in the second cache, and what a tile
 * of `add` reads is in order. Meanwhile the next pixels are fetched. */

#pragma once
#include "rows.h"
#include "levels.h"

enum { PIXELS = 128, SIDE = 256 };

/* Features of x that a chunk sums up, in whole panels, and the numbers of blocks of both. */
static int64_t outer_height(const Job *j) {
  int64_t width = j->kernels->most / 2, panels = divide_up(j->C, width);
  return divide_up(panels, divide_up(panels * width, SIDE + width)) * width;
}
static int64_t outer_lines(const Job *j) { return divide_up(j->C, outer_height(j)); }
static int64_t outer_blocks(const Job *j) { return divide_up(j->D, SIDE); }

/* Where x meets a tap and some pixels of y, from feature c on; `none` is outside. */
static void find_pixels(const Job *j, int64_t net, int64_t tap, int64_t pixel, int64_t count, int64_t c,
                        const float *none, const float **to) {
  const Axis *z = &j->z, *h = &j->h, *w = &j->w;
  int64_t tap_w = tap % w->window, tap_h = tap / w->window % h->window;
  for (int64_t end = pixel + count; pixel < end;) {
    int64_t line = pixel / w->out, first = pixel % w->out, plane = line / h->out;
    int64_t frame = meet(z, plane % z->out, tap / w->window / h->window);
    int64_t row = meet(h, line % h->out, tap_h);
    int64_t image = (net * j->batch + plane / z->out) * z->in + frame;
    const float *from = j->a + (image * h->in + row) * w->in * j->C + c;
    for (int64_t i = first; i < w->out && pixel < end; i++, pixel++) {
      int64_t at = i * w->step + tap_w * w->dilation + w->offset;
      *to++ = MIN(frame, row) >= 0 && at >= 0 && at < w->in ? from + at * j->C : none;
    }
  }
}

static int outer(Work *work, int64_t chunk) {
  const Job *j = (Job *)work;
  const Kernels *k = j->kernels;
  int64_t lanes = k->lanes, width = k->most / 2, wide = 2 * lanes, height = outer_height(j);
  int64_t blocks = outer_blocks(j), both = outer_lines(j) * blocks;
  int64_t pixels = j->planes * j->h.out * j->w.out, part = chunk % j->split.parts;
  int64_t block = chunk / j->split.parts % both, tap = chunk / j->split.parts / both % j->window;
  int64_t net = chunk / j->split.parts / both / j->window, c0 = block / blocks * height;
  int64_t d0 = block % blocks * SIDE, C = MIN(height, j->C - c0), D = MIN(SIDE, j->D - d0);
  int64_t first = pixels * part / j->split.parts, last = pixels * (part + 1) / j->split.parts;
  int64_t depth = MIN(PIXELS, last - first), panel = depth * width + lanes, plane = depth * wide;
  int64_t all = divide_up(C, width) * divide_up(D, wide);
  const int64_t sizes[] = {height / width * panel, divide_up(D, wide) * plane, C};
  float *memory[3];
  float part_sum[14 * 32];
  const float *x, *y;
  if (!allocate(3, sizes, memory)) return 0;
  memset(memory[2], 0, C * sizeof(float));
  float *sums = j->scratch ? j->scratch : j->out;
  sums += (((net * j->split.parts + part) * j->window + tap) * j->C + c0) * j->split.block + d0;
  for (int64_t c = 0; c < C; c++) memset(sums + c * j->split.block, 0, round_up(D, lanes) * sizeof(float));
  Add a = {.x = &x, .y = &y, .rows = 1, .step_x = width, .step_y = wide, .width = wide};
  const float *found[2][PIXELS], **pixel = found[0], **next = found[1];
  find_pixels(j, net, tap, first, depth, c0, memory[2], pixel);
  for (int64_t p = first; p < last; p += depth) {
    const float *from = j->b + (net * pixels + p) * j->D + d0;
    a.columns = MIN(depth, last - p);
    for (int64_t i = 0; i < a.columns; i++) {
      k->panels(pixel[i], C, width, panel, memory[0] + i * width);
      k->panels(from + i * j->D, D, wide, plane, memory[1] + i * wide);
    }
    int64_t some = MIN(depth, last - p - a.columns), tile = 0, fetched = 0;
    find_pixels(j, net, tap, p + a.columns, some, c0, memory[2], next);
    y = memory[1];
    for (int64_t d = 0; d < D; d += wide, y += plane) {
      AddTile *const *tiles = k->tiles->add[D - d > lanes];
      x = memory[0];
      for (int64_t c = 0; c < C; c += width, x += panel) {
        for (tile++; fetched < some * tile / all; fetched++) {
          fetch(next[fetched], 0, 1, C);
          fetch(from + (depth + fetched) * j->D, 0, 1, D);
        }
        /* a sum of few pixels at a time loses fewer digits */
        int64_t lines = MIN(width, C - c), features = MIN(wide, round_up(D - d, lanes));
        memset(part_sum, 0, lines * wide * sizeof(float));
        tiles[lines](&a, 0, 0, part_sum);
        for (int64_t line = 0; line < lines; line++) {
          float *to = sums + (c + line) * j->split.block + d;
          for (int64_t i = 0; i < features; i++) to[i] += part_sum[line * wide + i];
        }
      }
    }
    const float **swap = pixel;
    pixel = next, next = swap;
  }
  free_vectors(memory[0]);
  return 1;
}

/* Divides the work, by numbers that do not depend on the number of threads. */
static int prepare_outer(Job *j) {
  int64_t lanes = j->kernels->lanes, pixels = j->planes * j->h.out * j->w.out;
  Axis *axes[] = {&j->z, &j->h, &j->w};
  int whole = j->window == 1; /* each pixel of x meets one of y */
  for (int i = 0; i < 3; i++)
    whole &= axes[i]->in == axes[i]->out && axes[i]->step == 1 && axes[i]->offset == 0;
  if (whole) {
    j->z = j->h = (Axis){1, 1, 1, 1, 1, 0, 1};
    j->w = (Axis){pixels, pixels, 1, 1, 1, 0, 1};
    j->batch = j->planes = 1;
  }
  j->work.run = outer;
  j->depth = j->C;
  j->split.block = round_up(j->D, lanes);
  j->split.blocks = 1;
  int64_t each = j->nets * j->window * outer_lines(j) * outer_blocks(j);
  j->split.parts = MAX(1, MIN((7 + each) / each, pixels / 64));
  j->work.chunks = each * j->split.parts;
  int64_t size = j->nets * j->split.parts * j->window * j->C * j->split.block;
  return (j->split.parts == 1 && j->split.block == j->D) || allocate(1, &size, &j->scratch);
}
