/* Products of matrices of bfloat16, with sums in float32: y (rows, outputs) = x (rows, inputs) @ w
 * (inputs, outputs) for each of some nets. x may be stored as (inputs, rows), and w as (outputs,
 * inputs): then it is a gradient.
 *
 * A chunk is a block of y. For some inputs at a time, its rows of x and columns of w are copied into
 * panels, which stay in the second cache. They hold words of two neighboring inputs, as (words,
 * lines of a panel). */

#pragma once
#include "levels.h"

enum { DEPTH = 256, MOST_LINES = 266 };

typedef struct {
  Work work;
  const Kernels *kernels;
  int64_t nets, rows, inputs, outputs;
  int turned_x, turned_w;
  int64_t row_blocks, column_blocks;
  int64_t parts; /* of the inputs */
  const uint16_t *x, *w;
  uint16_t *y;
  float *scratch; /* for several parts, the sums of each */
} Halves;

/* Lines of a matrix in panels of `wide` and less: of x its rows, of w its outputs; n of each line. They
 * lie in memory if `along`; else their numbers are `pitch` apart, and read in the order of memory. */
static void panels_of(const Kernels *k, const uint16_t *from, int along, int64_t pitch, int64_t lines,
                      int64_t n, int64_t wide, float *to) {
  int64_t panels = divide_up(lines, wide), words = divide_up(n, 2);
  for (int64_t i = 0; i < (along ? panels : words); i++)
    if (along) {
      int64_t first = i * wide, count = MIN(wide, lines - first);
      for (int64_t next = first + wide; next < MIN(first + 2 * wide, lines); next++)
        for (int64_t d = 0; d < n; d += 32) __builtin_prefetch(from + next * pitch + d, 0, 2);
      k->turn(from + first * pitch, pitch, count, n, wide, to + first * words);
    } else {
      const uint16_t *one = from + 2 * i * pitch, *other = 2 * i + 1 < n ? one + pitch : NULL;
      for (int64_t d = 0; d < lines && 2 * i + 16 < n; d += 32)
        __builtin_prefetch(one + 15 * pitch + d, 0, 2), __builtin_prefetch(one + 16 * pitch + d, 0, 2);
      for (int64_t first = 0; first < lines; first += wide)
        k->pair(one + first, other ? other + first : NULL, MIN(wide, lines - first), wide,
                to + first * words + i * wide);
    }
}

/* A block of y, and the inputs that a chunk sums up for it. `padded` columns are whole vectors. */
typedef struct {
  int64_t net, part, row, rows, column, columns, padded, first, last;
} HalfBlock;

static HalfBlock half_block(const Halves *s, int64_t chunk) {
  int64_t lanes = s->kernels->lanes, part = chunk % s->parts, block = chunk / s->parts;
  int64_t column_block = block % s->column_blocks, net = block / s->column_blocks / s->row_blocks;
  int64_t row_block = block / s->column_blocks % s->row_blocks;
  int64_t row = s->rows * row_block / s->row_blocks;
  int64_t lines = divide_up(s->outputs, lanes), steps = divide_up(s->inputs, DEPTH);
  int64_t column = lines * column_block / s->column_blocks * lanes;
  int64_t padded = lines * (column_block + 1) / s->column_blocks * lanes - column;
  return (HalfBlock){
    .net = net, .part = part,
    .row = row, .rows = s->rows * (row_block + 1) / s->row_blocks - row,
    .column = column, .columns = MIN(padded, s->outputs - column), .padded = padded,
    .first = steps * part / s->parts * DEPTH,
    .last = MIN(steps * (part + 1) / s->parts * DEPTH, s->inputs),
  };
}

/* Copies n inputs, from i on, of the rows of x and the columns of w that a block reads. */
static void copy_half_panels(const Halves *s, const HalfBlock *b, int64_t i, int64_t n, float *to_x,
                             float *to_w) {
  const Kernels *k = s->kernels;
  const uint16_t *x = s->x + b->net * s->rows * s->inputs, *w = s->w + b->net * s->inputs * s->outputs;
  int64_t tall = k->most / 2, broad = 2 * k->lanes;
  if (s->turned_x) panels_of(k, x + i * s->rows + b->row, 0, s->rows, b->rows, n, tall, to_x);
  else panels_of(k, x + b->row * s->inputs + i, 1, s->inputs, b->rows, n, tall, to_x);
  if (s->turned_w) panels_of(k, w + b->column * s->inputs + i, 1, s->inputs, b->columns, n, broad, to_w);
  else panels_of(k, w + i * s->outputs + b->column, 0, s->outputs, b->columns, n, broad, to_w);
}

