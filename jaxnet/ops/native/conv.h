/* Convolutions of float32 or bfloat16 arrays (nets, batch, frames, rows, columns, features) and their
 * two gradients, as a handler of XLA's foreign function interface.
 *
 * Results and both operands are those of `jaxnet.ops.convolution`. The value and the gradient of
 * the input are the same sum, over the taps of the kernel and the features of an array that is
 * read. The gradient of the kernel is a sum over the positions. Rows of the array that is read are
 * copied with the zeros around them while they are needed, unless there are none.
 *
 * bfloat16 are multiplied in words of two, where the processor can, and summed in float32. The words
 * hold neighbors in the sum: two features of a pixel, or for the gradient of the kernel a feature of
 * two columns that meet neighbors of y. C and all distances count words. */

#pragma once
#include "half.h"
#include "outer.h"
#include "rows.h"
#include "levels.h"

enum { MOST_EACH = 12 }; /* pixels of a tile of `sum_each` */

/* Whether n floats or, with `half`, words are. */
static int all_finite(int half, const float *x, int64_t n) {
  int32_t found = 0, low = half ? 0x7f80 : -1;
  for (int64_t i = 0; i < n; i++) {
    int32_t bits;
    memcpy(&bits, x + i, 4);
    found |= (bits & 0x7f800000) == 0x7f800000 || (bits & low) == 0x7f80;
  }
  return !found;
}

/* How many output rows to compute before the next block of features, so that their inputs stay in
 * the first cache, or in the second where a block's weights fill the first. */
static int64_t rows_at_once(const Job *j, int64_t weights, int64_t row) {
  if (j->finish && j->merge.each) { /* a vector of the rows in the first cache, and all of them in the second */
    int64_t first = 24576 / (j->read.columns * j->kernels->lanes * 4), second = 393216 / (4 * row);
    int64_t most = (MIN(first, second) - j->h.window * j->h.dilation) / j->h.step;
    return divide_up(j->h.out, most < 1 ? j->h.out : divide_up(j->h.out, most));
  }
  int64_t budget = weights > 262144 ? 262144 : weights > 16384 ? 131072 : 24576;
  int64_t most = (budget / (4 * row) - j->h.window * j->h.dilation) * j->h.gaps / j->h.step;
  int64_t blocks = most < 1 ? j->h.out : (j->h.out + most - 1) / most;
  return (j->h.out + blocks - 1) / blocks;
}

/* What some rows of the result meet: `count` rows of what is read, and their places in the window, for
 * each at most `lines`. */
typedef struct {
  int64_t lines, *count, *line;
  const float **x;
} Operands;

static int open_operands(Operands *o, int64_t rows, int64_t lines) {
  o->lines = lines;
  o->x = zeros(rows * lines, sizeof(float *));
  o->count = zeros(rows * (lines + 1), sizeof(int64_t));
  o->line = o->count + rows;
  return o->x && o->count;
}

static void close_operands(Operands *o) {
  free(o->x);
  free(o->count);
}

/* Finds those of positions `top` to `end` of a plane of the result. */
static void find_operands(const Job *j, Rows *rows, int64_t plane, int64_t top, int64_t end, Operands *o) {
  const Axis *z = &j->z, *h = &j->h;
  for (int64_t p = top; p < end; p++) {
    int64_t found = 0, at = (p - top) * o->lines;
    for (int64_t k = 0; k < o->lines; k++) {
      int64_t frame = meet(z, plane % z->out, k / h->window), row = meet(h, p, k % h->window);
      if (MIN(frame, row) < (j->finite ? 0 : -1)) continue;
      o->x[at + found] = row_of(rows, plane / z->out, frame, row);
      o->line[at + found++] = k;
    }
    o->count[p - top] = found;
  }
}

/* Features of the result that are computed together, from d on. */
typedef struct {
  int64_t d, width;
  int vectors;
  const float *packed; /* their weights */
  const float **of_class;
} Features;

static void finish_tile(const Job *j, const Sum *s, float *to, int64_t count, const Features *b) {
  if (s->finish && s->finish->activate)
    s->finish->activate(to, count, s->result, MIN(b->width, j->D - b->d));
}

/* The weights of a tap of each line that a row of the result meets. */
static void find_weights(const Job *j, const Features *b, const Operands *o, int64_t row, int64_t tap) {
  for (int64_t r = 0; r < o->count[row]; r++) {
    int64_t place = o->line[row * o->lines + r] * j->w.window + tap;
    b->of_class[r] = b->packed + place * j->depth * b->width;
  }
}

