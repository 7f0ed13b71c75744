/* The inner loops of norm.h, for one width of vectors; loops.h includes this file. */

/* The features of a pixel as floats, in `room` if they have to be made. */
INLINE const float *NAME(pixel)(const Norm *s, const void *from, int64_t pixel, float *room) {
  int64_t n = s->features;
  if (!s->half) return (const float *)from + pixel * n;
  for (int64_t f = 0; f < n; f += LANES)
    *(VEC *)(room + f) = NAME(numbers)(1, from, pixel * n + f, n - f);
  return room;
}

/* Rounds n floats. */
INLINE void NAME(round)(const float *from, int64_t n, uint16_t *to) {
  for (int64_t f = 0; f < n; f += LANES) NAME(put_half)(0, to + f, *(const VEC *)(from + f), n - f);
}

/* Adds over all pixels: x - mean and, if `y` is there, y and (x - mean) * y. Of squares, y is that
 * difference itself and only its square is added. */
INLINE void NAME(add_pixels)(const int squares, const Norm *s, const void *x, const void *y,
                             const float *mean, float *sum, float *other, float *room) {
  int64_t n = s->features;
  for (int64_t p = 0; p < s->pixels; p++) {
    const float *row = NAME(pixel)(s, x, p, room);
    const float *factor = y ? NAME(pixel)(s, y, p, room + n + 16) : NULL;
    for (int64_t f = 0; f < n; f += LANES) {
      int64_t left = n - f;
      VEC centered = NAME(load)(row + f, left) - *(const VEC *)(mean + f);
      if (squares) *(VEC *)(sum + f) += centered * centered;
      else if (y) {
        VEC given = NAME(load)(factor + f, left);
        *(VEC *)(sum + f) += given;
        *(VEC *)(other + f) += centered * given;
      } else *(VEC *)(sum + f) += centered;
    }
  }
}

INLINE float NAME(total)(VEC sum) {
  float total = 0;
  for (int64_t l = 0; l < LANES; l++) total += sum[l];
  return total;
}

/* Replaces sums of features by the mean over their group or, of squares, by 1 / deviation. */
INLINE void NAME(mean_of_groups)(const int squares, const Norm *s, float *sum) {
  for (int64_t f = 0; f < s->features; f += s->inner) {
    VEC lanes = {0};
    float total = 0;
    int64_t i = 0;
    for (; i + LANES <= s->inner; i += LANES) lanes += *(const VEC *)(sum + f + i);
    if (i) total = NAME(total)(lanes);
    for (; i < s->inner; i++) total += sum[f + i];
    total /= (float)(s->pixels * s->inner);
    if (squares) total = 1 / __builtin_sqrtf(total + s->epsilon);
    for (i = 0; i < s->inner; i++) sum[f + i] = total;
  }
}

/* x - mean of the features from here on, and 0 beyond the last. */
INLINE VEC NAME(centered)(const float *x, int64_t left, float mean) {
  VEC some = NAME(load)(x, left) - mean;
  for (int64_t i = MAX(left, 0); i < LANES; i++) some[i] = 0;
  return some;
}

/* The moments of a group in doubles, whose range holds the squares of all floats. */
typedef struct {
  double mean, root, by_mean, by_root;
} NAME(Wide);

INLINE NAME(Wide) NAME(moments_of_group)(const Norm *s, const void *x, const void *given, int64_t first,
                                         float *room) {
  NAME(Wide) group = {0};
  double square = 0, count = (double)(s->pixels * s->inner);
  for (int64_t p = 0; s->centered && p < s->pixels; p++) {
    const float *row = NAME(pixel)(s, x, p, room);
    for (int64_t f = first; f < first + s->inner; f++) group.mean += row[f] / count;
  }
  for (int64_t p = 0; p < s->pixels; p++) {
    const float *row = NAME(pixel)(s, x, p, room);
    for (int64_t f = first; f < first + s->inner; f++)
      square += (row[f] - group.mean) * (row[f] - group.mean);
  }
  group.root = 1 / __builtin_sqrt(square / count + s->epsilon);
  for (int64_t p = 0; given && p < s->pixels; p++) {
    const float *row = NAME(pixel)(s, x, p, room);
    const float *slopes = NAME(pixel)(s, given, p, room + s->features + 16);
    for (int64_t f = first; f < first + s->inner; f++) {
      double slope = (double)slopes[f] * s->scale[f];
      if (s->centered) group.by_mean += slope / count;
      group.by_root += slope * (row[f] - group.mean) * group.root / count;
    }
  }
  return group;
}

