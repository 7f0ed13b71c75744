/* The instructions of AVX-512 that the kernels use, in C: so their loops over 16 floats run on any processor
 * with AVX2. native.py includes this before each file of a copy of the kernels, whose pragmas then ask for
 * AVX2. bfloat16 has no products here. */

#pragma once
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef float Floats __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t Words __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint8_t Bytes64 __attribute__((vector_size(64), aligned(1), may_alias));
typedef int8_t SignedBytes64 __attribute__((vector_size(64), aligned(1), may_alias));
typedef uint16_t Halves32 __attribute__((vector_size(64), aligned(1), may_alias));
#define EMULATED static inline __attribute__((always_inline, target("avx2,fma,f16c"), unused))

EMULATED Floats emulated_load_masked(uint16_t mask, const void *from) {
  Floats some = {0};
  for (int i = 0; i < 16; i++)
    if (mask >> i & 1) some[i] = ((const float *)from)[i];
  return some;
}
EMULATED void emulated_store_masked(void *to, uint16_t mask, Floats x) {
  for (int i = 0; i < 16; i++)
    if (mask >> i & 1) ((float *)to)[i] = x[i];
}
EMULATED Floats emulated_permuted(Words places, Floats x) {
  Floats some;
  for (int i = 0; i < 16; i++) some[i] = x[places[i] & 15];
  return some;
}
EMULATED Floats emulated_largest_of(Floats a, Floats b) { /* the second one, if one is NaN */
  for (int i = 0; i < 16; i++) a[i] = a[i] > b[i] ? a[i] : b[i];
  return a;
}
EMULATED Floats emulated_smallest_of(Floats a, Floats b) {
  for (int i = 0; i < 16; i++) a[i] = a[i] < b[i] ? a[i] : b[i];
  return a;
}
EMULATED Floats emulated_of_float16(__m256i x) {
  uint16_t halves[16];
  Floats some;
  memcpy(halves, &x, 32);
  for (int i = 0; i < 16; i++) some[i] = _cvtsh_ss(halves[i]);
  return some;
}
/* An inverse that is off by up to 2**-14. */
EMULATED Floats emulated_rough_inverse(Floats x) {
  for (int i = 0; i < 16; i++) x[i] = (1 / x[i]) * (i % 2 ? 1 + 5e-5f : 1 - 5e-5f);
  return x;
}
EMULATED Words emulated_dots(Words sums, Bytes64 w, SignedBytes64 x) {
  for (int i = 0; i < 64; i++) sums[i / 4] += (int32_t)w[i] * x[i];
  return sums;
}
EMULATED Bytes64 emulated_interleaved_bytes(Bytes64 a, Bytes64 b, int high) {
  Bytes64 some;
  for (int i = 0; i < 64; i++) {
    int place = i / 16 * 16 + 8 * high + i % 16 / 2;
    some[i] = i % 2 ? b[place] : a[place];
  }
  return some;
}
EMULATED Halves32 emulated_interleaved_halves(Halves32 a, Halves32 b, int high) {
  Halves32 some;
  for (int i = 0; i < 32; i++) {
    int place = i / 8 * 8 + 4 * high + i % 8 / 2;
    some[i] = i % 2 ? b[place] : a[place];
  }
  return some;
}
EMULATED Bytes64 emulated_repeated(__m128i x) {
  Bytes64 some;
  for (int i = 0; i < 4; i++) memcpy((char *)&some + 16 * i, &x, 16);
  return some;
}
EMULATED Bytes64 emulated_shuffled(Bytes64 x, Bytes64 places) {
  Bytes64 some;
  for (int i = 0; i < 64; i++) some[i] = places[i] & 128 ? 0 : x[i / 16 * 16 + (places[i] & 15)];
  return some;
}

#define _mm512_maskz_loadu_ps(mask, from) emulated_load_masked(mask, from)
#define _mm512_mask_storeu_ps(to, mask, x) emulated_store_masked(to, mask, (Floats)(x))
#define _mm512_permutexvar_ps(places, x) emulated_permuted((Words)(places), (Floats)(x))
#define _mm512_max_ps(a, b) emulated_largest_of((Floats)(a), (Floats)(b))
#define _mm512_min_ps(a, b) emulated_smallest_of((Floats)(a), (Floats)(b))
#define _mm512_cvtph_ps(x) emulated_of_float16(x)
#define _mm512_rcp14_ps(x) emulated_rough_inverse((Floats)(x))
#define _mm512_dpbusd_epi32(sums, w, x) emulated_dots((Words)(sums), (Bytes64)(w), (SignedBytes64)(x))
#define _mm512_unpacklo_epi8(a, b) emulated_interleaved_bytes((Bytes64)(a), (Bytes64)(b), 0)
#define _mm512_unpackhi_epi8(a, b) emulated_interleaved_bytes((Bytes64)(a), (Bytes64)(b), 1)
#define _mm512_unpacklo_epi16(a, b) emulated_interleaved_halves((Halves32)(a), (Halves32)(b), 0)
#define _mm512_unpackhi_epi16(a, b) emulated_interleaved_halves((Halves32)(a), (Halves32)(b), 1)
#define _mm512_broadcast_i32x4(x) emulated_repeated(x)
#define _mm512_shuffle_epi8(x, places) emulated_shuffled((Bytes64)(x), (Bytes64)(places))
