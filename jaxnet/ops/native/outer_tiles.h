/* Packing for sums of outer products, for one width of vectors; loops.h includes this file. */

/* Writes n neighbors as a line of panels that are `panel` apart, `width` numbers to each. Whole
 * vectors are written, zeros past the end, so a line may reach into the next one. */
static void NAME(panels)(const float *from, int64_t n, int64_t width, int64_t panel, float *to) {
  for (int64_t c = 0; c < n; c += width, to += panel)
    for (int64_t i = 0; i < width; i += LANES)
      *(VEC *)(to + i) = NAME(load)(from + c + i, n - c - i);
}