/* One example whose squares are no floats, which is slow and rare. `room` holds three pixels. */
static void NAME(norm_wide)(const Norm *s, const void *x, const void *given, void *y, float *room,
                            float *sums) {
  int64_t n = s->features, space = n + 16;
  for (int64_t first = 0; first < n; first += s->inner) {
    NAME(Wide) group = NAME(moments_of_group)(s, x, given, first, room);
    for (int64_t p = 0; p < s->pixels; p++) {
      const float *row = NAME(pixel)(s, x, p, room);
      const float *slopes = given ? NAME(pixel)(s, given, p, room + space) : NULL;
      for (int64_t f = first; f < first + s->inner; f++) {
        double unit = (row[f] - group.mean) * group.root, value;
        if (given) {
          sums[f] += (float)(slopes[f] * unit);
          sums[space + f] += slopes[f];
          value = ((double)slopes[f] * s->scale[f] - group.by_mean - unit * group.by_root) * group.root;
        } else value = unit * s->scale[f] + s->bias[f];
        float result[LANES] = {(float)value};
        if (s->half) NAME(round)(result, 1, (uint16_t *)y + p * n + f);
        else ((float *)y)[p * n + f] = result[0];
      }
    }
  }
}

/* An example of one pixel and one group, with numbers instead of arrays for its moments. */
static void NAME(norm_row)(const Norm *s, const void *from, const void *by, void *to, float *room,
                           float *sums) {
  int64_t n = s->features, space = n + 16;
  const float *x = NAME(pixel)(s, from, 0, room);
  const float *given = by ? NAME(pixel)(s, by, 0, room + space) : NULL;
  float *result = s->half ? room + 2 * space : to, mean = 0;
  VEC sum = {0}, square = {0}, along = {0};
  if (s->centered) {
    for (int64_t f = 0; f < n; f += LANES) sum += NAME(centered)(x + f, n - f, x[0]);
    mean = x[0] + NAME(total)(sum) / (float)n;
  }
  for (int64_t f = 0; f < n; f += LANES) {
    VEC some = NAME(centered)(x + f, n - f, mean);
    square += some * some;
  }
  float total = NAME(total)(square);
  if (!__builtin_isfinite(total)) return NAME(norm_wide)(s, from, by, to, room, sums);
  float root = 1 / __builtin_sqrtf(total / (float)n + s->epsilon);
  sum = (VEC){0};
  for (int64_t f = 0; given && f < n; f += LANES) {
    VEC slope = NAME(load)(given + f, n - f), unit = NAME(centered)(x + f, n - f, mean) * root;
    *(VEC *)(sums + f) += slope * unit;
    *(VEC *)(sums + space + f) += slope;
    slope *= NAME(load)(s->scale + f, n - f);
    sum += slope;
    along += slope * unit;
  }
  float by_mean = s->centered && given ? NAME(total)(sum) / (float)n : 0;
  float by_root = given ? NAME(total)(along) / (float)n : 0;
  for (int64_t f = 0; f < n; f += LANES) {
    VEC unit = (NAME(load)(x + f, n - f) - mean) * root, scale = NAME(load)(s->scale + f, n - f);
    VEC value = given ? (NAME(load)(given + f, n - f) * scale - by_mean - unit * by_root) * root
                      : unit * scale + NAME(load)(s->bias + f, n - f);
    NAME(put)(result + f, value, n - f);
  }
  if (s->half) NAME(round)(result, n, to);
}

/* One example. Sums begin at the first entry of each group, so the mean of equal numbers is exact.
 * With a gradient of the result, those of scale and bias are added to `sums`. */
