/* A simple recurrence h = tanh(pre + h @ kernel + bias) of float32 arrays over all steps, and the
 * loop back that its gradient needs, as a handler of XLA's foreign function interface. As in lstm.h,
 * each chunk runs some rows of a batch through all steps. */

#pragma once
#include "lstm.h"
#include "levels.h"

static int run_plain(Work *work, int64_t chunk) {
  Loop *l = (Loop *)work;
  int64_t n = l->features, width = 2 * l->kernels->lanes;
  int64_t first = l->batch * chunk / work->chunks;
  int64_t rows = l->batch * (chunk + 1) / work->chunks - first;
  float *memory[2], *kept;
  if (!allocate(2, (int64_t[]){rows * n, rows * apart(n)}, memory)) return 0;
  kept = memory[0];
  for (int64_t i = 0; i < l->steps; i++) {
    int64_t t = l->back ? l->steps - 1 - i : i, row = t * l->batch + first, at = row * n;
    const uint8_t *mask = l->mask ? l->mask + row : NULL;
    float *h = l->back ? l->carry + first * n : l->h + at;
    const float *from = l->back ? l->gates + at : t ? h - l->batch * n : l->h_in + first * n;
    CellBack back = {
      .rows = rows, .features = n, .mask = mask, .slopes = l->gates_in + at,
      .given_h = l->h_in + at, .gates = l->gates + at, .h = h, .kept = kept,
    };
    Cell s = {
      .rows = rows, .features = n, .mask = mask, .bias = l->bias, .gates = l->gates_in + at,
      .before = from, .slopes = l->gates ? l->gates + at : NULL, .h = h,
    };
    if (l->back) l->kernels->plain_back(&back);
    from = copy_rows(rows, from, n, memory[1]);
    for (int64_t d = 0; d < n; d += width)
      product(l, rows, from, n, l->packed + d * n, h + d, n, n - d);
    if (!l->back) l->kernels->plain(&s);
    for (int64_t r = 0; l->back && mask && r < rows; r++)
      if (!mask[r]) memcpy(h + r * n, kept + r * n, n * sizeof(float));
  }
  free_vectors(kept);
  return 1;
}

/* Operands: what the inputs add (steps, batch, features), the kernel, the bias, h before all steps
 * and, perhaps, the mask. Results: h of all steps and, perhaps, the slopes of tanh.
 *
 * Back: the slopes, the kernel, the gradients by h of all steps and by the last h and, perhaps, the
 * mask. Results: the gradients by what the inputs add, and by h before all steps. */
FfiError *jaxnet_rnn(FfiCall *f) {
  if (no_run(f)) return NULL;
  FfiBuffer **in = f->operands.buffers, **out = f->results.buffers;
  int masked = f->operands.count == 5;
  REQUIRE(f->operands.count == 4 || masked);
  REQUIRE(f->results.count == 1 || f->results.count == 2);
  REQUIRE(in[0]->rank == 3);
  int64_t steps = in[0]->dims[0], batch = in[0]->dims[1], n = in[0]->dims[2];
  int back = in[2]->rank == 3;
  REQUIRE(IS(in[0], F32, steps, batch, n) && IS(in[1], F32, n, n));
  REQUIRE(back ? IS(in[2], F32, steps, batch, n) : IS(in[2], F32, n));
  REQUIRE(IS(in[3], F32, batch, n) && IS(out[0], F32, steps, batch, n));
  REQUIRE(!masked || IS(in[4], PRED, steps, batch));
  if (back) REQUIRE(f->results.count == 2 && IS(out[1], F32, batch, n));
  REQUIRE(back || f->results.count == 1 || IS(out[1], F32, steps, batch, n));
  const Kernels *kernels = kernels_in_use();
  REQUIRE(kernels);
  if (back) memcpy(out[1]->data, in[3]->data, batch * n * sizeof(float));
  if (!steps || !batch || !n) return NULL;
  Loop *l = zeros(1, sizeof(Loop));
  if (!l) return no_memory(f);
  int64_t threads = threads_of(f), chunks = divide_up(batch, ROWS), width = 2 * kernels->lanes;
  *l = (Loop){
    .work = {.holders = 1, .run = run_plain, .close = free_loop},
    .kernels = kernels, .back = back, .steps = steps, .batch = batch, .features = n, .vectors = 2,
    .mask = masked ? in[4]->data : NULL, .kernel = in[1]->data, .gates_in = in[0]->data,
    .bias = in[2]->data, .h_in = in[back ? 2 : 3]->data, .h = out[0]->data,
  };
  if (back) {
    l->gates = out[0]->data;
    l->carry = out[1]->data;
  } else if (f->results.count == 2)
    l->gates = out[1]->data;
  l->work.chunks = MIN(round_up(chunks, threads), batch);
  int64_t size = n * round_up(n, width);
  int ok = allocate(1, &size, &l->packed);
  for (int64_t d = 0; ok && back && d < n; d += width)
    kernels->pack(l->kernel + d * n, n, MIN(width, n - d), n, 1, l->packed + d * n);
  for (int64_t k = 0; ok && !back && k < n; k++)
    kernels->panels(l->kernel + k * n, n, width, n * width, l->packed + k * width);
  ok = ok && run_chunks(&l->work, f, threads);
  release(&l->work);
  return ok ? NULL : no_memory(f);
}
