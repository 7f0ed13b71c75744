/* The inner loops of norm.h, for one width of vectors; tiles.h includes this file. */

/* Adds over all pixels: x - mean and, if `y` is there, y and (x - mean) * y. Of squares, y is that
 * difference itself and only its square is added. */
INLINE void NAME(add_pixels)(const int squares, const Norm *s, const float *x, const float *y,
                             const float *mean, float *sum, float *other) {
  long n = s->features;
  for (long p = 0; p < s->pixels; p++)
    for (long f = 0; f < n; f += LANES) {
      long left = n - f;
      VEC centered = NAME(load)(x + p * n + f, left) - *(const VEC *)(mean + f);
      if (squares) *(VEC *)(sum + f) += centered * centered;
      else if (y) {
        VEC given = NAME(load)(y + p * n + f, left);
        *(VEC *)(sum + f) += given;
        *(VEC *)(other + f) += centered * given;
      } else *(VEC *)(sum + f) += centered;
    }
}

/* Replaces sums of features by the mean over their group or, of squares, by 1 / deviation. */
INLINE void NAME(mean_of_groups)(const int squares, const Norm *s, float *sum) {
  for (long f = 0; f < s->features; f += s->inner) {
    VEC lanes = {0};
    float total = 0;
    long i = 0;
    for (; i + LANES <= s->inner; i += LANES) lanes += *(const VEC *)(sum + f + i);
    if (i)
      for (long l = 0; l < LANES; l++) total += lanes[l];
    for (; i < s->inner; i++) total += sum[f + i];
    total /= (float)(s->pixels * s->inner);
    if (squares) total = 1 / __builtin_sqrtf(total + s->epsilon);
    for (i = 0; i < s->inner; i++) sum[f + i] = total;
  }
}

/* One example. Sums begin at the first entry of each group, so the mean of equal numbers is exact. */
static void NAME(norm)(const Norm *s, long example, float *memory) {
  long n = s->features, padded = (n + LANES - 1) / LANES * LANES, start = example * s->pixels * n;
  const float *x = s->x + start, *given = s->given ? s->given + start : NULL;
  float *mean = memory, *root = mean + padded, *sum = root + padded, *along = sum + padded;
  memset(memory, 0, 4 * padded * sizeof(float));
  for (long f = 0; f < n; f += s->inner)
    for (long i = 0; i < s->inner; i++) mean[f + i] = x[f];
  NAME(add_pixels)(0, s, x, NULL, mean, sum, NULL);
  NAME(mean_of_groups)(0, s, sum);
  for (long f = 0; f < n; f++) mean[f] += sum[f];
  NAME(add_pixels)(1, s, x, NULL, mean, root, NULL);
  NAME(mean_of_groups)(1, s, root);
  memset(sum, 0, padded * sizeof(float));
  if (given) {
    NAME(add_pixels)(0, s, x, given, mean, sum, along);
    NAME(mean_of_groups)(0, s, sum);
    NAME(mean_of_groups)(0, s, along);
    for (long f = 0; f < n; f++) along[f] *= root[f] * root[f];
  }
  for (long p = 0; p < s->pixels; p++)
    for (long f = 0; f < n; f += LANES) {
      long at = p * n + f, left = n - f;
      VEC value = NAME(load)(x + at, left) - *(const VEC *)(mean + f);
      if (given)
        value = NAME(load)(given + at, left) - *(const VEC *)(sum + f) -
                value * *(const VEC *)(along + f);
      NAME(put)(s->y + start + at, value * *(const VEC *)(root + f), left);
    }
}
