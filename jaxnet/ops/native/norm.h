/* Norms of x (examples, pixels, groups, members) and their gradients, as a handler of XLA's foreign
 * function interface. x is standardized over pixels and members, or only divided by the root of its
 * mean square; then it is multiplied by a scale, and a bias is added, both of (groups * members). An
 * example stays in a cache for all its passes. The gradient computes the moments again, since x is
 * read anyway. */

#pragma once
#include "levels.h"

typedef struct {
  Work work;
  const Kernels *kernels;
  int64_t examples;
  float *sums; /* of each chunk the gradients of scale and bias, or NULL */
  Norm s;
} Norms;

static int run_norm(Work *work, int64_t chunk) {
  const Norms *all = (const Norms *)work;
  int64_t room = all->s.features + 16;
  float *memory = zeros(7 * room, sizeof(float));
  float *sums = all->sums ? all->sums + 2 * room * chunk : NULL;
  int64_t last = all->examples * (chunk + 1) / work->chunks;
  for (int64_t i = all->examples * chunk / work->chunks; memory && i < last; i++)
    all->kernels->norm(&all->s, i, memory, sums);
  free(memory);
  return memory != NULL;
}

static void free_norm(Work *work) {
  free(((Norms *)work)->sums);
  free(work);
}

FfiError *jaxnet_norm(FfiCall *f) {
  if (no_run(f)) return NULL;
  int back = f->results.count == 3;
  REQUIRE(f->operands.count == 3 && (back || f->results.count == 1) && f->options.count == 2);
  const FfiScalar **options = (const FfiScalar **)f->options.values; /* sorted by name */
  for (int i = 0; i < 2; i++) REQUIRE(f->options.kinds[i] == FFI_SCALAR);
  REQUIRE(options[0]->type == FFI_S32);
  REQUIRE(options[1]->type == FFI_F32);
  FfiBuffer **in = f->operands.buffers, **out = f->results.buffers;
  FfiBuffer *x = in[0], *wide[] = {x, out[0], in[2]};
  FfiBuffer *narrow[] = {in[1], back ? out[1] : in[2], back ? out[2] : in[2]};
  REQUIRE(x->type == FFI_F32 || x->type == FFI_BF16);
  REQUIRE(x->rank == 4);
  int64_t features = x->dims[2] * x->dims[3], size = x->dims[0] * x->dims[1] * features;
  for (int i = 0; i < 2 + back; i++) REQUIRE(is(wide[i], x->type, 4, x->dims));
  for (int i = 0; i < 3; i++) REQUIRE(IS(narrow[i], F32, features));
  const Kernels *kernels = kernels_in_use();
  REQUIRE(kernels);
  if (!size) return NULL;
  Norms *all = zeros(1, sizeof(Norms));
  if (!all) return no_memory(f);
  *all = (Norms){
    .work = {.holders = 1, .run = run_norm, .close = free_norm},
    .kernels = kernels, .examples = x->dims[0],
    .s = {
      .half = x->type == FFI_BF16, .pixels = x->dims[1], .features = features,
      .inner = x->dims[3], .x = x->data, .scale = in[1]->data, .y = out[0]->data,
    },
  };
  *(back ? &all->s.given : (const void **)&all->s.bias) = in[2]->data;
  memcpy(&all->s.centered, options[0]->value, sizeof(int));
  memcpy(&all->s.epsilon, options[1]->value, sizeof(float));
  /* The sums of chunks are added in their order, so their number may not depend on the threads. */
  int64_t pieces = size / 16384 + 1, room = features + 16; /* of work that is worth a thread */
  all->work.chunks = MIN(MIN(32, pieces), all->examples);
  if (back) all->sums = zeros(2 * room * all->work.chunks, sizeof(float));
  int ok = (!back || all->sums) && run_chunks(&all->work, f, threads_of(f));
  for (int i = 0; ok && i < 2 * back; i++) {
    float *to = memcpy(out[1 + i]->data, all->sums + i * room, features * sizeof(float));
    for (int64_t chunk = 1; chunk < all->work.chunks; chunk++)
      for (int64_t n = 0; n < features; n++) to[n] += all->sums[(2 * chunk + i) * room + n];
  }
  release(&all->work);
  return ok ? NULL : no_memory(f);
}

/* Mean, variance and power (`wide_moments`) of each feature of x, rows of features, or, with a gradient of the same size and
 * the mean, the sums of the gradient and of it times x - mean. Each chunk of rows is small enough for
 * a cache, from which its squares are read. */
typedef struct {
  Work work;
  const Kernels *kernels;
  int half;
  int64_t rows, features, space;
  const void *x, *given;
  const float *shift;
  float *sums; /* first x as floats, then of each chunk */
} Moments;

enum { CACHED = 32768 }; /* numbers */

