/* The tiles for AVX-512. */

#if defined(__x86_64__)
#include "avx512.h"
#include "tiles.h"
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