/* A row of the result, for a block of features. */
static void sum_row(const Job *j, Sum *s, const Operands *o, int64_t row, const Features *b, float *result) {
  const Pattern *p = &j->pattern;
  const Kernels *k = j->kernels;
  SumTile *const(*sum)[29] = j->half ? k->tiles->sum_half : k->tiles->sum;
  SumTile *const *tile = j->merge.each ? k->tiles->sum_each : sum[b->vectors - 1];
  int64_t most = j->merge.each ? MOST_EACH : k->most / b->vectors, feature = j->merge.each ? b->d : 0;
  int fetches = s->finish && j->read.direct && j->window == 1 && b->d == 0;
  s->x = o->x + row * o->lines;
  s->w = b->of_class;
  s->rows = o->count[row];
  s->tap_w = p->tap * j->depth * b->width;
  for (int64_t i = 0; i < p->classes; i++) {
    const Class *c = p->class + i;
    find_weights(j, b, o, row, c->tap);
    s->taps = p->joined && c->taps ? 1 : c->taps;
    s->run = p->joined ? c->taps * j->depth : j->depth;
    int64_t first = j->read.cropped ? j->read.first : 0;
    int64_t columns = j->read.cropped ? j->read.last - first : c->count, tiles = divide_up(columns, most);
    for (int64_t t = 0; t < tiles; t++) { /* of almost equal size */
      int64_t at = first + columns * t / tiles, next = first + columns * (t + 1) / tiles, count = next - at;
      float *to = after(j->half, result, i * j->D * j->groups + at * s->result);
      if (fetches)
        fetch(s->x[0] + c->start * j->C + next * s->pixel, s->pixel, MIN(count, columns - next), j->C);
      tile[count](s, c->start * j->C + at * s->pixel + feature, to, j->D - b->d);
      finish_tile(j, s, to, count, b);
    }
  }
}

/* How many rows of the result from one on, at most `most`, meet all lines of the window. */
static int64_t whole_rows(const Operands *o, int64_t row, int64_t most) {
  int64_t count = 0;
  while (count < most && o->count[row + count] == o->lines) count++;
  return count;
}

/* The columns at the border of some rows of the result, where taps are left out: a column of several rows
 * at once, where these meet all lines of the window. */
static void sum_border(const Job *j, const Sum *s, const Operands *o, int64_t rows, const Features *b,
                       float *result) {
  const Axis *w = &j->w;
  int64_t line = w->out * j->D;
  Sum few = *s;
  few.w = b->of_class, few.run = 1, few.tap_w = b->width;
  few.pixel = j->h.step * w->in * j->C, few.result = line;
  for (int64_t t = 0; t < w->out; t++) {
    if (t == j->read.first) t = j->read.last;
    if (t >= w->out) break;
    int64_t from = t * w->step + w->offset, tap = from < 0 ? divide_up(-from, w->dilation) : 0;
    few.taps = MAX(0, MIN(w->window, divide_up(w->in - from, w->dilation)) - tap);
    for (int64_t row = 0, count; row < rows; row += count) {
      count = MAX(1, whole_rows(o, row, MIN(MOST_EACH, rows - row)));
      few.rows = o->count[row], few.x = o->x + row * o->lines;
      find_weights(j, b, o, row, tap);
      float *to = result + row * line + t * j->D;
      j->kernels->tiles->sum_each[count](&few, (from + tap * w->dilation) * j->C + b->d, to, j->D - b->d);
      finish_tile(j, &few, to, count, b);
    }
  }
}

/* The value, or the gradient of the input: rows first to last of all images of a net and group, and
 * features d0 to d1, in whole vectors. */
static int sums(Job *j, int64_t net, int64_t group, int64_t first, int64_t last, int64_t d0, int64_t d1) {
  const Axis *h = &j->h, *w = &j->w;
  int64_t lanes = j->kernels->lanes, stride = j->D * j->groups;
  int64_t weights = j->window * j->depth, lines = j->z.window * h->window;
  const float *packed = j->scratch + (net * j->groups + group) * weights * j->D_padded;
  int64_t at_once = rows_at_once(j, weights * MIN(2 * lanes, j->D_padded) * 4,
                                 j->read.columns * j->C * frames_at_once(j));
  int64_t needed = (at_once * h->step + h->window * h->dilation) / h->gaps + 2;
  Rows rows;
  Operands o;
  const float **of_class = zeros(lines, sizeof(float *));
  Sum s = {
    .tap_x = j->pattern.tap_x, .pixel = j->pattern.period * w->step / w->gaps * j->C,
    .result = j->pattern.period * stride, .finish = j->finish,
  };
  int ok = open_rows(&rows, j, net, group, needed) & open_operands(&o, at_once, lines) && of_class;
  for (int64_t block = first; ok && block < last;) {
    int64_t plane = block / h->out, top = block % h->out;
    int64_t end = MIN(MIN(top + at_once, h->out), top + last - block);
    find_operands(j, &rows, plane, top, end, &o);
    for (int64_t d = d0; d < d1;) {
      int vectors = !j->merge.each && d1 - d >= 2 * lanes ? 2 : 1;
      Features b = {d, vectors * lanes, vectors, packed + weights * d, of_class};
      if (s.finish) s.bias = s.finish->bias + group * j->D + d;
      int64_t row = ((net * j->planes + plane) * h->out + top) * w->out;
      float *result = after(j->half, j->out, row * stride + group * j->D + d);
      for (int64_t p = 0; p < end - top; p++)
        sum_row(j, &s, &o, p, &b, after(j->half, result, p * w->out * stride));
      if (j->read.cropped) sum_border(j, &s, &o, end - top, &b, result);
      d += b.width;
    }
    block += end - top;
  }
  close_rows(&rows);
  close_operands(&o);
  free(of_class);
  return ok;
}

