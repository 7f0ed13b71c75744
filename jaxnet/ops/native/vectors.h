/* Vectors of one instruction set, whose file includes this one: avx512.h, avx2.h or neon.h. They
 * define LANES, the floats per vector, and MOST, the accumulators that fit into the registers. */

#pragma once
#include "tables.h"

/* The value of x is hidden from the compiler. */
#define HIDE(x) __asm__("" : "+r"(x))
/* Bytes ahead that a product of few rows asks for: processors look ahead within a page of 4 kB only. */
#define AHEAD 16384
/* Numbers of two vectors, by their places in both. */
#ifdef __clang__
#define MIX(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MIX(a, b, ...) __builtin_shuffle(a, b, (NAME(ints)){__VA_ARGS__})
#endif
/* Places of two vectors whose lower or upper halves alternate. */
#if LANES == 16
#define LOWER 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define UPPER 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif LANES == 8
#define LOWER 0, 8, 1, 9, 2, 10, 3, 11
#define UPPER 4, 12, 5, 13, 6, 14, 7, 15
#else
#define LOWER 0, 4, 1, 5
#define UPPER 2, 6, 3, 7
#endif
#define VEC NAME(vec)
#define INTS NAME(ints)
#define WORDS NAME(words)

typedef float NAME(vec) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t NAME(ints) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t NAME(words) __attribute__((vector_size(4 * LANES), aligned(1), may_alias));
typedef uint16_t NAME(halves) __attribute__((vector_size(2 * LANES), aligned(1), may_alias));
typedef int8_t NAME(bytes) __attribute__((vector_size(LANES), aligned(1), may_alias));

INLINE void NAME(put)(float *to, VEC value, int64_t left) {
  if (left >= LANES) *(VEC *)to = value;
#ifdef STORE_FIRST
  else if (left > 0) STORE_FIRST(to, value, left);
#else
  else for (int64_t i = 0; i < left; i++) to[i] = value[i];
#endif
}

INLINE VEC NAME(load)(const float *from, int64_t left) {
  if (left >= LANES) return *(const VEC *)from;
#ifdef LOAD_FIRST
  return left > 0 ? LOAD_FIRST(from, left) : (VEC){0};
#else
  VEC some = {0};
  for (int64_t i = 0; i < left; i++) some[i] = from[i];
  return some;
#endif
}

/* A vector of 16-bit numbers in the low halves of words, of at most `left`. */
INLINE NAME(words) NAME(low_halves)(const uint16_t *from, int64_t left) {
  if (left >= LANES) return __builtin_convertvector(*(const NAME(halves) *)from, NAME(words));
  VEC two = NAME(load)((const float *)from, left / 2);
  NAME(words) some = __builtin_convertvector(*(NAME(halves) *)&two, NAME(words));
  if (left > 0 && left % 2) some[left - 1] = from[left - 1];
  return some;
}

/* Numbers of an array of floats or of bfloat16, from a place on. */
INLINE VEC NAME(numbers)(const int half, const void *from, int64_t place, int64_t left) {
  return half ? (VEC)(NAME(low_halves)((const uint16_t *)from + place, left) << 16)
              : NAME(load)((const float *)from + place, left);
}

/* Rounds to the nearest bfloat16, to an even one between two: by one instruction, where the processor
 * also multiplies them, if `half`. */
INLINE void NAME(put_half)(const int half, uint16_t *to, VEC x, int64_t left) {
  NAME(words) bits = (NAME(words))x, none = (NAME(words))(x != x);
  bits = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  NAME(halves) some = __builtin_convertvector((bits & ~none) | (none & 0x7fc0), NAME(halves));
#ifdef TO_HALF
  if (half) some = TO_HALF(x);
#endif
  if (left >= LANES) *(NAME(halves) *)to = some;
  else if (left > 0) {
    const char *from = (const char *)&some;
    UNROLL for (int n = LANES / 2; n; n /= 2)
      if (left & n) {
        memcpy(to, from, 2 * n); /* of a size that the compiler knows */
        to += n;
        from += 2 * n;
      }
  }
}

/* x, between two numbers; NaN stays NaN. */
INLINE VEC NAME(clipped)(VEC x, float least, float most) {
  VEC bottom = (VEC){0} + least, top = (VEC){0} + most;
#ifdef MINIMUM
  return (VEC)MINIMUM(top, MAXIMUM(bottom, x));
#else
  INTS low = x < least, high = x > most, inside = ~(low | high);
  return (VEC)(((INTS)x & inside) | ((INTS)bottom & low) | ((INTS)top & high));
#endif
}

/* A sum, which has its bias, with the rest of what follows but the activation. */
INLINE VEC NAME(finished)(const Finish *f, VEC total, const float *result, int64_t left) {
  if (f->added) total += NAME(load)(f->added + (result - f->result), left);
  return NAME(clipped)(total, f->least, f->most);
}

/* total + x * w. With `half`, x and w are words of two bfloat16, whose two products are added. */
INLINE VEC NAME(with)(const int half, VEC total, float x, VEC w) {
#ifdef TWO_PRODUCTS
  if (half) return TWO_PRODUCTS(total, x, w);
#endif
  return total + x * w;
}

/* Sums of halves of two vectors, which alternate. As many such steps as the binary logarithm of LANES
 * make the sum of each vector. */
INLINE VEC NAME(fold)(VEC a, VEC b) { return MIX(a, b, LOWER) + MIX(a, b, UPPER); }

#ifndef PERMUTE
INLINE VEC NAME(permute)(VEC x, NAME(ints) places) {
  VEC some;
  for (int64_t i = 0; i < LANES; i++) some[i] = x[places[i] % LANES];
  return some;
}
#define PERMUTE NAME(permute)
#endif
