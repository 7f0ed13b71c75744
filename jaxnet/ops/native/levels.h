/* The instruction sets, and which one is used. */

#pragma once
#include "tables.h"

/* An install leaves AVX-512 out where the processor does not have it. */
#if defined(__x86_64__) && !defined(WITHOUT_AVX512)
#define HAS_AVX512
#endif

#if defined(__x86_64__)
#include <cpuid.h>
/* What processor and system have. Not by __builtin_cpu_supports: it says no in what Zig links. */
static int find_level(void) {
  uint32_t a, b, c, d, kept;
  const uint32_t needed = bit_OSXSAVE | bit_FMA | bit_F16C;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & needed) != needed) return 0;
  __asm__("xgetbv" : "=a"(kept), "=d"(d) : "c"(0)); /* registers that the system saves */
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX2) || (kept & 0x06) != 0x06) return 0;
#ifdef HAS_AVX512
  if (!(b & bit_AVX512F) || (kept & 0xe6) != 0xe6) return 2;
  return a && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1 << 5) ? 4 : 3;
#else
  return 2;
#endif
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
  if (level > jaxnet_level()) return NULL;
#ifdef HAS_AVX512
  if (level >= 3) return &kernels_avx512;
#endif
#if defined(__x86_64__)
  return level == 2 ? &kernels_avx2 : NULL;
#else
  return level == 1 ? &kernels_neon : NULL;
#endif
}

/* The loops for integers of 4 bits; AVX-512 without its products of bytes uses AVX2. */
static const Dots *dots_of(const Kernels *kernels) {
#ifdef HAS_AVX512
  static atomic_int vnni = -1;
  uint32_t a, b, c, d;
  if (vnni < 0)
    vnni = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX512BW) && (c & bit_AVX512VNNI);
  if (kernels->lanes == 16 && vnni) return &dots_of_avx512;
#endif
#if defined(__x86_64__)
  return &dots_of_avx2;
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