/* The gradient of the kernel for a net, a group and a block of features of y: what its parts share. */
typedef struct {
  const Job *j;
  int64_t d0, padded;   /* the first feature, and their number in whole vectors */
  int64_t line, own;    /* numbers of a row of y, and how many there are from d0 on */
  int64_t size;         /* lines of the result for a row of the window */
  int64_t run, runs;    /* neighbors in memory that tiles multiply, and how many of these runs */
  int64_t at_once;      /* rows */
  int64_t pairs, reach; /* words of a row of y in bfloat16, and numbers that tiles read of a row */
  AddTile *const(*by_rows)[10], *const(*tiles)[29];
  const float *y, *end_y; /* from d0 on, and the end of all of y */
  const float **x_rows, **y_rows;
  int64_t *kept; /* which rows these are */
  float *copies; /* of rows of y: whole vectors reach beyond a row, so the last ones are copied */
  Rows rows;
  Add add;
} Gradient;

static void measure_gradient(Gradient *g, const Job *j, int64_t net, int64_t group, int64_t block) {
  const Kernels *k = j->kernels;
  int64_t stride = j->D * j->groups;
  int whole = j->pattern.joined || (j->merge.each && !j->merge.spread);
  g->j = j;
  g->d0 = block * j->split.block;
  g->padded = MIN(j->split.block, j->D_padded - g->d0);
  g->line = j->w.out * stride;
  g->own = g->line - group * j->D - g->d0;
  g->size = j->w.window * j->depth;
  g->run = whole ? g->size : j->depth;
  g->runs = whole ? 1 : j->w.window;
  g->by_rows = j->merge.each ? k->tiles->add_each : j->half ? k->tiles->add_rows_half : k->tiles->add_rows;
  g->tiles = j->half ? k->tiles->add_half : k->tiles->add;
  int64_t row = j->read.columns * j->C + j->w.out * g->padded / j->h.step;
  g->at_once = rows_at_once(j, j->h.window * g->size * g->padded * 4, row);
  g->pairs = (j->w.out + 1) / 2;
  g->reach = j->half ? g->pairs * g->padded : g->line - stride + g->padded;
  int64_t lines = j->planes * j->h.out;
  g->y = after(j->half, j->b, net * lines * g->line + group * j->D + g->d0);
  g->end_y = j->b + j->nets * lines * g->line;
}

/* Returns 0 without memory; close_gradient frees it in any case. */
static int open_gradient(Gradient *g, int64_t net, int64_t group, int64_t width) {
  const Job *j = g->j;
  int64_t copies = j->half ? g->at_once : MIN(g->at_once, g->padded / g->line + 2);
  g->x_rows = zeros(6 * g->at_once, sizeof(float *));
  g->y_rows = g->x_rows + 5 * g->at_once;
  g->kept = zeros(g->at_once, sizeof(int64_t));
  g->copies = zeros(copies * g->reach, sizeof(float));
  g->add = (Add){
    .x = g->x_rows, .y = g->y_rows, .columns = j->w.out, .step_x = j->w.step * j->C,
    .step_y = j->D * j->groups, .kernel = g->size * width, .width = width,
    .step_tap = j->merge.spread ? j->kernels->lanes : j->w.dilation * j->C,
  };
  if (j->half) g->add.columns = j->w.out / 2, g->add.step_x *= 2, g->add.step_y = g->padded;
  int64_t needed = g->at_once * j->h.step + j->h.window * j->h.dilation;
  return open_rows(&g->rows, j, net, group, needed) && g->x_rows && g->kept && g->copies;
}

static void close_gradient(Gradient *g) {
  close_rows(&g->rows);
  free(g->x_rows);
  free(g->kept);
  free(g->copies);
}

/* Some rows of y in bfloat16 as words of columns 2 c and 2 c + 1. */
static void pair_rows(Gradient *g, int64_t first, int64_t count) {
  const Job *j = g->j;
  int64_t stride = j->D * j->groups;
  for (int64_t p = 0; p < count; p++)
    for (int64_t c = 0; c < g->pairs; c++) {
      const uint16_t *one = (const uint16_t *)g->y + (first + p) * g->line + 2 * c * stride;
      j->kernels->pair(one, 2 * c + 1 < j->w.out ? one + stride : NULL,
                       MIN(g->padded, j->D - g->d0), g->padded,
                       g->copies + p * g->reach + c * g->padded);
    }
}

/* Rows `top` to `end` of y and what they meet of a frame by `together` rows of the window, from k on.
 * Rows of zeros are left out. */
