/* What the kernels share: memory, vectors, tiles, instruction sets, threads and errors. GCC or Clang; no
 * library but libc. */

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
#define HIDE(x) __asm__("" : "+r"(x))
/* Bytes ahead that a product of few rows asks for: processors look ahead within a page of 4 kB only. */
#define AHEAD 16384

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

static int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

static void *zeros(int64_t n, int64_t size) {
  size_t bytes;
  if (__builtin_mul_overflow((size_t)n, (size_t)size, &bytes) || bytes > PTRDIFF_MAX) return NULL;
  return calloc(bytes + 64, 1);
}

/* Makes arrays of these many floats, aligned for vectors; the first one is to be freed. */
static int allocate(int64_t count, const int64_t *floats, float **arrays) {
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

/* What a tile of `sum` reads: a row of x and one of w per row of the kernel, in both at these
 * distances per tap; `run` neighbors in memory per tap. */
typedef struct {
  const float *const *x, *const *w;
  int64_t rows, taps, run, tap_x, tap_w, pixel, result;
  int onto; /* whether to add to the result, for whole vectors */
} Sum;

/* What a tile of `add` reads: rows of x and y at these distances per column, for each row of the
 * kernel `rows` of x. `kernel` and `width` are distances in the result. Tiles of bfloat16 may begin
 * at 0, and write `left` rounded numbers per row of `line`. */
typedef struct {
  const float *const *x, *const *y;
  int64_t rows, columns, step_x, step_y, step_tap, kernel, width;
  int first;
  uint16_t *rounded;
  int64_t line, left;
} Add;

/* What a step of an LSTM reads and writes, for some rows; see lstm.h. Rows are `features` apart, and
 * four times as far in `gates` and `slopes`. */
typedef struct {
  int64_t rows, features;
  const uint8_t *mask;         /* one per row, or NULL */
  const float *bias, *product; /* of a row: its four gates, a vector of each */
  const float *gates, *before;
  float *slopes, *by_old_c, *by_c, *c, *h; /* the first three may be NULL */
} Cell;

/* What a step back through an LSTM reads and writes. `slopes`, `by_old_c` and `by_c` are given. */
typedef struct {
  int64_t rows, features;
  const uint8_t *mask;
  const float *slopes, *by_old_c, *by_c, *given_h;
  float *gates, *c, *h, *kept; /* `kept` is the gradient by h, for the rows that the mask leaves */
} CellBack;

/* How inputs of some groups become vectors: `inputs` neighbors of `depth` per group, and the place of
 * the first input that each number of a vector needs. */
typedef struct {
  int64_t depth, inputs;
  int32_t first[16];
} Spread;

/* Arrays (examples, pixels, features) whose groups of `inner` features are standardized, of floats or
 * of bfloat16; see norm.h. `given` is the gradient of the result, or NULL. */
typedef struct {
  int half, centered;
  int64_t pixels, features, inner;
  float epsilon;
  const float *scale, *bias;
  const void *x, *given;
  void *y;
} Norm;

/* Windows of images x (examples, rows, columns, features) whose largest entries are taken, by axis of
 * an image; see pool.h. `given` is the gradient of the results, and `y` then that of x. */
typedef struct {
  int64_t examples, features, in[2], out[2], window[2], strides[2], apart[2], before[2];
  const float *x, *given;
  float *y;
} Pool;

/* The taps of a window that are inside along an axis: first to last, from the place of tap 0 on. */
typedef struct {
  int64_t start, first, last;
} Taps;

static Taps taps_of(const Pool *p, int axis, int64_t result) {
  int64_t apart = p->apart[axis], start = result * p->strides[axis] - p->before[axis];
  int64_t first = start < 0 ? (-start + apart - 1) / apart : 0;
  int64_t last = (p->in[axis] - start + apart - 1) / apart;
  return (Taps){start, first, MAX(first, MIN(last, p->window[axis]))};
}

/* A product of rows x (rows, inputs), one to four of them, with w; see gemv.h. */
typedef enum { F32, BF16, INT8, INT4 } Numbers; /* of which a word of 32 bits holds 1, 2, 4 or 8 */
typedef struct {
  Numbers numbers;
  int transposed, half; /* scales: 0 of float32, 1 of float16, 2 of bfloat16 */
  int64_t rows, inputs, outputs;
  int64_t group;        /* neighboring inputs that share a scale */
  int64_t parts;        /* of the inputs, or transposed of the outputs */
  int64_t line, padded; /* bytes of a line of w, and its numbers in whole vectors of words */
  const float *x;
  const void *scale; /* or NULL */
  const char *w;
  float *sums, *y; /* of each part its sums and those of a group; transposed, x for vectors of w */
  int32_t *places; /* transposed, the group of each word of a line */
} Gemv;

/* A product of rows x, as integers, with two numbers of 4 bits per byte; see nibbles_tiles.h. */
#define DIGITS 3
#define STEPS 2080768.0f /* 127 * 2**14 */
typedef struct {
  int transposed, half;
  int64_t rows, inputs, outputs, group, line;
  int64_t groups;               /* of 32 inputs */
  int64_t parts, strips, padded; /* of the inputs, or transposed of the outputs; of the outputs */
  const float *x;
  const void *scale;
  const uint8_t *w;
  int8_t *digits;
  float *largest, *sums, *y; /* of each 32 numbers of x */
  int32_t *less, *places;    /* what the 8 in each number adds; transposed, the group of each word */
} Nibbles;
typedef struct {
  int lanes;
  void (*digits)(const Nibbles *);
  void (*lines)(const Nibbles *, int64_t chunk);
  void (*columns)(const Nibbles *, int64_t chunk);
} Dots;

/* How floats become integers of at most so many steps: x * up * inverse, from the bits of the largest
 * absolute value. `largest` is NaN if a number is not finite; then, and of zeros, `inverse` is 0. */
typedef struct {
  int fine;
  float largest, up, inverse;
} Rounding;

static Rounding rounding_of(int32_t top, float steps) {
  float largest;
  memcpy(&largest, &top, sizeof largest);
  int fine = top > 0 && top < 0x7f800000;
  float up = largest < 1e-18f ? 1e18f : 1;
  return (Rounding){
    fine, fine || !top ? largest : __builtin_nanf(""), up, fine ? steps / (largest * up) : 0,
  };
}

/* A product of rows x, as integers, with numbers of 8 bits; see bytes_tiles.h. */
#define DIGITS_8 4
#define STEPS_8 266338304.0f /* 127 * 2**21 */
typedef struct {
  int transposed;
  int64_t rows, inputs, outputs, padded; /* inputs in whole vectors of w */
  int64_t parts;                         /* of the inputs, or transposed of the outputs */
  const float *x, *scale;
  const uint8_t *w;
  int8_t *digits;
  float *largest, *y; /* of each row of x */
  int32_t *less, *sums;
} Bytes;

/* The places that each query of a panel sees, first <= place < last. All are in [low, high), and
 * every query sees all of [all_low, all_high). */
typedef struct {
  int32_t first[32], last[32];
  int64_t low, high, all_low, all_high;
} Ranges;

/* What a panel of queries and a block of places need for their weights; see attention_tiles.h. */
typedef struct {
  const Ranges *ranges;
  int64_t place, count;
  int masked;    /* whether some query does not see all of these places */
  float softcap; /* or 0 */
} Panel;

/* Attention of one query per head, in groups of heads that share keys and values, floats or bfloat16;
 * see attention.h. `seen` and `bias`, or NULL, are of (batch, heads, places), as the weights. */
typedef struct {
  int half;
  int64_t heads, groups, size, places, width;
  float scale, softcap;
  const float *q, *bias;
  const void *k, *v;
  const uint8_t *seen;
  float *y, *weights;
} One;

/* How a square of Winograd's convolution is transformed, for all features: distances of what is read,
 * or where each of it is, and of what is written, at most `rows` by `columns`; see winograd_tiles.h. */
typedef struct {
  int64_t row, pixel, row_to, pixel_to, vector_to, features, rows, columns;
  const float *at[36];
} Square;

#define LOG2_E 1.44269504f

typedef void SumTile(const Sum *, int64_t start, float *result, int64_t left);
typedef void AddTile(const Add *, int64_t start, int64_t feature, float *result);
typedef void CellTile(const Cell *, int64_t feature);
typedef void CellBackTile(const CellBack *);
typedef void SquareTile(const Square *, const float *from, float *to);

typedef struct {
  int lanes, most;
  SumTile *sum[2][29]; /* by vectors - 1 and count */
  AddTile *add[2][29];
  AddTile *add_rows[3][10]; /* three or five rows of the kernel at once: by half of it and count */
  SumTile *sum_each[13];    /* by count */
  AddTile *add_each[3][10]; /* as add_rows, and one row */
  void (*spread)(const Spread *, const float *x, int64_t left, float *to);
  CellTile *cell;
  CellBackTile *cell_back;
  void (*plain)(const Cell *);
  CellBackTile *plain_back;
  void (*keep)(const uint32_t *key, uint32_t below, int64_t first, int64_t count, uint8_t *to);
  void (*gemv)(const Gemv *, int64_t chunk);
  void (*pack)(const float *, int64_t row, int64_t count, int64_t n, float factor, float *to);
  void (*unpack)(const float *, const float *factor, int64_t row, int64_t count, int64_t n,
                 float *to);
  void (*gather)(const float *, int64_t row, int64_t count, int64_t n, int64_t wide, float factor,
                 float *to);
  int (*finite)(const float *, int64_t n);
  float (*dot)(const float *, const float *, int64_t n);
  void (*softmax)(const Panel *, float *scores, float *top, float *sums, float *y, int64_t width);
  void (*slopes)(const Panel *, float *weights, float *slopes, int64_t row, const float *totals,
                 const float *means);
  void (*one)(const One *, int64_t group);
  void (*norm)(const Norm *, int64_t example, float *memory, float *sums);
  void (*moments)(int half, int64_t rows, int64_t features, const void *x, const void *given,
                  const float *shift, float *sums, int64_t space);
  void (*pool)(const Pool *, const float *x, const float *given, float *y, Taps, int64_t features);
  /* for float32 and bfloat16, tiles of 2 and 4 results: of x and of y's gradient, inside and over the
   * border; of products to y; of weights, and of products to their gradient, in float32 */
  SquareTile *read[2][2][2], *back[2][2][2], *write[2][2], *weights[2], *kernel[2];
  void (*panels)(const float *, int64_t n, int64_t width, int64_t panel, float *to);
  /* of words of two bfloat16, where the processor multiplies them; see half_tiles.h */
  SumTile *sum_half[2][29];
  AddTile *add_half[2][29], *add_rows_half[3][10];
  void (*turn)(const uint16_t *, int64_t row, int64_t count, int64_t n, int64_t wide, float *to);
  void (*pair)(const uint16_t *a, const uint16_t *b, int64_t count, int64_t wide, float *to);
  void (*round)(const float *, int64_t n, uint16_t *to);
} Kernels;

/* Numbers of two vectors, by their places in both. */
#ifdef __clang__
#define MIX(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MIX(a, b, ...) __builtin_shuffle(a, b, (NAME(ints)){__VA_ARGS__})
#endif

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f")
#endif
#define LANES 16
#define MOST 28
#define NAME(name) name##_avx512
#define LOAD_FIRST(from, left) (VEC) _mm512_maskz_loadu_ps((__mmask16)((1u << (left)) - 1), from)
#define STORE_FIRST(to, value, left) \
  _mm512_mask_storeu_ps(to, (__mmask16)((1u << (left)) - 1), (__m512)(value))
#define PERMUTE(x, places) (VEC) _mm512_permutexvar_ps((__m512i)(places), (__m512)(x))
#define MAXIMUM(a, b) _mm512_max_ps((__m512)(a), (__m512)(b))
#define HALVES(from) (VEC) _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(from)))
/* Sums are rounded to nearest as in float32, but numbers below 2**-126, and sums below, count as 0.
 * In assembly, since tables of functions for the whole of AVX-512 hold it. */
INLINE __attribute__((target("avx512f"))) __m512 two_products(__m512 total, __m512 x, __m512 w) {
  __asm__("vdpbf16ps %1, %2, %0" : "+v"(total) : "v"(x), "v"(w));
  return total;
}
INLINE __attribute__((target("avx512f"))) __m256i to_half(__m512 x) {
  __m256i some;
  __asm__("vcvtneps2bf16 %1, %0" : "=v"(some) : "v"(x));
  return some;
}
#define TO_HALF(x) (NAME(halves)) to_half((__m512)(x))
#define TWO_PRODUCTS(total, x, w) (VEC) two_products((__m512)(total), _mm512_set1_ps(x), (__m512)(w))
#include "tiles.h"
#undef TWO_PRODUCTS
#undef TO_HALF
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vnni"))), apply_to = function)
#else
#pragma GCC target("avx512bw,avx512vnni")
#endif
#define DOT(sum, w, x) (INTS) _mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(w), (__m512i)(x))
#define END(sum) sum
#define PAIR_LOW(bits, a, b) (WORDS) _mm512_unpacklo_epi##bits((__m512i)(a), (__m512i)(b))
#define PAIR_HIGH(bits, a, b) (WORDS) _mm512_unpackhi_epi##bits((__m512i)(a), (__m512i)(b))
#include "nibbles_tiles.h"
#include "bytes_tiles.h"
#undef DOT
#undef END
#undef PAIR_LOW
#undef PAIR_HIGH
#undef HALVES
#undef LANES
#undef MOST
#undef NAME
#undef LOAD_FIRST
#undef STORE_FIRST
#undef PERMUTE
#undef MAXIMUM
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define LANES 8
#define MOST 12
#define NAME(name) name##_avx2
#define FIRST(left) \
  _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(left)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
#define LOAD_FIRST(from, left) (VEC) _mm256_maskload_ps(from, FIRST(left))
#define STORE_FIRST(to, value, left) _mm256_maskstore_ps(to, FIRST(left), (__m256)(value))
#define PERMUTE(x, places) (VEC) _mm256_permutevar8x32_ps((__m256)(x), (__m256i)(places))
#define MAXIMUM(a, b) _mm256_max_ps((__m256)(a), (__m256)(b))
#define HALVES(from) (VEC) _mm256_cvtph_ps(_mm_loadu_si128((const void *)(from)))
#define DOT(sum, w, x) \
  (INTS) _mm256_add_epi16((__m256i)(sum), _mm256_maddubs_epi16((__m256i)(w), (__m256i)(x)))
#define END(sum) _mm256_madd_epi16((__m256i)(sum), _mm256_set1_epi16(1))
#define PAIR_LOW(bits, a, b) (WORDS) _mm256_unpacklo_epi##bits((__m256i)(a), (__m256i)(b))
#define PAIR_HIGH(bits, a, b) (WORDS) _mm256_unpackhi_epi##bits((__m256i)(a), (__m256i)(b))
#include "tiles.h"
#include "nibbles_tiles.h"
#undef DOT
#undef END
#undef PAIR_LOW
#undef PAIR_HIGH
#undef HALVES
#undef LANES
#undef MOST
#undef NAME
#undef FIRST
#undef LOAD_FIRST
#undef STORE_FIRST
#undef PERMUTE
#undef MAXIMUM
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#include <arm_neon.h>
#define LANES 4
#define MOST 28
#define NAME(name) name##_neon
#define HALVES(from) (VEC) vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)))
#ifdef __ARM_FEATURE_DOTPROD
#define DOT(sum, w, x) (INTS) vdotq_s32((int32x4_t)(sum), (int8x16_t)(w), (int8x16_t)(x))
#define END(sum) sum
#else
#define DOT(sum, w, x)                                                                     \
  (INTS) vaddq_s16((int16x8_t)(sum),                                                       \
                   vpaddq_s16(vmull_s8(vget_low_s8((int8x16_t)(w)), vget_low_s8((int8x16_t)(x))), \
                              vmull_high_s8((int8x16_t)(w), (int8x16_t)(x))))
#define END(sum) vpaddlq_s16((int16x8_t)(sum))
#endif
#define PAIRS_8(a) (uint8x16_t)(a)
#define PAIRS_16(a) (uint16x8_t)(a)
#define PAIR_LOW(bits, a, b) (WORDS) vzip1q_u##bits(PAIRS_##bits(a), PAIRS_##bits(b))
#define PAIR_HIGH(bits, a, b) (WORDS) vzip2q_u##bits(PAIRS_##bits(a), PAIRS_##bits(b))
#include "tiles.h"
#include "nibbles_tiles.h"
#define PAUSE() __asm__ volatile("yield")
#else
#error "no vectors: jaxnet falls back to XLA's convolutions"
#endif

#if defined(__x86_64__)
/* What processor and system have. Not by __builtin_cpu_supports: it says no in what Zig links. */
static int find_level(void) {
  uint32_t a, b, c, d, kept;
  const uint32_t needed = bit_OSXSAVE | bit_FMA | bit_F16C;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & needed) != needed) return 0;
  __asm__("xgetbv" : "=a"(kept), "=d"(d) : "c"(0)); /* registers that the system saves */
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX2) || (kept & 0x06) != 0x06) return 0;
  if (!(b & bit_AVX512F) || (kept & 0xe6) != 0xe6) return 2;
  return a && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1 << 5) ? 4 : 3;
}
#endif

