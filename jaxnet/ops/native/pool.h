/* The largest entries of the windows of x (examples, rows, columns, features) and their gradient, as
 * a handler of XLA's foreign function interface. Padding is never read. The gradient finds the
 * largest entries again, since reading x costs less than writing and reading their places. */

#pragma once
#include "levels.h"

typedef struct {
  Work work;
  const Kernels *kernels;
  int64_t blocks, block; /* of features */
  Pool p;
} Pools;

/* Some rows of results. */
static int run_pool(Work *work, int64_t chunk) {
  const Pools *all = (const Pools *)work;
  const Pool *p = &all->p;
  int64_t rows = p->examples * p->out[0], wide = p->out[1] * p->features;
  for (int64_t i = rows * chunk / work->chunks; i < rows * (chunk + 1) / work->chunks; i++) {
    const float *x = p->x + i / p->out[0] * p->in[0] * p->in[1] * p->features;
    all->kernels->pool(p, x, NULL, p->y + i * wide, taps_of(p, 0, i % p->out[0]), p->features);
  }
  return 1;
}

/* The gradient of an example for some features. A row is set to zero just before its first sum. */
static int run_pool_back(Work *work, int64_t chunk) {
  const Pools *all = (const Pools *)work;
  const Pool *p = &all->p;
  int64_t example = chunk / all->blocks, feature = chunk % all->blocks * all->block;
  int64_t features = MIN(all->block, p->features - feature), ready = 0;
  int64_t image = p->in[0] * p->in[1] * p->features, row = p->out[1] * p->features;
  const float *x = p->x + example * image + feature;
  const float *given = p->given + example * p->out[0] * row + feature;
  float *y = p->y + example * image + feature;
  for (int64_t o = 0; o <= p->out[0]; o++) {
    Taps taps = taps_of(p, 0, MIN(o, p->out[0] - 1));
    int64_t needed = o < p->out[0] ? taps.start + (taps.last - 1) * p->apart[0] + 1 : p->in[0];
    for (; ready < MIN(needed, p->in[0]); ready++)
      for (int64_t c = 0; c < p->in[1]; c++)
        memset(y + (ready * p->in[1] + c) * p->features, 0, features * sizeof(float));
    if (o < p->out[0]) all->kernels->pool(p, x, given + o * row, y, taps, features);
  }
  return 1;
}

static void free_pool(Work *work) { free(work); }

FfiError *jaxnet_max_pool(FfiCall *f) {
  if (no_run(f)) return NULL;
  int back = f->operands.count == 2;
  REQUIRE((back || f->operands.count == 1) && f->results.count == 1 && f->options.count == 1);
  REQUIRE(f->options.kinds[0] == FFI_ARRAY);
  const FfiArray *array = f->options.values[0];
  REQUIRE(array->type == FFI_S64 && array->count == 8);
  const int64_t *form = array->data; /* window, strides, dilation and padding before, per axis */
  FfiBuffer **in = f->operands.buffers, **out = f->results.buffers;
  FfiBuffer *x = in[0], *y = back ? in[1] : out[0];
  REQUIRE(x->rank == 4 && y->rank == 4 && x->dims[0] == y->dims[0] && x->dims[3] == y->dims[3]);
  REQUIRE(is(x, FFI_F32, 4, x->dims) && is(y, FFI_F32, 4, y->dims));
  if (back) REQUIRE(is(out[0], FFI_F32, 4, x->dims));
  for (int i = 0; i < 8; i++) REQUIRE(form[i] >= (i < 6 ? 1 : INT32_MIN) && form[i] <= INT32_MAX);
  const Kernels *kernels = kernels_in_use();
  REQUIRE(kernels);
  if (!out[0]->dims[0] || !out[0]->dims[3] || !x->dims[1] || !x->dims[2]) return NULL;
  Pools *all = zeros(1, sizeof(Pools));
  if (!all) return no_memory(f);
  *all = (Pools){
    .work = {.holders = 1, .run = back ? run_pool_back : run_pool, .close = free_pool},
    .kernels = kernels,
    .p = {
      .examples = x->dims[0], .features = x->dims[3], .x = x->data,
      .given = back ? y->data : NULL, .y = out[0]->data,
      .in = {x->dims[1], x->dims[2]}, .out = {y->dims[1], y->dims[2]},
      .window = {form[0], form[1]}, .strides = {form[2], form[3]},
      .apart = {form[4], form[5]}, .before = {form[6], form[7]},
    },
  };
  int64_t n = all->p.features, wanted = MAX(1, 8 / all->p.examples); /* chunks of one */
  all->block = MAX(32, (n / wanted + 15) / 16 * 16);
  all->blocks = (n + all->block - 1) / all->block;
  int64_t pieces = x->dims[0] * x->dims[1] * x->dims[2] * n / 16384 + 1; /* worth a thread */
  all->work.chunks = back ? all->p.examples * all->blocks
                          : MIN(MIN(64, pieces), all->p.examples * all->p.out[0]);
  if (all->work.chunks) run_chunks(&all->work, f, pieces > 1 ? threads_of(f) : 1);
  release(&all->work);
  return NULL;
}
