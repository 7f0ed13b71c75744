/* What the kernels share: memory, threads and errors. GCC or Clang; no library but libc. */

#pragma once
#include <limits.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "ffi.h"

#define INLINE static inline __attribute__((always_inline))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 28")
#endif
#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ volatile("yield")
#else
#error "no vectors: jaxnet falls back to XLA's convolutions"
#endif

/* Memory that begins on a line of the cache, in whole lines: macOS gives no other. */
#ifdef _WIN32
#ifndef __clang__
#error "GCC for Windows takes the stack for aligned, and its vectors there are not"
#endif
#include <malloc.h>
#define new_vectors(bytes) _aligned_malloc((size_t)(bytes), 64)
#define free_vectors _aligned_free
#else
#define new_vectors(bytes) aligned_alloc(64, (size_t)(bytes))
#define free_vectors free
#endif

static inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

static inline void *zeros(int64_t n, int64_t size) {
  size_t bytes;
  if (__builtin_mul_overflow((size_t)n, (size_t)size, &bytes) || bytes > PTRDIFF_MAX) return NULL;
  return calloc(bytes + 64, 1);
}

/* Makes arrays of these many floats, aligned for vectors; the first one is to be freed. */
static inline int allocate(int64_t count, const int64_t *floats, float **arrays) {
  int64_t total = 0;
  for (int64_t i = 0; i < count; i++) total += round_up(floats[i], 16);
  arrays[0] = new_vectors(total * 4);
  for (int64_t i = 1; arrays[0] && i < count; i++)
    arrays[i] = arrays[i - 1] + round_up(floats[i - 1], 16);
  return arrays[0] != NULL;
}

/* Asks for some rows of n floats that are needed soon: the processor does not by itself for rows
 * that lie far apart. */
INLINE void fetch(const float *from, int64_t row, int64_t count, int64_t n) {
  for (int64_t r = 0; r < count; r++)
    for (int64_t d = 0; d < n; d += 16) __builtin_prefetch(from + r * row + d, 0, 2);
}

/* The place of an array after n numbers. */
static float *after(int half, const float *array, int64_t n) {
  return (float *)((char *)array + n * (half ? 2 : 4));
}

/* Errors of XLA's interface. */

static FfiError *error(const FfiApi *api, FfiCode code, const char *message) {
  FfiNewError args = {FFI_SIZE(FfiNewError, code), NULL, message, code};
  return api->new_error(&args);
}

static int ignored(const FfiApi *api, FfiError *found) {
  FfiDropError args = {FFI_SIZE(FfiDropError, error), NULL, found};
  if (found) api->drop_error(&args);
  return found != NULL;
}

static FfiError *no_memory(const FfiCall *f) {
  return error(f->api, FFI_RESOURCE_EXHAUSTED, "jaxnet: no memory");
}

#define REQUIRE(condition)                                                                         \
  if (!(condition))                                                                                \
    return error(f->api, FFI_INVALID_ARGUMENT, "jaxnet: not " #condition);

/* The number of entries. */
static int64_t size_of(const FfiBuffer *b) {
  int64_t size = 1;
  for (int64_t i = 0; i < b->rank; i++) size *= b->dims[i];
  return size;
}

/* Whether a buffer has this type and these sizes. */
static int is(const FfiBuffer *b, FfiType type, int64_t rank, const int64_t *sizes) {
  if (b->type != type || b->rank != rank) return 0;
  for (int64_t i = 0; i < rank; i++)
    if (b->dims[i] != sizes[i] || sizes[i] > INT32_MAX) return 0;
  return 1;
}
#define IS(buffer, type, ...)                                                     \
  is(buffer, FFI_##type, sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), \
     (const int64_t[]){__VA_ARGS__})

/* Whether the call only asks for the version of the interface, which this answers, or anything else
 * than to run. */
static int no_run(FfiCall *f) {
  if (f->extensions && f->extensions->kind == FFI_METADATA) {
    FfiMetadata *data = ((FfiMetadataQuestion *)f->extensions)->metadata;
    data->version.size = FFI_SIZE(FfiVersion, minor);
    data->version.extensions = NULL;
    data->version.major = FFI_MAJOR;
    /* JAX 0.7 gives no api here. */
    data->version.minor = f->api ? MIN(FFI_NEWEST, f->api->version.minor) : FFI_OLDEST;
    data->traits = 0;
    return 1;
  }
  return f->stage != FFI_EXECUTE;
}

/* Work in chunks for all threads of XLA's pool. It is the first field of what it works on. */
typedef struct Work {
  _Atomic int64_t next, done, holders;
  atomic_int failed;
  int64_t chunks;
  int (*run)(struct Work *, int64_t chunk); /* returns 0 without memory */
  void (*close)(struct Work *);
} Work;

static int64_t threads_of(FfiCall *f) {
  int64_t threads = 1;
  FfiCountThreads args = {FFI_SIZE(FfiCountThreads, threads), NULL, f->context, &threads};
  return ignored(f->api, f->api->count_threads(&args)) || threads < 1 ? 1 : threads;
}

static void take_chunks(Work *work) {
  for (int64_t chunk; (chunk = atomic_fetch_add(&work->next, 1)) < work->chunks;) {
    if (!work->run(work, chunk)) atomic_store(&work->failed, 1);
    atomic_fetch_add(&work->done, 1);
  }
}

/* Waits until these many chunks are done. */
static void wait_for(Work *work, int64_t chunks) {
  for (int64_t spins = 0; atomic_load(&work->done) < chunks; spins++)
    if (spins > 2000) sched_yield();
    else PAUSE();
}

static void release(Work *work) {
  if (atomic_fetch_sub(&work->holders, 1) == 1) work->close(work);
}

static void task(void *work) {
  take_chunks(work);
  release(work);
}

/* Runs all chunks; returns 0 if one failed. All threads that are free take chunks until none is
 * left. The caller waits only for chunks that run, so it ends even if every other thread waits here
 * for itself. */
static int run_chunks(Work *work, FfiCall *f, int64_t threads) {
  int64_t helpers = MIN(threads, work->chunks) - 1;
  FfiSchedule args = {FFI_SIZE(FfiSchedule, data), NULL, f->context, task, work};
  atomic_fetch_add(&work->holders, MAX(helpers, 0));
  for (int64_t i = 0; i < helpers; i++)
    if (ignored(f->api, f->api->schedule(&args))) release(work);
  take_chunks(work);
  wait_for(work, work->chunks);
  return !atomic_load(&work->failed);
}
