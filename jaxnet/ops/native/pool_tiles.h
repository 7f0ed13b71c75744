/* The inner loops of pool.h, for one width of vectors; tiles.h includes this file. */

/* One value where the bits of `here` are set, another elsewhere. */
INLINE NAME(ints) NAME(pick)(NAME(ints) here, NAME(ints) some, NAME(ints) other) {
  return (some & here) | (other & ~here);
}

/* The first largest entry of a window, and the number of its tap in `*at`. A NaN is the largest. */
INLINE VEC NAME(largest)(const Pool *p, const float *x, Taps rows, Taps columns, long left,
                         NAME(ints) *at) {
  VEC best = (VEC){0} - __builtin_inff();
  NAME(ints) first = (NAME(ints)){0} + (int)(rows.first * p->window[1] + columns.first);
  for (long r = rows.first; r < rows.last; r++) {
    const float *row = x + (rows.start + r * p->apart[0]) * p->in[1] * p->features;
    for (long c = columns.first; c < columns.last; c++) {
      VEC here = NAME(load)(row + (columns.start + c * p->apart[1]) * p->features, left);
      NAME(ints) larger = ~(best >= here) & (best == best);
      best = (VEC)NAME(pick)(larger, (NAME(ints))here, (NAME(ints))best);
      first = NAME(pick)(larger, (NAME(ints)){0} + (int)(r * p->window[1] + c), first);
    }
  }
  *at = first;
  return best;
}

/* A row of results for some features: the largest entries or, with a gradient of them, what it adds
 * to the gradient y of x. */
static void NAME(pool)(const Pool *p, const float *x, const float *given, float *y, Taps rows,
                       long features) {
  for (long o = 0; o < p->out[1]; o++) {
    Taps columns = taps_of(p, 1, o);
    for (long f = 0; f < features; f += LANES) {
      long left = features - f, result = o * p->features + f;
      NAME(ints) at;
      VEC best = NAME(largest)(p, x + f, rows, columns, left, &at);
      if (!given) {
        NAME(put)(y + result, best, left);
        continue;
      }
      NAME(ints) slope = (NAME(ints))NAME(load)(given + result, left);
      for (long r = rows.first; r < rows.last; r++)
        for (long c = columns.first; c < columns.last; c++) {
          long row = rows.start + r * p->apart[0], column = columns.start + c * p->apart[1];
          float *to = y + f + (row * p->in[1] + column) * p->features;
          NAME(ints) mine = at == (int)(r * p->window[1] + c);
          NAME(put)(to, NAME(load)(to, left) + (VEC)(slope & mine), left);
        }
    }
  }
}
