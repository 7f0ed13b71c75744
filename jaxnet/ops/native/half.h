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

static int run_halves(Work *work, int64_t chunk) {
  const Halves *s = (const Halves *)work;
  const Kernels *k = s->kernels;
  int64_t lanes = k->lanes, tall = k->most / 2, inputs = s->inputs;
  int64_t part = chunk % s->parts, block = chunk / s->parts;
  int64_t column_block = block % s->column_blocks, net = block / s->column_blocks / s->row_blocks;
  int64_t row_block = block / s->column_blocks % s->row_blocks;
  int64_t r0 = s->rows * row_block / s->row_blocks;
  int64_t rows = s->rows * (row_block + 1) / s->row_blocks - r0;
  int64_t lines = divide_up(s->outputs, lanes), c0 = lines * column_block / s->column_blocks * lanes;
  int64_t padded = lines * (column_block + 1) / s->column_blocks * lanes - c0;
  int64_t columns = MIN(padded, s->outputs - c0), panels = divide_up(rows, tall);
  int64_t steps = divide_up(inputs, DEPTH), last = MIN(steps * (part + 1) / s->parts * DEPTH, inputs);
  const uint16_t *x = s->x + net * s->rows * inputs, *w = s->w + net * inputs * s->outputs;
  int64_t broad = 2 * lanes, sizes[] = {panels * tall, round_up(padded, broad), rows * padded};
  const float *a, *b;
  float *memory[3];
  for (int i = 0; i < 2; i++) sizes[i] *= DEPTH / 2;
  if (!allocate(3, sizes, memory)) return 0;
  float *sums = memory[2];
  int64_t first = steps * part / s->parts * DEPTH;
  uint16_t *y = s->y + (net * s->rows + r0) * s->outputs + c0;
  Add add = {
    .x = &a, .y = &b, .rows = 1, .step_x = tall, .step_y = broad, .width = padded, .line = s->outputs,
  };
  for (int64_t i = first; i < last; i += DEPTH) {
    int64_t n = MIN(DEPTH, last - i);
    int ends = s->parts == 1 && i + DEPTH >= last;
    add.columns = divide_up(n, 2);
    add.first = i == first;
    panels_of(k, s->turned_x ? x + i * s->rows + r0 : x + r0 * inputs + i, !s->turned_x,
              s->turned_x ? s->rows : inputs, rows, n, tall, memory[0]);
    panels_of(k, s->turned_w ? w + c0 * inputs + i : w + i * s->outputs + c0, s->turned_w,
              s->turned_w ? inputs : s->outputs, columns, n, broad, memory[1]);
    for (int64_t c = 0; c < padded; c += broad) {
      int vectors = padded - c > lanes ? 2 : 1;
      b = memory[1] + c * add.columns;
      add.left = columns - c;
      for (int64_t p = 0; p < panels; p++) {
        int64_t r = p * tall, count = MIN(tall, rows - r);
        a = memory[0] + r * add.columns;
        add.rounded = ends ? y + r * s->outputs + c : NULL;
        k->tiles->add_half[vectors - 1][count](&add, 0, 0, sums + r * padded + c);
      }
    }
  }
  for (int64_t r = 0; r < rows && s->parts > 1; r++)
    memcpy(s->scratch + ((part * s->nets + net) * s->rows + r0 + r) * s->outputs + c0,
           sums + r * padded, columns * sizeof(float));
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