/* The instruction set: 0 for none, 2 for AVX2, 3 for AVX-512, 4 for it with products of bfloat16, 1
 * for NEON. */
int jaxnet_level(void) {
#if defined(__x86_64__)
  static atomic_int level = -1; /* a virtual machine is slow to answer */
  if (level < 0) level = find_level();
  return level;
#else
  return 1;
#endif
}

static const Kernels *kernels_of(int64_t level) {
#if defined(__x86_64__)
  int64_t most = jaxnet_level();
  return level > most ? NULL : level >= 3 ? &kernels_avx512 : level == 2 ? &kernels_avx2 : NULL;
#else
  return level == 1 ? &kernels_neon : NULL;
#endif
}

/* The loops for integers of 4 bits; AVX-512 without its products of bytes uses AVX2. */
static const Dots *dots_of(const Kernels *kernels) {
#if defined(__x86_64__)
  static atomic_int vnni = -1;
  uint32_t a, b, c, d;
  if (vnni < 0)
    vnni = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX512BW) && (c & bit_AVX512VNNI);
  return kernels->lanes == 16 && vnni ? &dots_of_avx512 : &dots_of_avx2;
#else
  return &dots_of_neon;
#endif
}

static int level = -1;

/* Uses at most this instruction set from now on; returns the one used. */
int jaxnet_use(int most) { return level = MIN(most, jaxnet_level()); }

static int level_in_use(void) { return level < 0 ? jaxnet_level() : level; }
static const Kernels *kernels_in_use(void) { return kernels_of(level_in_use()); }
/* Whether they have tiles of bfloat16. */
static int multiplies_halves(void) { return level_in_use() == 4; }

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
