/* The loops of gemv.h for AVX-512. Those of integers need its products of bytes; see dots_of. */

#if defined(__x86_64__)
#include "avx512.h"
#include "gemv_tiles.h"
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vnni")
#endif
#define DOT(sum, w, x) (INTS) _mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(w), (__m512i)(x))
#define END(sum) sum
#define PAIR_LOW(bits, a, b) (WORDS) _mm512_unpacklo_epi##bits((__m512i)(a), (__m512i)(b))
#define PAIR_HIGH(bits, a, b) (WORDS) _mm512_unpackhi_epi##bits((__m512i)(a), (__m512i)(b))
#include "nibbles_tiles.h"
#include "bytes_tiles.h"
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
