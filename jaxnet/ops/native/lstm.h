/* An LSTM of float32 arrays over all steps, and the loop back that its gradient needs, as handlers of
 * XLA's foreign function interface. Gates are in the order i, f, g, o.
 *
 * The rows of a batch do not depend on each other, so each chunk runs some rows through all steps
 * without waiting for the others. The kernel is packed once for all steps: what a tile of `sum` reads
 * is in order. */

#pragma once
#include "levels.h"

enum { GATES = 4, ROWS = 32 };

typedef struct {
  Work work;
  const Kernels *kernels;
  int back;
  int64_t steps, batch, features, vectors; /* at once */
  const uint8_t *mask;                     /* (steps, batch) or NULL */
  const float *kernel, *bias;
  const float *gates_in, *by_old_c_in, *by_c_in, *h_in; /* h before all steps, or h's gradients */
  float *gates, *by_old_c, *by_c, *h, *c, *carry;       /* `carry` is the gradient by h */
  float *packed;
} Loop;

static void free_loop(Work *work) {
  free_vectors(((Loop *)work)->packed);
  free(work);
}

/* Columns of the kernel that a tile reads: for the loop the four gates of one vector of features, a
 * vector or two at once, with all features as inputs. For the loop back, the features of one or two
 * vectors, with all gates as inputs. */
static void pack_kernel(Loop *l) {
  int64_t n = l->features, lanes = l->kernels->lanes, width = l->vectors * lanes;
  float *to = l->packed;
  if (l->back)
    for (int64_t d = 0; d < n; d += width)
      l->kernels->pack(l->kernel + d * GATES * n, GATES * n, MIN(width, n - d), GATES * n, 1,
                       to + d * GATES * n);
  else
    for (int64_t d = 0; d < n; d += lanes)
      for (int64_t gate = 0; gate < GATES; gate += l->vectors)
        for (int64_t k = 0; k < n; k++, to += width)
          for (int64_t v = 0; v < l->vectors; v++)
            memcpy(to + v * lanes, l->kernel + (GATES * k + gate + v) * n + d,
                   MIN(lanes, n - d) * sizeof(float));
}

/* The distance of copied rows: rows that are a power of two apart would share few lines of the first
 * cache. */
static int64_t apart(int64_t inputs) { return round_up(inputs, 16) + 16; }

static const float *copy_rows(int64_t rows, const float *x, int64_t inputs, float *to) {
  for (int64_t r = 0; r < rows; r++)
    memcpy(to + r * apart(inputs), x + r * inputs, inputs * sizeof(float));
  return to;
}

/* result = x @ columns, for copied rows of x and those of the result at a distance. */
static void product(const Loop *l, int64_t rows, const float *x, int64_t inputs,
                    const float *columns, float *result, int64_t distance, int64_t left) {
  int64_t most = l->kernels->most / l->vectors, tiles = (rows + most - 1) / most;
  for (int64_t i = 0; i < tiles; i++) {
    int64_t first = rows * i / tiles, count = rows * (i + 1) / tiles - first;
    const float *from = x + first * apart(inputs);
    Sum s = {
      .x = &from, .w = &columns, .rows = 1, .taps = 1, .run = inputs, .pixel = apart(inputs),
      .result = distance,
    };
    l->kernels->tiles->sum[l->vectors - 1][count](&s, 0, result + first * distance, left);
  }
}

