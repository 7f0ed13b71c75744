/* The inner loops of pool.h, for one width of vectors; loops.h includes this file. */

/* A vector of results: the first largest entry of `rows` by `columns` taps, which are `down` and
 * `right` apart from x on; a NaN is the largest. With a gradient of the result, y is like x, and it
 * is added there. */
INLINE void NAME(pooled)(int64_t rows, int64_t columns, const float *x, const float *given,
                         float *y, int64_t down, int64_t right, int64_t left) {
  VEC best = NAME(load)(x, left);
  NAME(ints) first = {0};
  UNROLL for (int64_t r = 0; r < rows; r++)
    UNROLL for (int64_t c = 0; c < columns; c++) {
      VEC here = NAME(load)(x + r * down + c * right, left);
      NAME(ints) stays = (best >= here) | (best != best);
      best = (VEC)(((NAME(ints))best & stays) | ((NAME(ints))here & ~stays));
      if (given) first = (first & stays) | (((NAME(ints)){0} + (int)(r * columns + c)) & ~stays);
    }
  if (!given) {
    NAME(put)(y, best, left);
    return;
  }
  NAME(ints) slope = (NAME(ints))NAME(load)(given, left);
  UNROLL for (int64_t r = 0; r < rows; r++)
    UNROLL for (int64_t c = 0; c < columns; c++) {
      float *to = y + r * down + c * right;
      NAME(ints) mine = first == (int)(r * columns + c);
      NAME(put)(to, NAME(load)(to, left) + (VEC)(slope & mine), left);
    }
}

/* A row of results for some features, or what their gradient adds to that of x. */
static void NAME(pool)(const Pool *p, const float *x, const float *given, float *y, Taps rows,
                       int64_t features) {
  int64_t n = p->features, right = p->apart[1] * n, down = p->apart[0] * p->in[1] * n;
  for (int64_t o = 0; o < p->out[1]; o++) {
    Taps columns = taps_of(p, 1, o);
    int64_t high = rows.last - rows.first, wide = columns.last - columns.first;
    int64_t corner = (rows.start * p->in[1] + columns.start) * n + rows.first * down +
                  columns.first * right;
    for (int64_t f = 0; f < features; f += LANES) {
      int64_t left = features - f, at = o * n + f;
      const float *from = x + corner + f, *slope = given ? given + at : NULL;
      float *to = given ? y + corner + f : y + at;
      if (!high || !wide) {
        if (!given) NAME(put)(to, (VEC){0} - __builtin_inff(), left);
      } else if (left < LANES) NAME(pooled)(high, wide, from, slope, to, down, right, left);
      else if (high == 3 && wide == 3)
        if (given) NAME(pooled)(3, 3, from, slope, to, down, right, LANES);
        else NAME(pooled)(3, 3, from, NULL, to, down, right, LANES);
      else NAME(pooled)(high, wide, from, slope, to, down, right, LANES);
    }
  }
}
