/* The loops of gemv.h for NEON. */

#if defined(__aarch64__)
#include "neon.h"
#include "gemv_tiles.h"
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
#include "nibbles_tiles.h"
#endif
