/* The tiles for AVX2. */

#if defined(__x86_64__)
#include "avx2.h"
#include "tiles.h"
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