static void NAME(norm)(const Norm *s, int64_t example, float *memory, float *sums) {
  int64_t n = s->features, space = n + 16, start = example * s->pixels * n * (s->half ? 2 : 4);
  const void *x = (const char *)s->x + start;
  const void *given = s->given ? (const char *)s->given + start : NULL;
  char *y = (char *)s->y + start;
  float *mean = memory, *root = mean + space, *sum = root + space, *along = sum + space;
  float *room = along + space, *result = room + 2 * space;
  if (s->pixels == 1 && s->inner == n) return NAME(norm_row)(s, x, given, y, memory, sums);
  memset(memory, 0, 4 * space * sizeof(float));
  if (s->centered) {
    const float *first = NAME(pixel)(s, x, 0, room);
    for (int64_t f = 0; f < n; f += s->inner)
      for (int64_t i = 0; i < s->inner; i++) mean[f + i] = first[f];
    NAME(add_pixels)(0, s, x, NULL, mean, sum, NULL, room);
    NAME(mean_of_groups)(0, s, sum);
    for (int64_t f = 0; f < n; f++) mean[f] += sum[f];
    memset(sum, 0, n * sizeof(float));
  }
  NAME(add_pixels)(1, s, x, NULL, mean, root, NULL, room);
  NAME(mean_of_groups)(1, s, root);
  for (int64_t f = 0; f < n; f += s->inner) /* 0 or NaN if the squares are no floats */
    if (!(root[f] > 0)) return NAME(norm_wide)(s, x, given, y, room, sums);
  if (given) {
    NAME(add_pixels)(0, s, x, given, mean, sum, along, room);
    for (int64_t f = 0; f < n; f++) {
      sums[f] += along[f] * root[f];
      sums[space + f] += sum[f];
      sum[f] *= s->centered ? s->scale[f] : 0;
      along[f] *= s->scale[f];
    }
    NAME(mean_of_groups)(0, s, sum);
    NAME(mean_of_groups)(0, s, along);
    for (int64_t f = 0; f < n; f++) along[f] *= root[f] * root[f];
  }
  for (int64_t p = 0; p < s->pixels; p++) {
    const float *row = NAME(pixel)(s, x, p, room);
    const float *slopes = given ? NAME(pixel)(s, given, p, room + space) : NULL;
    float *to = s->half ? result : (float *)y + p * n;
    for (int64_t f = 0; f < n; f += LANES) {
      int64_t left = n - f;
      VEC value = NAME(load)(row + f, left) - *(const VEC *)(mean + f);
      VEC scale = NAME(load)(s->scale + f, left), factor = *(const VEC *)(root + f);
      if (given)
        value = (NAME(load)(slopes + f, left) * scale - *(const VEC *)(sum + f) -
                 value * *(const VEC *)(along + f)) * factor;
      else value = value * factor * scale + NAME(load)(s->bias + f, left);
      NAME(put)(to + f, value, left);
    }
    if (s->half) NAME(round)(result, n, (uint16_t *)y + p * n);
  }
}

/* Adds for each of n features, over 8 rows at a time: x - shift to `sum` and, with a gradient, the
 * gradient to `sum` and it times x - shift to `other`. Of squares, only (x - shift)^2 to `other`. */
INLINE void NAME(add_rows_of)(const int half, const int squares, int64_t rows, int64_t n, const void *x,
                              const void *given, const float *shift, float *sum, float *other) {
  for (int64_t r = 0; r < rows; r += 8)
    for (int64_t f = 0; f < n; f += LANES) {
      int64_t left = n - f, place = r * n + f;
      VEC by = NAME(load)(shift + f, left), total = {0}, product = {0};
      for (int64_t u = MIN(8, rows - r); u > 0; u--, place += n) {
        VEC some = NAME(numbers)(half, x, place, left) - by;
        VEC factor = given ? NAME(numbers)(half, given, place, left) : some;
        if (!squares) total += factor;
        if (squares || given) product += factor * some;
      }
      if (!squares) *(VEC *)(sum + f) += total;
      if (squares || given) *(VEC *)(other + f) += product;
    }
}

/* For some rows: the means of x - shift and the sums of squared distances from the mean or, with a
 * gradient, its two sums. `sums` are three rows of `space`, of which the third is for means of x. */
static void NAME(moments)(int half, int64_t rows, int64_t n, const void *x, const void *given,
                          const float *shift, float *sums, int64_t space) {
  float *other = sums + space;
  if (half) NAME(add_rows_of)(1, 0, rows, n, x, given, shift, sums, other);
  else NAME(add_rows_of)(0, 0, rows, n, x, given, shift, sums, other);
  if (given) return;
  float *mean = sums + 2 * space;
  for (int64_t f = 0; f < n; f++) {
    sums[f] /= (float)rows;
    mean[f] = sums[f] + shift[f];
  }
  if (half) NAME(add_rows_of)(1, 1, rows, n, x, NULL, mean, NULL, other);
  else NAME(add_rows_of)(0, 1, rows, n, x, NULL, mean, NULL, other);
}