static int forward(Loop *l, int64_t first, int64_t rows) {
  int64_t n = l->features, lanes = l->kernels->lanes, width = l->vectors * lanes;
  float *memory[2], *gates;
  if (!allocate(2, (int64_t[]){rows * GATES * lanes, rows * apart(n)}, memory)) return 0;
  gates = memory[0];
  for (int64_t t = 0; t < l->steps; t++) {
    int64_t row = t * l->batch + first;
    Cell s = {
      .rows = rows, .features = n, .mask = l->mask ? l->mask + row : NULL, .bias = l->bias,
      .product = gates, .gates = l->gates_in + row * GATES * n, .c = l->c + first * n,
      .before = t ? l->h + (row - l->batch) * n : l->h_in + first * n, .h = l->h + row * n,
    };
    if (l->gates) {
      s.slopes = l->gates + row * GATES * n;
      s.by_old_c = l->by_old_c + row * n;
      s.by_c = l->by_c + row * n;
    }
    const float *columns = l->packed, *x = copy_rows(rows, s.before, n, memory[1]);
    for (int64_t d = 0; d < n; d += lanes) {
      for (int64_t gate = 0; gate < GATES; gate += l->vectors, columns += n * width)
        product(l, rows, x, n, columns, gates + gate * lanes, GATES * lanes, width);
      l->kernels->cell(&s, d);
    }
  }
  free_vectors(gates);
  return 1;
}

static int backward(Loop *l, int64_t first, int64_t rows) {
  int64_t n = l->features, width = l->vectors * l->kernels->lanes;
  float *memory[2], *kept;
  if (!allocate(2, (int64_t[]){rows * n, rows * apart(GATES * n)}, memory)) return 0;
  kept = memory[0];
  for (int64_t t = l->steps - 1; t >= 0; t--) {
    int64_t row = t * l->batch + first;
    CellBack s = {
      .rows = rows, .features = n, .mask = l->mask ? l->mask + row : NULL,
      .slopes = l->gates_in + row * GATES * n, .by_old_c = l->by_old_c_in + row * n,
      .by_c = l->by_c_in + row * n, .given_h = l->h_in + row * n,
      .gates = l->gates + row * GATES * n, .c = l->c + first * n, .h = l->carry + first * n,
      .kept = kept,
    };
    l->kernels->cell_back(&s);
    const float *columns = l->packed, *x = copy_rows(rows, s.gates, GATES * n, memory[1]);
    for (int64_t d = 0; d < n; d += width, columns += GATES * n * width)
      product(l, rows, x, GATES * n, columns, s.h + d, n, n - d);
    for (int64_t r = 0; s.mask && r < rows; r++)
      if (!s.mask[r]) memcpy(s.h + r * n, kept + r * n, n * sizeof(float));
  }
  free_vectors(kept);
  return 1;
}

static int run_rows(Work *work, int64_t chunk) {
  Loop *l = (Loop *)work;
  int64_t first = l->batch * chunk / work->chunks;
  int64_t rows = l->batch * (chunk + 1) / work->chunks - first;
  return l->back ? backward(l, first, rows) : forward(l, first, rows);
}

/* Operands: what the inputs add to the gates (steps, batch, 4 * features), the kernel, the bias, c
 * and h before all steps and, perhaps, the mask. Results: h of all steps, the last c and, perhaps,
 * the slopes of the gates, of the new by the old c, and of h by c.
 *
 * Back: the three slopes, the kernel, the gradients by h of all steps, by the last c and the last h
 * and, perhaps, the mask. Results: the gradients by the gates, and by c and h before all steps. */
static FfiError *read_lstm(FfiCall *f, Loop *l) {
  FfiBuffer **in = f->operands.buffers, **out = f->results.buffers;
  int64_t operands = 5, masked = f->operands.count == operands + 1, results = f->results.count;
  REQUIRE(f->operands.count == operands || masked);
  REQUIRE(results == 2 || results == 5);
  REQUIRE(in[0]->rank == 3 && in[0]->dims[2] % GATES == 0);
  int64_t steps = in[0]->dims[0], batch = in[0]->dims[1], wide = in[0]->dims[2], n = wide / GATES;
  REQUIRE(IS(in[0], F32, steps, batch, wide) && IS(in[1], F32, n, wide) && IS(in[2], F32, wide));
  REQUIRE(!masked || IS(in[operands], PRED, steps, batch));
  REQUIRE(IS(in[3], F32, batch, n) && IS(in[4], F32, batch, n));
  REQUIRE(IS(out[0], F32, steps, batch, n) && IS(out[1], F32, batch, n));
  REQUIRE(results == 2 || IS(out[2], F32, steps, batch, wide));
  for (int64_t i = 3; i < results; i++) REQUIRE(IS(out[i], F32, steps, batch, n));
  *l = (Loop){
    .steps = steps, .batch = batch, .features = n, .mask = masked ? in[operands]->data : NULL,
    .gates_in = in[0]->data, .kernel = in[1]->data, .bias = in[2]->data, .h_in = in[4]->data,
    .h = out[0]->data, .c = out[1]->data,
  };
  if (results == 5)
    l->gates = out[2]->data, l->by_old_c = out[3]->data, l->by_c = out[4]->data;
  return NULL;
}

