/* The loops of gemv.h for AVX2. */

#if defined(__x86_64__)
#include "avx2.h"
#include "gemv_tiles.h"
#define DOT(sum, w, x) \
  (INTS) _mm256_add_epi16((__m256i)(sum), _mm256_maddubs_epi16((__m256i)(w), (__m256i)(x)))
#define END(sum) _mm256_madd_epi16((__m256i)(sum), _mm256_set1_epi16(1))
#define PAIR_LOW(bits, a, b) (WORDS) _mm256_unpacklo_epi##bits((__m256i)(a), (__m256i)(b))
#define PAIR_HIGH(bits, a, b) (WORDS) _mm256_unpackhi_epi##bits((__m256i)(a), (__m256i)(b))
#include "nibbles_tiles.h"
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