/* Adds the products of panels to the sums of a block; `y` is where they are rounded to, or NULL. */
static void multiply_half_panels(const Halves *s, const HalfBlock *b, Add add, const float *x,
                                 const float *w, uint16_t *y, float *sums) {
  const Kernels *k = s->kernels;
  int64_t tall = k->most / 2, broad = 2 * k->lanes, words = add.columns;
  const float *these_x, *these_w;
  add.x = &these_x, add.y = &these_w;
  for (int64_t c = 0; c < b->padded; c += broad) {
    int vectors = b->padded - c > k->lanes ? 2 : 1;
    these_w = w + c * words;
    add.left = b->columns - c;
    for (int64_t r = 0; r < b->rows; r += tall) {
      these_x = x + r * words;
      add.rounded = y ? y + r * s->outputs + c : NULL;
      k->tiles->add_half[vectors - 1][MIN(tall, b->rows - r)](&add, 0, 0, sums + r * b->padded + c);
    }
  }
}

static int run_halves(Work *work, int64_t chunk) {
  const Halves *s = (const Halves *)work;
  HalfBlock b = half_block(s, chunk);
  int64_t tall = s->kernels->most / 2, broad = 2 * s->kernels->lanes;
  const int64_t sizes[] = {
    round_up(b.rows, tall) * (DEPTH / 2), round_up(b.padded, broad) * (DEPTH / 2), b.rows * b.padded,
  };
  float *memory[3];
  if (!allocate(3, sizes, memory)) return 0;
  float *sums = memory[2];
  uint16_t *y = s->y + (b.net * s->rows + b.row) * s->outputs + b.column;
  Add add = {
    .rows = 1, .step_x = tall, .step_y = broad, .width = b.padded, .line = s->outputs,
  };
  for (int64_t i = b.first; i < b.last; i += DEPTH) {
    int64_t n = MIN(DEPTH, b.last - i);
    int ends = s->parts == 1 && i + DEPTH >= b.last;
    add.columns = divide_up(n, 2);
    add.first = i == b.first;
    copy_half_panels(s, &b, i, n, memory[0], memory[1]);
    multiply_half_panels(s, &b, add, memory[0], memory[1], ends ? y : NULL, sums);
  }
  for (int64_t r = 0; r < b.rows && s->parts > 1; r++) {
    int64_t line = (b.part * s->nets + b.net) * s->rows + b.row + r;
    memcpy(s->scratch + line * s->outputs + b.column, sums + r * b.padded, b.columns * sizeof(float));
  }
  free_vectors(memory[0]);
  return 1;
}

static void free_halves(Work *work) {
  free(((Halves *)work)->scratch);
  free(work);
}

/* Multiplies; 0 if there is no memory. Long sums of few results are divided, by numbers that do not
 * depend on the number of threads. */
static int multiply_halves(Halves given, FfiCall *f) {
  Halves *s = zeros(1, sizeof(Halves));
  if (!s) return 0;
  *s = given;
  int64_t lines = divide_up(s->outputs, s->kernels->lanes), n = s->nets * s->rows * s->outputs;
  s->work = (Work){.holders = 1, .run = run_halves, .close = free_halves};
  s->row_blocks = divide_up(s->rows, MOST_LINES);
  s->column_blocks = divide_up(s->outputs, MOST_LINES);
  int64_t blocks = s->nets * s->row_blocks * s->column_blocks;
  s->parts = MAX(1, MIN(8 / blocks, s->inputs / (4 * DEPTH)));
  if (s->parts > 1) s->scratch = zeros(s->parts * n, sizeof(float));
  else if (blocks < 8) s->column_blocks = MIN(lines, s->column_blocks * divide_up(8, blocks));
  s->work.chunks = s->nets * s->row_blocks * s->column_blocks * s->parts;
  int ok = (s->parts == 1 || s->scratch) && run_chunks(&s->work, f, threads_of(f));
  for (int64_t part = 1; ok && part < s->parts; part++)
    for (int64_t i = 0; i < n; i++) s->scratch[i] += s->scratch[part * n + i];
  for (int64_t i = 0; ok && s->parts > 1 && i < n; i += s->outputs)
    s->kernels->round(s->scratch + i, s->outputs, s->y + i);
  release(&s->work);
  return ok;
}
