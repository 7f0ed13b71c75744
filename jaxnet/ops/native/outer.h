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

/* A block of a tap's kernel, from features c and d on, and the pixels that a chunk sums up for it. */
typedef struct {
  int64_t net, tap, c, C, d, D, part, first, last;
  int64_t depth; /* pixels at a time */
} OuterBlock;

static OuterBlock outer_block(const Job *j, int64_t chunk) {
  int64_t parts = j->split.parts, part = chunk % parts, height = outer_height(j);
  int64_t blocks = outer_blocks(j), both = outer_lines(j) * blocks, block = chunk / parts % both;
  int64_t pixels = j->planes * j->h.out * j->w.out;
  int64_t c = block / blocks * height, d = block % blocks * SIDE;
  int64_t first = pixels * part / parts, last = pixels * (part + 1) / parts;
  return (OuterBlock){
    .net = chunk / parts / both / j->window, .tap = chunk / parts / both % j->window,
    .c = c, .C = MIN(height, j->C - c), .d = d, .D = MIN(SIDE, j->D - d),
    .part = part, .first = first, .last = last, .depth = MIN(PIXELS, last - first),
  };
}

/* The panels of some pixels of x and of y, and how far apart they are. */
typedef struct {
  float *x, *y;
  int64_t panel, plane, width, wide;
} OuterPanels;

/* What is needed soon: the next pixels of x, which are known, and of y. It is fetched in equal parts
 * while the tiles of the pixels before are summed up. */
typedef struct {
  const float *const *x, *y;
  int64_t count, tiles, tile, fetched;
} Soon;

static void fetch_soon(const Job *j, const OuterBlock *b, Soon *s) {
  for (s->tile++; s->fetched < s->count * s->tile / s->tiles; s->fetched++) {
    fetch(s->x[s->fetched], 0, 1, b->C);
    fetch(s->y + s->fetched * j->D, 0, 1, b->D);
  }
}

/* Adds the outer products of `count` pixels to the sums of a block. */
static void add_outer(const Job *j, const OuterBlock *b, const OuterPanels *p, int64_t count, Soon *soon,
                      float *sums) {
  const Kernels *k = j->kernels;
  int64_t lanes = k->lanes, width = p->width, wide = p->wide, line = j->split.block;
  const float *x, *y = p->y;
  float part_sum[14 * 32];
  Add a = {
    .x = &x, .y = &y, .rows = 1, .columns = count, .step_x = width, .step_y = wide, .width = wide,
  };
  for (int64_t d = 0; d < b->D; d += wide, y += p->plane) {
    AddTile *const *tiles = k->tiles->add[b->D - d > lanes];
    x = p->x;
    for (int64_t c = 0; c < b->C; c += width, x += p->panel) {
      fetch_soon(j, b, soon);
      /* a sum of few pixels at a time loses fewer digits */
      int64_t lines = MIN(width, b->C - c), features = MIN(wide, round_up(b->D - d, lanes));
      memset(part_sum, 0, lines * wide * sizeof(float));
      tiles[lines](&a, 0, 0, part_sum);
      for (int64_t r = 0; r < lines; r++) {
        float *to = sums + (c + r) * line + d;
        for (int64_t i = 0; i < features; i++) to[i] += part_sum[r * wide + i];
      }
    }
  }
}

static int outer(Work *work, int64_t chunk) {
  const Job *j = (Job *)work;
  const Kernels *k = j->kernels;
  OuterBlock b = outer_block(j, chunk);
  int64_t pixels = j->planes * j->h.out * j->w.out, lanes = k->lanes;
  OuterPanels p = {.width = k->most / 2, .wide = 2 * lanes};
  p.panel = b.depth * p.width + lanes, p.plane = b.depth * p.wide;
  int64_t columns = divide_up(b.D, p.wide), tiles = divide_up(b.C, p.width) * columns;
  const int64_t sizes[] = {outer_height(j) / p.width * p.panel, columns * p.plane, b.C};
  float *memory[3];
  if (!allocate(3, sizes, memory)) return 0;
  p.x = memory[0], p.y = memory[1];
  const float *none = memset(memory[2], 0, b.C * sizeof(float));
  float *sums = j->scratch ? j->scratch : j->out;
  sums += (((b.net * j->split.parts + b.part) * j->window + b.tap) * j->C + b.c) * j->split.block + b.d;
  for (int64_t c = 0; c < b.C; c++) memset(sums + c * j->split.block, 0, round_up(b.D, lanes) * sizeof(float));
  const float *found[2][PIXELS], **now = found[0], **next = found[1];
  find_pixels(j, b.net, b.tap, b.first, b.depth, b.c, none, now);
  for (int64_t pixel = b.first; pixel < b.last; pixel += b.depth) {
    const float *y = j->b + (b.net * pixels + pixel) * j->D + b.d;
    int64_t count = MIN(b.depth, b.last - pixel), left = MIN(b.depth, b.last - pixel - count);
    for (int64_t i = 0; i < count; i++) {
      k->panels(now[i], b.C, p.width, p.panel, p.x + i * p.width);
      k->panels(y + i * j->D, b.D, p.wide, p.plane, p.y + i * p.wide);
    }
    find_pixels(j, b.net, b.tap, pixel + count, left, b.c, none, next);
    Soon soon = {.x = next, .y = y + b.depth * j->D, .count = left, .tiles = tiles};
    add_outer(j, &b, &p, count, &soon, sums);
    const float **swap = now;
    now = next, next = swap;
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
