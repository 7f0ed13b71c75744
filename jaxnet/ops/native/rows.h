/* What a convolution is, and the rows of what it reads, with zeros around them while they are needed:
 * what conv.h and outer.h share. */

#pragma once
#include "tables.h"

/* One axis. Position p and tap k of the kernel meet entry (p * step + k * dilation + offset) / gaps
 * of what is read, if it is a whole number and inside. */
typedef struct {
  int64_t in, out, window, step, dilation, offset, gaps;
} Axis;

/* The entry that a position and a tap meet, -1 outside, or -2 between two entries. */
static int64_t meet(const Axis *a, int64_t position, int64_t tap) {
  int64_t at = position * a->step + tap * a->dilation + a->offset, entry = at / a->gaps;
  return at % a->gaps ? -2 : at < 0 || entry >= a->in ? -1 : entry;
}

typedef enum { VALUE, INPUT, KERNEL } Kind;

/* How small groups are merged; see `merge_groups`. */
typedef struct {
  int each;        /* each feature by itself: all of them are one group here */
  Spread *spread;  /* NULL, or how rows are copied */
  int64_t own;     /* results of a group before */
  int64_t source;  /* features of a group in the rows of `a` */
} Merge;

/* What is read of a row. */
typedef struct {
  int64_t low, columns; /* the first column, and their number, with zeros around */
  int direct;           /* rows are read where they are, since there are no zeros or, with `cropped`, */
  int cropped;          /* columns of the result outside of these leave taps out: */
  int64_t first, last;
  int64_t alone;        /* columns that only the last, odd column of y meets, in words of their own */
} Read;

/* Columns that meet the same taps: every `period`-th, from the first on. */
typedef struct {
  int64_t count, tap, taps, start;
} Class;

/* Which columns meet which taps; see `plan`. */
typedef struct {
  int64_t period, classes; /* of columns */
  Class *class;
  int joined;         /* the taps of a row are neighbors in memory */
  int64_t tap, tap_x; /* distance of the taps of a class, in the kernel and in what is read */
} Pattern;

/* How the work is divided into chunks. */
typedef struct {
  int64_t block, blocks; /* features at once, of a kernel's gradient or of packed weights */
  int64_t parts;         /* of the rows */
  int64_t packs;         /* chunks that pack weights, before the others */
} Split;

typedef struct {
  Work work;
  const Kernels *kernels;
  Kind kind;
  int half;                                    /* a, b and the result are bfloat16 */
  Axis z, h, w;                                /* frames, rows and columns */
  int64_t nets, groups, batch, planes, window; /* planes of all images of a net's result; taps */
  int64_t C, D;     /* features of `a` and of what `b` is or makes of them, per group */
  int64_t D_padded; /* D in whole vectors */
  int64_t depth;    /* features of `a` that a result depends on */
  int64_t halves;   /* bfloat16 of a pixel of `a` */
  Merge merge;
  Read read;
  Pattern pattern;
  Split split;
  const Finish *finish; /* NULL, or what follows: then `scratch` has finite weights, packed before */
  atomic_int finite;    /* the weights are: then zeros need not be multiplied */
  const float *a, *b;   /* what is read, in rows, and the weights or the gradient of y */
  float *out, *scratch; /* the result, and packed weights or, unless NULL, a sum per chunk */
} Job;

/* Rows of an array (images, frames, height, width, stride), C features of each, from column `low`
 * on. */
typedef struct {
  const Job *job;
  const float *from;
  int64_t stride, offset, frames, slots, size, *tags;
  float *memory;
} Rows;

/* How many frames a frame of the result reads from the first to the last. */
static int64_t frames_at_once(const Job *j) {
  return MIN((j->z.window - 1) * j->z.dilation / j->z.gaps + 1, j->z.in);
}

/* Memory of a row of zeros and some rows whose columns outside are zeros. */
static float *bordered(const Rows *r, int64_t slots) {
  const Job *j = r->job;
  int64_t first = MAX(j->read.low, 0) - j->read.low, columns = j->read.columns;
  int64_t last = MAX(MIN(j->read.low + columns, j->w.in) - j->read.low, first);
  size_t size;
  if (__builtin_mul_overflow((size_t)(slots + 1), (size_t)r->size * sizeof(float), &size)) return NULL;
  float *memory = size > PTRDIFF_MAX - 64 ? NULL : malloc(size + 64);
  if (!memory) return NULL;
  memset(memory, 0, r->size * sizeof(float));
  for (int64_t i = 1; i <= slots; i++) {
    float *row = memory + i * r->size;
    memset(row, 0, MIN(first, columns) * j->C * sizeof(float));
    if (last < columns) memset(row + last * j->C, 0, (columns - last) * j->C * sizeof(float));
  }
  return memory;
}

