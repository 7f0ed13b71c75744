/* The other loops for NEON. */

#if defined(__aarch64__)
#include "neon.h"
#include "loops.h"
#endif
