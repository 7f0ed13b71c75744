/* AVX-512. Its tiles of bfloat16 run where a processor multiplies them too. A file that includes this
 * one ends the target that begins here. */

#pragma once
#include <immintrin.h>
#include "tables.h"

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
#define MINIMUM(a, b) _mm512_min_ps((__m512)(a), (__m512)(b))
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
#include "vectors.h"