static void find_rows(Gradient *g, int64_t plane, int64_t top, int64_t end, int64_t frame, int64_t k,
                      int64_t together) {
  const Job *j = g->j;
  const Axis *h = &j->h;
  float *copy = g->copies;
  int64_t rows = 0, own = j->half ? g->reach : g->own;
  for (int64_t p = top; p < end; p++) {
    const float *here = g->y + (plane * h->out + p) * g->line;
    if (j->half) here = g->copies + (p - top) * g->reach;
    int outside = frame < 0 || (together == 1 && meet(h, p, k) < 0);
    if (outside && all_finite(j->half, here, own)) continue;
    if (!j->half && g->end_y - here < g->reach) {
      here = memcpy(copy, here, MIN(own, g->reach) * sizeof(float));
      copy += g->reach;
    }
    g->y_rows[rows] = here;
    g->kept[rows++] = p;
  }
  g->add.rows = rows;
  for (int64_t i = 0; i < together; i++)
    for (int64_t r = 0; r < rows; r++)
      g->x_rows[i * rows + r] = row_of(&g->rows, plane / j->z.out, frame, meet(h, g->kept[r], k + i));
}

/* Adds some lines of the result, from line c of a run on, for one or two vectors of features. */
static void add_lines(const Gradient *g, AddTile *tile, int64_t i, int64_t c, int64_t d, float *to) {
  const Job *j = g->j;
  int64_t start = (i * j->w.dilation + j->w.offset - j->read.low) * j->C;
  start += j->merge.each ? c * g->add.step_tap + g->d0 + d : c;
  tile(&g->add, start, d, to);
  if (!j->read.alone) return;
  Add last_one = g->add;
  last_one.columns = 1;
  start = (j->read.columns + i * j->w.dilation) * j->C + c;
  tile(&last_one, start, (g->pairs - 1) * g->padded + d, to);
}

/* Adds what the found rows give to `together` rows of the window. */
static void add_rows(const Gradient *g, int64_t together, float *to) {
  const Job *j = g->j;
  const Kernels *k = j->kernels;
  int several = together > 1 || j->merge.each;
  for (int64_t d = 0; d < g->padded;) {
    int vectors = !several && g->padded - d >= 2 * k->lanes ? 2 : 1;
    int64_t most = together > 1 ? g->run : j->merge.each ? 9 : k->most / vectors;
    int64_t pieces = divide_up(g->run, most);
    for (int64_t i = 0; i < g->runs; i++)
      for (int64_t piece = 0; piece < pieces; piece++) {
        int64_t c = g->run * piece / pieces, count = g->run * (piece + 1) / pieces - c;
        AddTile *tile = several ? g->by_rows[together / 2][count] : g->tiles[vectors - 1][count];
        add_lines(g, tile, i, c, d, to + (i * j->depth + c) * g->add.width + d);
      }
    d += vectors * k->lanes;
  }
}

/* How many rows of the window, from k on, have tiles that add them at once. */
static int64_t rows_together(const Gradient *g, int64_t k) {
  int64_t left = g->run < 10 ? g->j->h.window - k : 0;
  return left >= 5 && g->by_rows[2][g->run] ? 5 : left >= 3 && g->by_rows[1][g->run] ? 3 : 1;
}

/* The gradient of the kernel from some rows, for a block of features: (*window, C, block). Where x is
 * dilated, conv.py asks for the gradient of the mirrored convolution. */
static int kernel_gradient(Job *j, int64_t net, int64_t group, int64_t block_of_features,
                           int64_t first, int64_t last, float *result, int64_t width) {
  const Axis *z = &j->z, *h = &j->h;
  Gradient g;
  measure_gradient(&g, j, net, group, block_of_features);
  int ok = open_gradient(&g, net, group, width);
  for (int64_t k = 0; k < j->window * j->depth; k++)
    memset(result + k * width, 0, g.padded * sizeof(float));
  for (int64_t block = first; ok && block < last;) {
    int64_t plane = block / h->out, top = block % h->out;
    int64_t end = MIN(MIN(top + g.at_once, h->out), top + last - block);
    if (j->half) pair_rows(&g, plane * h->out + top, end - top);
    for (int64_t line = 0, together; line < z->window * h->window; line += together) {
      int64_t k = line % h->window, frame = meet(z, plane % z->out, line / h->window);
      together = rows_together(&g, k);
      find_rows(&g, plane, top, end, frame, k, together);
      add_rows(&g, together, result + line * g.size * width);
    }
    block += end - top;
  }
  close_gradient(&g);
  return ok;
}

/* A block of features of the weights of a net and group as (*window, C, one or two vectors): what a
 * tile reads is in order. For the gradient of the input the window is reversed; each of the groups
 * that are merged has its own inputs. */
