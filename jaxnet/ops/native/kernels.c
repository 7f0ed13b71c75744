/* All kernels in one unit, so that the compiler makes each tile once. */

#include "shared.h"

#include "conv.h"
#include "gemv.h"
#include "lstm.h"
#include "norm.h"