static FfiError *read_lstm_back(FfiCall *f, Loop *l) {
  FfiBuffer **in = f->operands.buffers, **out = f->results.buffers;
  int64_t operands = 7, masked = f->operands.count == operands + 1;
  REQUIRE(f->operands.count == operands || masked);
  REQUIRE(f->results.count == 3);
  REQUIRE(in[0]->rank == 3 && in[0]->dims[2] % GATES == 0);
  int64_t steps = in[0]->dims[0], batch = in[0]->dims[1], wide = in[0]->dims[2], n = wide / GATES;
  REQUIRE(IS(in[0], F32, steps, batch, wide) && IS(in[3], F32, n, wide));
  REQUIRE(!masked || IS(in[operands], PRED, steps, batch));
  REQUIRE(IS(in[5], F32, batch, n) && IS(in[6], F32, batch, n) && IS(out[1], F32, batch, n));
  REQUIRE(IS(in[1], F32, steps, batch, n) && IS(in[2], F32, steps, batch, n));
  REQUIRE(IS(in[4], F32, steps, batch, n));
  REQUIRE(IS(out[0], F32, steps, batch, wide) && IS(out[2], F32, batch, n));
  *l = (Loop){
    .back = 1, .steps = steps, .batch = batch, .features = n,
    .mask = masked ? in[operands]->data : NULL, .gates_in = in[0]->data,
    .by_old_c_in = in[1]->data, .by_c_in = in[2]->data, .kernel = in[3]->data, .h_in = in[4]->data,
    .gates = out[0]->data, .c = out[1]->data, .carry = out[2]->data,
  };
  return NULL;
}

/* Packs the kernel and runs all rows; returns 0 if memory runs out. */
static int run_loop(Loop given, FfiCall *f) {
  Loop *l = zeros(1, sizeof(Loop));
  if (!l) return 0;
  int64_t threads = threads_of(f), chunks = divide_up(given.batch, ROWS);
  *l = given;
  l->vectors = 2;
  l->work = (Work){
    .holders = 1, .chunks = MIN(round_up(chunks, threads), l->batch), .run = run_rows,
    .close = free_loop,
  };
  int64_t lanes = l->kernels->lanes, size = (l->features + 2 * lanes) * GATES * l->features;
  int ok = allocate(1, &size, &l->packed);
  if (ok) {
    if (l->features % lanes) memset(l->packed, 0, size * sizeof(float));
    pack_kernel(l);
    ok = run_chunks(&l->work, f, threads);
  }
  release(&l->work);
  return ok;
}

static FfiError *lstm(FfiCall *f, int back) {
  if (no_run(f)) return NULL;
  Loop given = {0};
  FfiError *wrong = back ? read_lstm_back(f, &given) : read_lstm(f, &given);
  if (wrong) return wrong;
  given.kernels = kernels_in_use();
  REQUIRE(given.kernels);
  FfiBuffer **in = f->operands.buffers;
  int64_t carry = given.batch * given.features * sizeof(float);
  memcpy(given.c, in[back ? 5 : 3]->data, carry);
  if (back) memcpy(given.carry, in[6]->data, carry);
  if (!given.steps || !given.batch || !given.features) return NULL;
  return run_loop(given, f) ? NULL : no_memory(f);
}

FfiError *jaxnet_lstm(FfiCall *f) { return lstm(f, 0); }
FfiError *jaxnet_lstm_back(FfiCall *f) { return lstm(f, 1); }
