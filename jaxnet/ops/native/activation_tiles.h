/* Activations of results that have just been written, while they are in the first cache. Each is that of
 * `jax.nn`, NaN and infinities included. */

#pragma once

/* 1 / x of numbers between 2**-126 and 2**126. */
INLINE VEC NAME(inverse)(VEC x) {
#if LANES == 16
  VEC y = (VEC)_mm512_rcp14_ps((__m512)x);
  return y * (2.0f - x * y);
#else
  return 1.0f / x;
#endif
}

/* A quotient of polynomials, as XLA has it. */
INLINE VEC NAME(erf)(VEC x) {
  x = NAME(clipped)(x, -4, 4);
  VEC x2 = x * x;
  VEC p = (VEC){0} - 2.72614225801306e-10f;
  p = p * x2 + 2.77068142495902e-08f;
  p = p * x2 - 2.10102402082508e-06f;
  p = p * x2 - 5.69250639462346e-05f;
  p = p * x2 - 7.34990630326855e-04f;
  p = p * x2 - 2.95459980854025e-03f;
  p = p * x2 - 1.60960333262415e-02f;
  VEC q = (VEC){0} - 1.45660718464996e-05f;
  q = q * x2 - 2.13374055278905e-04f;
  q = q * x2 - 1.68282697438203e-03f;
  q = q * x2 - 7.37332916720468e-03f;
  q = q * x2 - 1.42647390514189e-02f;
  return x * p * NAME(inverse)(q);
}

/* 1 / (1 + exp(-x)); 0 below -86, or a huge negative x times this would not be 0. */
INLINE VEC NAME(logistic)(VEC x) {
  VEC y = NAME(inverse)(1.0f + NAME(exp2)(NAME(clipped)(x * -LOG2_E, -126, 125)));
  return (VEC)((INTS)y & ~(x < -86.0f));
}

/* The part of a normal distribution below x; 0 where `erf` is not quite -1. */
INLINE VEC NAME(below)(VEC x) {
  VEC y = 0.5f + 0.5f * NAME(erf)(x * 0.70710678f);
  return (VEC)((INTS)y & ~(x < -5.6f));
}

#define ACTIVATION(name, of_x)                                                            \
  static void NAME(name##_of)(float *y, int64_t count, int64_t row, int64_t left) {       \
    for (int64_t i = 0; i < count; i++, y += row)                                         \
      for (int64_t d = 0; d < left; d += LANES) {                                         \
        VEC x = NAME(load)(y + d, left - d);                                              \
        NAME(put)(y + d, of_x, left - d);                                                 \
      }                                                                                   \
  }
ACTIVATION(silu, x * NAME(logistic)(x))
ACTIVATION(hard_swish, x * (NAME(clipped)(x + 3, 0, 6) * (1 / 6.0f)))
ACTIVATION(gelu, x * NAME(below)(x))
ACTIVATION(gelu_tanh, 0.5f * x * (1 + NAME(tanh)(0.7978845608f * (x + 0.044715f * x * x * x))))
ACTIVATION(sigmoid, NAME(logistic)(x))
ACTIVATION(hard_sigmoid, NAME(clipped)(x + 3, 0, 6) * (1 / 6.0f))
ACTIVATION(tanh, NAME(tanh)(x))
#undef ACTIVATION

/* By the numbers that fused.py gives them. */
static Activation *const NAME(activations)[] = {
  NULL, NAME(silu_of), NAME(hard_swish_of), NAME(gelu_of), NAME(gelu_tanh_of), NAME(sigmoid_of),
  NAME(hard_sigmoid_of), NAME(tanh_of),
};