static float float_at(const Moments *s, int64_t i) {
  uint32_t bits = s->half ? (uint32_t)((const uint16_t *)s->x)[i] << 16 : ((const uint32_t *)s->x)[i];
  float value;
  memcpy(&value, &bits, sizeof bits);
  return value;
}

static int64_t rows_before(const Moments *s, int64_t chunk) {
  return s->rows * chunk / s->work.chunks;
}

static int run_moments(Work *work, int64_t chunk) {
  const Moments *s = (const Moments *)work;
  int64_t first = rows_before(s, chunk), skip = first * s->features * (s->half ? 2 : 4);
  s->kernels->moments(s->half, rows_before(s, chunk + 1) - first, s->features, (const char *)s->x + skip,
                      s->given ? (const char *)s->given + skip : NULL, s->shift,
                      s->sums + (1 + 3 * chunk) * s->space, s->space);
  return 1;
}

static void free_moments(Work *work) {
  free(((Moments *)work)->sums);
  free(work);
}

/* The moments of a feature whose squares are no floats, in doubles. The variance is that of x times
 * `power`, which is a power of two. */
static void wide_moments(const Moments *s, int64_t f, float *total, float *other, float *power) {
  double sum = 0, square = 0;
  for (int64_t r = 0; r < s->rows; r++) sum += float_at(s, r * s->features + f);
  double mean = sum / (double)s->rows;
  for (int64_t r = 0; r < s->rows; r++) {
    double centered = float_at(s, r * s->features + f) - mean;
    square += centered * centered;
  }
  *power = 0x1p-88f; /* brings the largest floats to where their squares can be summed */
  *total = (float)mean;
  *other = (float)(square / (double)s->rows * *power * *power);
}

/* Means and sums of squares of chunks are those of all rows by Chan, Golub and LeVeque 1983. */
static void add_moments(const Moments *s, float *total, float *other, float *power) {
  int64_t chunks = s->work.chunks;
  for (int64_t f = 0; f < s->features; f++) {
    const float *sums = s->sums + s->space + f;
    double sum = 0, square = 0;
    for (int64_t c = 0; c < chunks; c++, sums += 3 * s->space) {
      double rows = (double)(rows_before(s, c + 1) - rows_before(s, c));
      sum += s->given ? sums[0] : sums[0] * rows;
      square += sums[s->space];
    }
    if (!s->given) {
      double mean = sum / (double)s->rows;
      sums = s->sums + s->space + f;
      for (int64_t c = 0; c < chunks; c++, sums += 3 * s->space) {
        double rows = (double)(rows_before(s, c + 1) - rows_before(s, c));
        square += rows * (sums[0] - mean) * (sums[0] - mean);
      }
      sum = s->shift[f] + mean;
      square /= (double)s->rows;
    }
    total[f] = (float)sum;
    other[f] = (float)square;
    if (s->given) continue;
    power[f] = 1;
    if (!(other[f] < 0x1p96f)) wide_moments(s, f, total + f, other + f, power + f);
  }
}

FfiError *jaxnet_moments(FfiCall *f) {
  if (no_run(f)) return NULL;
  REQUIRE(f->operands.count == 1 || f->operands.count == 3);
  FfiBuffer **in = f->operands.buffers, **out = f->results.buffers;
  FfiBuffer *x = in[0], *given = f->operands.count == 3 ? in[1] : NULL;
  REQUIRE(f->results.count == (given ? 2 : 3) && f->options.count == 0);
  REQUIRE(x->type == FFI_F32 || x->type == FFI_BF16);
  REQUIRE(x->rank == 1 && out[0]->rank == 1);
  int64_t n = out[0]->dims[0], rows = n ? x->dims[0] / n : 0;
  REQUIRE(IS(out[0], F32, n) && IS(out[1], F32, n) && rows > 0 && rows * n == x->dims[0]);
  REQUIRE(given ? is(given, x->type, 1, x->dims) && IS(in[2], F32, n) : IS(out[2], F32, n));
  const Kernels *kernels = kernels_in_use();
  REQUIRE(kernels);
  Moments *s = zeros(1, sizeof(Moments));
  if (!s) return no_memory(f);
  *s = (Moments){
    .work = {.holders = 1, .run = run_moments, .close = free_moments},
    .kernels = kernels, .half = x->type == FFI_BF16, .rows = rows, .features = n,
    .space = n + 16, .x = x->data, .given = given ? given->data : NULL,
  };
  s->work.chunks = MIN(rows, divide_up(rows * n, CACHED));
  s->sums = zeros((1 + 3 * s->work.chunks) * s->space, sizeof(float));
  s->shift = given ? in[2]->data : s->sums;
  for (int64_t i = 0; s->sums && !given && i < n; i++) s->sums[i] = float_at(s, i);
  int ok = s->sums && run_chunks(&s->work, f, threads_of(f));
  if (ok) add_moments(s, out[0]->data, out[1]->data, given ? NULL : out[2]->data);
  release(&s->work);
  return ok ? NULL : no_memory(f);
}
