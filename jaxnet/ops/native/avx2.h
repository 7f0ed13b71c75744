/* AVX2 with FMA and F16C. A file that includes this one ends the target that begins here. */

#pragma once
#include <immintrin.h>
#include "tables.h"

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
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
#define MINIMUM(a, b) _mm256_min_ps((__m256)(a), (__m256)(b))
#define HALVES(from) (VEC) _mm256_cvtph_ps(_mm_loadu_si128((const void *)(from)))
#include "vectors.h"