static int open_rows(Rows *r, const Job *j, int64_t net, int64_t group, int64_t needed) {
  r->job = j;
  r->stride = j->merge.source * j->groups;
  r->offset = group * j->merge.source;
  if (j->half) r->stride = j->halves;
  int64_t pixels = j->batch * j->z.in * j->h.in * j->w.in;
  r->from = after(j->half, j->a, net * pixels * r->stride + r->offset);
  r->frames = frames_at_once(j);
  r->slots = j->read.direct ? 0 : MIN(needed, j->h.in);
  r->size = (j->read.columns + j->read.alone) * j->C;
  /* The first row stays zero. */
  int64_t slots = r->frames * r->slots;
  r->memory = j->half || j->merge.spread ? zeros((slots + 1) * r->size, sizeof(float)) : bordered(r, slots);
  r->tags = zeros(slots, sizeof(int64_t));
  return r->memory && r->tags;
}

static void close_rows(Rows *r) {
  free(r->memory);
  free(r->tags);
}

/* Columns of a row from `first` on, with zeros outside, as words with those `step` columns later or, if
 * that is 0, with zeros. */
static void pair_columns(const Job *j, const uint16_t *from, int64_t first, int64_t count, int64_t step,
                         float *to) {
  int64_t in = j->w.in, C = j->C, low = MIN(0, in - step), high = MAX(0, in - step);
  int64_t ends[] = {-step, low, high, in, first + count};
  for (int64_t i = 0, c = first, last = first + count; i < 5; i++) {
    int64_t end = MIN(MAX(ends[i], c), last), size = (end - c) * C;
    int inside = c >= 0 && c < in, followed = step && c + step >= 0 && c + step < in;
    const uint16_t *one = inside ? from + c * C : NULL;
    const uint16_t *other = followed ? from + (c + step) * C : NULL;
    if (size) j->kernels->pair(one, other, size, size, to + (c - first) * C);
    c = end;
  }
}

/* Copies a row in bfloat16 as words. */
static void copy_halves(const Job *j, const float *from, int64_t first, int64_t last, float *row,
                        float *to) {
  const uint16_t *given = (const uint16_t *)from;
  if (j->kind == KERNEL) {
    int64_t last_y = (j->w.out - 1) * j->w.step + j->w.offset;
    pair_columns(j, given, j->read.low, j->read.columns, j->w.step, row);
    pair_columns(j, given, last_y, j->read.alone, 0, row + j->read.columns * j->C);
  } else if (j->halves == 1)
    j->kernels->pair(given + first, NULL, last - first, last - first, to);
  else if (j->halves % 2)
    for (int64_t c = first; c < last; c++, to += j->C)
      memcpy(to, given + c * j->halves, j->halves * 2);
  else if (last > first)
    memcpy(to, from + first * j->C, (last - first) * j->C * sizeof(float));
}

/* Copies the columns of a row that are inside; the zeros around them are there already. */
static void copy_row(const Rows *r, const float *from, float *row) {
  const Job *j = r->job;
  int64_t first = MAX(j->read.low, 0), last = MIN(j->read.low + j->read.columns, j->w.in);
  float *to = row + (first - j->read.low) * j->C;
  if (j->half)
    copy_halves(j, from, first, last, row, to);
  else if (j->merge.spread)
    for (int64_t c = first; c < last; c++, to += j->C)
      j->kernels->spread(j->merge.spread, from + c * r->stride,
                         (j->w.in - c) * r->stride - r->offset, to);
  else if (j->groups == 1 && last > first)
    memcpy(to, from + first * j->C, (last - first) * j->C * sizeof(float));
  else if (j->groups > 1)
    for (int64_t c = first; c < last; c++, to += j->C)
      memcpy(to, from + c * r->stride, j->C * sizeof(float));
}

/* Row h of a frame of an image, copied unless it is still there; zeros for one outside. */
static const float *row_of(Rows *r, int64_t image, int64_t frame, int64_t h) {
  const Job *j = r->job;
  if (frame < 0 || h < 0) return r->memory;
  int64_t row = (image * j->z.in + frame) * j->h.in + h;
  const float *from = after(j->half, r->from, row * j->w.in * r->stride);
  if (j->read.direct) return from;
  int64_t slot = frame % r->frames * r->slots + h % r->slots;
  float *to = r->memory + (slot + 1) * r->size;
  if (r->tags[slot] != row + 1) copy_row(r, from, to);
  r->tags[slot] = row + 1;
  return to;
}
