/* Which entries dropout keeps: those of jax.random.bernoulli with a key of threefry2x32, where
 * jax_threefry_partitionable is on. Entry i depends on the key and i alone. */

#pragma once
#include "levels.h"

typedef struct {
  Work work;
  const Kernels *kernels;
  uint32_t key[2], below;
  int64_t n;
  uint8_t *to;
} Keep;

enum { KEPT = 1 << 15 }; /* of a chunk */

static int run_keep(Work *work, int64_t chunk) {
  const Keep *s = (const Keep *)work;
  int64_t first = chunk * KEPT;
  s->kernels->keep(s->key, s->below, first, MIN(KEPT, s->n - first), s->to + first);
  return 1;
}

static void free_keep(Work *work) { free(work); }

/* Operand: the key. Result: whether its random number of 23 bits is below a limit, by entry. */
FfiError *jaxnet_keep(FfiCall *f) {
  if (no_run(f)) return NULL;
  REQUIRE(f->operands.count == 1 && f->results.count == 1 && f->options.count == 1);
  REQUIRE(f->options.kinds[0] == FFI_SCALAR);
  const FfiScalar *below = f->options.values[0];
  REQUIRE(below->type == FFI_S32);
  const FfiBuffer *key = f->operands.buffers[0], *out = f->results.buffers[0];
  REQUIRE(IS(key, U32, 2) && out->type == FFI_PRED);
  const Kernels *kernels = kernels_in_use();
  REQUIRE(kernels);
  Keep *s = zeros(1, sizeof(Keep));
  if (!s) return no_memory(f);
  *s = (Keep){
    .work = {.holders = 1, .run = run_keep, .close = free_keep},
    .kernels = kernels, .n = size_of(out), .to = out->data,
  };
  memcpy(s->key, key->data, sizeof(s->key));
  memcpy(&s->below, below->value, sizeof(s->below));
  s->work.chunks = divide_up(s->n, KEPT);
  run_chunks(&s->work, f, threads_of(f));
  release(&s->work);
  return NULL;
}