static void pack(const Job *j, int64_t net, int64_t group, int64_t d, int64_t width, float *to) {
  int64_t taps = j->window, C = j->depth, D = j->D, lanes = j->kernels->lanes;
  int64_t total = C * (D / j->merge.own) * j->groups, some = MIN(width, D - d);
  const float *from = j->b + net * taps * C * D * j->groups;
  if (some < width) memset(to, 0, taps * C * width * sizeof(float));
  for (int64_t k = 0; k < taps; k++, to += C * width)
    if (j->half && j->kind == VALUE)
      for (int64_t c = 0; c < C; c++) {
        const uint16_t *one = (const uint16_t *)j->b + ((net * taps + k) * j->halves + 2 * c) * D + d;
        j->kernels->pair(one, 2 * c + 1 < j->halves ? one + D : NULL, some, width, to + c * width);
      }
    else if (j->half)
      j->kernels->turn((const uint16_t *)j->b + ((net * taps + taps - 1 - k) * D + d) * j->halves,
                       j->halves, some, j->halves, width, to);
    else if (j->merge.each && !j->merge.spread)
      memcpy(to, from + (j->kind == VALUE ? k : taps - 1 - k) * D + d, some * sizeof(float));
    else if (j->kind == VALUE)
      for (int64_t c = 0; c < C; c++)
        memcpy(to + c * width, from + (k * C + c) * D * j->groups + group * D + d, some * 4);
    else if (j->merge.own == D && width == 2 * lanes)
      j->kernels->pack(from + ((taps - 1 - k) * D + d) * total + group * C, total, some, C, 1, to);
    else
      for (int64_t i = 0; i < some; i++) {
        const float *line = from + ((taps - 1 - k) * j->merge.own + (d + i) % j->merge.own) * total;
        line += (group * (D / j->merge.own) + (d + i) / j->merge.own) * C;
        for (int64_t c = 0; c < C; c++) to[c * width + i] = line[c];
      }
}

/* A part of the weights of all nets and groups, packed. */
static void pack_part(Job *j, int64_t part, int64_t parts) {
  int64_t wide = (j->merge.each ? 1 : 2) * j->kernels->lanes, weights = j->window * j->depth;
  int64_t blocks = divide_up(j->D_padded, wide), all = j->nets * j->groups * blocks;
  for (int64_t i = all * part / parts; i < all * (part + 1) / parts; i++) {
    int64_t pair = i / blocks, d = i % blocks * wide, width = MIN(wide, j->D_padded - d);
    float *to = j->scratch + (pair * j->D_padded + d) * weights;
    pack(j, pair / j->groups, pair % j->groups, d, width, to);
    int known = j->half ? all_finite(1, to, weights * width) : j->kernels->finite(to, weights * width);
    if (!known) atomic_store(&j->finite, 0);
  }
}

static int convolve(Work *work, int64_t chunk) {
  Job *j = (Job *)work;
  if (chunk < j->split.packs) return pack_part(j, chunk, j->split.packs), 1;
  wait_for(work, j->split.packs); /* somebody packs them */
  chunk -= j->split.packs;
  int64_t blocks = j->split.blocks, parts = j->split.parts, rows = j->planes * j->h.out;
  int64_t part = chunk % parts, block = chunk / parts % blocks, pair = chunk / (parts * blocks);
  int64_t net = pair / j->groups, group = pair % j->groups;
  int64_t first = rows * part / parts, last = rows * (part + 1) / parts;
  if (j->kind != KERNEL) {
    int64_t d0 = block * j->split.block;
    return sums(j, net, group, first, last, d0, MIN(d0 + j->split.block, j->D_padded));
  }
  int64_t weights = j->window * j->depth, stride = j->D * j->groups;
  float *to = j->out + net * weights * stride + group * j->D + block * j->split.block;
  if (j->scratch) to = j->scratch + chunk * weights * j->split.block;
  return kernel_gradient(j, net, group, block, first, last, to, j->scratch ? j->split.block : stride);
}

static void free_job(Work *work) {
  Job *j = (Job *)work;
  free(j->pattern.class);
  free(j->merge.spread);
  if (!j->finish) free_vectors(j->scratch);
  free(j);
}

/* The sum of the parts in order, so that it does not depend on the number of threads. */
static void add_parts(const Job *j, int64_t net, int64_t group) {
  int64_t lines = j->window * j->depth, size = lines * j->split.block;
  float *from = j->scratch + (net * j->groups + group) * j->split.blocks * j->split.parts * size;
  for (int64_t block = 0; block < j->split.blocks; block++, from += (j->split.parts - 1) * size)
    for (int64_t k = 0; k < lines; k++, from += j->split.block) {
      int64_t first = block * j->split.block, some = MIN(j->split.block, j->D - first);
      int64_t at = (net * lines + k) * j->D * j->groups + group * j->D + first;
      float *to = j->half ? from : j->out + at;
      if (!j->half) memcpy(to, from, some * sizeof(float));
      for (int64_t part = 1; part < j->split.parts; part++)
        for (int64_t d = 0; d < some; d++) to[d] += from[part * size + d];
      if (j->half) j->kernels->round(from, some, (uint16_t *)j->out + at);
    }
}

