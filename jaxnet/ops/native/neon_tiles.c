/* The tiles for NEON. */

#if defined(__aarch64__)
#include "neon.h"
#include "tiles.h"
#endif
