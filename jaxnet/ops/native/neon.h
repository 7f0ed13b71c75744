/* NEON. */

#pragma once
#include <arm_neon.h>
#include "tables.h"

#define LANES 4
#define MOST 28
#define NAME(name) name##_neon
#define HALVES(from) (VEC) vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)))
#include "vectors.h"