/* The greatest common divisor. */
static int64_t divisor(int64_t a, int64_t b) { return b ? divisor(b, a % b) : a; }

/* a / b, rounded down. */
static int64_t down(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

/* Finds the columns of the result whose taps are all inside. */
static void crop_columns(Job *j) {
  const Axis *w = &j->w;
  int64_t room = w->in - 1 - w->offset - (w->window - 1) * w->dilation;
  j->read.cropped = 1;
  j->read.first = w->offset < 0 ? MIN(divide_up(-w->offset, w->step), w->out) : 0;
  j->read.last = MAX(j->read.first, room < 0 ? 0 : MIN(w->out, room / w->step + 1));
}

/* The columns of a row that are read; 0 if their numbers are too large. */
static int plan_read(Job *j) {
  const Axis *w = &j->w;
  int64_t reach = (w->out - 1) * w->step + (w->window - 1) * w->dilation + w->offset;
  int64_t low = down(w->offset, w->gaps), high = down(reach, w->gaps);
  int direct = j->groups == 1 && !j->merge.spread && low >= 0 && high < w->in;
  if (j->merge.each && j->D != j->D_padded) direct = 0; /* whole vectors reach over the end */
  if (j->half && (j->kind == KERNEL || j->halves % 2)) direct = 0; /* words have to be made */
  int single = j->half && j->kind == KERNEL && w->out % 2; /* a column without a neighbor */
  int crop = j->finish && !direct && j->merge.each && !j->merge.spread && j->D == j->D_padded;
  direct |= crop;
  j->read = (Read){
    .direct = direct, .low = direct ? 0 : low, .columns = direct ? w->in : high - low + 1,
    .alone = single ? (w->window - 1) * w->dilation + 1 : 0,
  };
  if (crop) crop_columns(j);
  return j->read.columns + j->read.alone <= INT32_MAX / j->C;
}

/* The i-th class: the taps that its columns meet. */
static Class class_of(const Job *j, int64_t i) {
  const Axis *w = &j->w;
  const Pattern *p = &j->pattern;
  int64_t first = i * w->step + w->offset, taps = MIN(p->tap, w->window);
  Class c = {.count = (w->out - i + p->period - 1) / p->period};
  while (c.tap < taps && (first + c.tap * w->dilation) % w->gaps) c.tap++;
  if (c.tap < taps) {
    c.taps = (w->window - 1 - c.tap) / p->tap + 1;
    c.start = (first + c.tap * w->dilation) / w->gaps - j->read.low;
  } else
    c.tap = 0;
  return c;
}

/* Which columns read what; 0 if there is no memory. */
static int plan(Job *j) {
  const Axis *w = &j->w;
  Pattern *p = &j->pattern;
  if (!plan_read(j)) return 0;
  p->period = w->gaps / divisor(w->step, w->gaps);
  p->tap = w->gaps / divisor(w->dilation, w->gaps);
  p->tap_x = p->tap * w->dilation / w->gaps * j->C;
  p->joined = (!j->merge.each || j->merge.spread) && p->tap == 1 && p->tap_x == j->C;
  p->classes = MIN(p->period, w->out);
  p->class = zeros(p->classes, sizeof(Class));
  for (int64_t i = 0; p->class && i < p->classes; i++) p->class[i] = class_of(j, i);
  return p->class != NULL;
}

/* Groups of few results leave most of a vector unused, so some of them fill a vector together. Their
 * rows are copied with one vector for each input of a group, in which each result finds its own. 0 if
 * there is no memory. */
static int merge_groups(Job *j) {
  int64_t lanes = j->kernels->lanes, some = lanes / j->D;
  while (some > 1 && j->groups % some) some--;
  j->merge.own = j->D;
  j->merge.source = j->depth = j->C;
  if (j->C == 1 && j->D == 1 && j->groups > 1) {
    j->merge.each = 1;
    j->merge.source = j->C = j->D = j->groups;
    j->groups = j->merge.own = 1;
  } else if (some > 1) {
    if (!(j->merge.spread = zeros(1, sizeof(Spread)))) return 0;
    j->merge.each = 1;
    j->groups /= some;
    j->D *= some;
    j->merge.source *= some;
    j->C = j->depth * lanes;
    *j->merge.spread = (Spread){.depth = j->depth, .inputs = j->merge.source};
    for (int64_t i = 0; i < lanes; i++)
      j->merge.spread->first[i] = (int32_t)(MIN(i, j->D - 1) / j->merge.own * j->depth);
  }
  return 1;
}

/* How rows and features are divided for packed weights, so that least is read: each block of features
 * reads its rows, and each part of the rows its weights. The thread with most work decides. */
static Split split_packed(const Job *j, int64_t threads) {
  int64_t wide = (j->merge.each ? 1 : 2) * j->kernels->lanes, vectors = divide_up(j->D_padded, wide);
  int64_t rows = j->planes * j->h.out, weights = j->window * j->depth * j->D_padded;
  int64_t x = j->batch * j->z.in * j->h.in * j->read.columns * j->C, least = INT64_MAX;
  double work = 2.0 * rows * j->w.out * weights;
  int64_t most = threads == 1 ? 1 : MIN(4 * threads, MIN(work / 4e5, 1e6) + 1);
  most = MAX(1, most / j->groups);
  Split s = {0};
  for (int64_t blocks = 1; blocks <= MIN(most, vectors); blocks++) {
    int64_t parts = MIN(most / blocks, rows), block = divide_up(vectors, blocks);
    double fullest = (double)divide_up(rows, parts) * block * divide_up(parts * blocks, threads);
    double excess = fullest * threads / ((double)rows * vectors);
    int64_t read = (weights * parts + x * (j->merge.each ? 1 : blocks)) * excess * (1 + 4 * (excess - 1));
    if (read < least) least = read, s = (Split){.block = block * wide, .blocks = blocks, .parts = parts};
  }
  s.blocks = divide_up(vectors * wide, s.block);
  return s;
}

/* Divides the work, by numbers that for a sum over rows do not depend on the number of threads. */
static Split split_of(const Job *j, int64_t threads) {
  int64_t lanes = j->kernels->lanes, weights = j->window * j->depth * j->D_padded;
  int sum = j->kind == KERNEL, large = sum && weights > 65536; /* more than the second cache has */
  Split s = {.block = large ? MIN(j->D_padded, 2 * lanes) : j->D_padded};
  s.blocks = divide_up(j->D_padded, s.block);
  int64_t each = j->nets * j->groups * s.blocks, most = sum ? 8 : threads == 1 ? 1 : 4 * threads;
  double work = 2.0 * j->planes * j->h.out * j->w.out * weights;
  s.parts = MIN(divide_up(most, each), (int64_t)MIN(work / 1e6, 1e6) + 1);
  s.parts = MIN(s.parts, j->planes * j->h.out);
  return s;
}

/* Returns 0 without memory. */
static int prepare(Job *j, int64_t threads) {
  int sum = j->kind == KERNEL;
  if (!merge_groups(j)) return 0;
  j->halves = j->C;
  if (j->half && !sum) j->C = j->depth = j->merge.source = (j->C + 1) / 2;
  j->D_padded = round_up(j->D, j->kernels->lanes);
  if (!plan(j)) return 0;
  j->split = j->finish ? split_packed(j, threads) : split_of(j, threads);
  j->work.chunks = j->nets * j->groups * j->split.blocks * j->split.parts;
  j->finite = 1;
  if (j->finish) return 1;
  if (sum && j->split.parts == 1 && j->D == j->D_padded && !j->half) return 1; /* the result itself */
  int64_t lines = j->window * j->depth, size = j->nets * j->groups * lines * j->D_padded;
  if (sum) size = j->work.chunks * lines * j->split.block;
  if (!allocate(1, &size, &j->scratch)) return 0;
  if (!sum && (threads == 1 || size < 16384)) pack_part(j, 0, 1);
  else if (!sum) j->work.chunks += j->split.packs = 2 * threads;
  return 1;
}

enum { KIND, GROUPS, STRIDE, DILATION = 5, LOW = 8, GAPS = 11, NUMBERS = 14, RANK = 6 };

/* What a call asks for: its numbers, its arrays, and which of these is the result. */
typedef struct {
  const int64_t *form;
  Kind kind;
  int half;
  const FfiBuffer *x, *w, *y, *result;
} Convolution;

static FfiError *read_form(FfiCall *f, Convolution *c) {
  REQUIRE(f->operands.count == 2 && f->results.count == 1 && f->options.count == 1);
  REQUIRE(f->options.kinds[0] == FFI_ARRAY);
  const FfiArray *array = f->options.values[0];
  REQUIRE(array->type == FFI_S64 && array->count == NUMBERS);
  const int64_t *form = c->form = array->data;
  REQUIRE(form[KIND] >= VALUE && form[KIND] <= KERNEL);
  c->kind = (Kind)form[KIND];
  for (int i = GROUPS; i < NUMBERS; i++)
    REQUIRE(form[i] <= INT32_MAX && form[i] >= (i >= LOW && i < GAPS ? -INT32_MAX : 1));
  for (int i = GAPS; i < NUMBERS; i++) REQUIRE(c->kind != KERNEL || form[i] == 1);
  return NULL;
}

static FfiError *read_arrays(FfiCall *f, Convolution *c) {
  const FfiBuffer *given[] = {f->operands.buffers[0], f->operands.buffers[1], f->results.buffers[0]};
  c->half = given[0]->type == FFI_BF16;
  int64_t groups = c->form[GROUPS];
  REQUIRE(!c->half || (multiplies_halves() && groups == 1));
  for (int i = 0; i < 3; i++) {
    REQUIRE(given[i]->type == (c->half ? FFI_BF16 : FFI_F32));
    REQUIRE(given[i]->rank == RANK);
    for (int axis = 0; axis < RANK; axis++) REQUIRE(given[i]->dims[axis] <= INT32_MAX);
  }
  c->result = given[2];
  const FfiBuffer *x = c->x = given[c->kind == INPUT ? 2 : 0];
  const FfiBuffer *y = c->y = given[c->kind == VALUE ? 2 : 1];
  const FfiBuffer *w = c->w = given[c->kind == VALUE ? 1 : c->kind == INPUT ? 0 : 2];
  REQUIRE(x->dims[0] == w->dims[0] && x->dims[0] == y->dims[0] && x->dims[1] == y->dims[1]);
  REQUIRE(x->dims[5] == w->dims[4] * groups && w->dims[5] == y->dims[5]);
  REQUIRE(y->dims[5] % groups == 0);
  return NULL;
}

static void describe(Job *j, const Convolution *c) {
  const FfiBuffer *x = c->x, *w = c->w, *y = c->y;
  const FfiBuffer *from = c->kind == INPUT ? y : x, *to = c->kind == INPUT ? x : y;
  j->kind = c->kind;
  j->half = c->half;
  j->nets = x->dims[0];
  j->batch = x->dims[1];
  j->groups = c->form[GROUPS];
  for (int axis = 0; axis < 3; axis++) {
    int64_t in = x->dims[2 + axis], out = y->dims[2 + axis], window = w->dims[1 + axis];
    int64_t stride = c->form[STRIDE + axis], dilation = c->form[DILATION + axis];
    int64_t low = c->form[LOW + axis], gaps = c->form[GAPS + axis];
    *(Axis *[]){&j->z, &j->h, &j->w}[axis] =
      c->kind == INPUT
        ? (Axis){out, in, window, gaps, dilation, low - (window - 1) * dilation, stride}
        : (Axis){in, out, window, stride, dilation, -low, gaps};
  }
  j->window = j->z.window * j->h.window * j->w.window;
  j->planes = j->batch * j->z.out;
  j->C = from->dims[5] / j->groups;
  j->D = to->dims[5] / j->groups;
  j->a = from->data;
  j->b = (c->kind == KERNEL ? y : w)->data;
  j->out = c->result->data;
}

/* A convolution without neighbors, of bfloat16: one entry of the window, and of x for each of y. */
static int is_product(const Convolution *c, const Job *j) {
  int product = c->half && j->window == 1;
  for (int i = 0; i < 3; i++)
    product &= c->x->dims[2 + i] == c->y->dims[2 + i] && !c->form[LOW + i] &&
               c->form[STRIDE + i] * c->form[GAPS + i] == 1;
  return product;
}

static Halves product_of(const Job *j) {
  int64_t pixels = j->planes * j->h.out * j->w.out;
  return (Halves){
    .kernels = j->kernels, .nets = j->nets, .outputs = j->D, .x = (const uint16_t *)j->a,
    .rows = j->kind == KERNEL ? j->C : pixels, .inputs = j->kind == KERNEL ? pixels : j->C,
    .turned_x = j->kind == KERNEL, .turned_w = j->kind == INPUT, .w = (const uint16_t *)j->b,
    .y = (uint16_t *)j->out,
  };
}

/* Returns 0 without memory. */
static int run_job(Job *j, FfiCall *f) {
  int64_t threads = threads_of(f);
  /* where a tile of `add` would read few pixels of x that are far apart, they are copied first */
  int far = j->w.step > 1 && j->C >= 128 && j->w.out <= 14;
  int by_tap = j->kind == KERNEL && j->groups == 1 && !j->half && (j->window == 1 || far);
  if (!(by_tap ? prepare_outer(j) : prepare(j, threads))) return 0;
  if (!run_chunks(&j->work, f, threads)) return 0;
  for (int64_t i = 0; j->kind == KERNEL && j->scratch && i < j->nets * j->groups; i++)
    add_parts(j, i / j->groups, i % j->groups);
  return 1;
}

FfiError *jaxnet_conv(FfiCall *f) {
  if (no_run(f)) return NULL;
  Convolution c = {0};
  FfiError *wrong = read_form(f, &c);
  if (!wrong) wrong = read_arrays(f, &c);
  if (wrong) return wrong;
  const Kernels *kernels = kernels_in_use();
  REQUIRE(kernels);
  if (!size_of(c.x) || !size_of(c.w) || !size_of(c.y)) {
    memset(c.result->data, 0, size_of(c.result) * (c.half ? 2 : sizeof(float)));
    return NULL;
  }
  Job *j = zeros(1, sizeof(Job));
  if (!j) return no_memory(f);
  *j = (Job){
    .work = {.holders = 1, .run = convolve, .close = free_job}, .kernels = kernels,
  };
  describe(j, &c);
  int ok = is_product(&c, j) ? multiply_halves(product_of(j), f) : run_job(j, f);
  release(&j->work);
  return ok ? NULL : no_memory(f);
}
