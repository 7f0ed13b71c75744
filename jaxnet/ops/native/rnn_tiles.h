/* A step of a simple recurrence, and a step back, for one width of vectors; tiles.h includes this
 * file. */

/* `h` holds the product with the kernel, and then the new h. */
static void NAME(plain)(const Cell *s) {
  int64_t n = s->features;
  for (int64_t r = 0; r < s->rows; r++)
    for (int64_t feature = 0; feature < n; feature += LANES) {
      int64_t at = r * n + feature, left = n - feature;
      VEC pre = NAME(load)(s->gates + at, left) + NAME(load)(s->bias + feature, left);
      VEC h = NAME(tanh)(NAME(load)(s->h + at, left) + pre);
      if (s->slopes) NAME(put)(s->slopes + at, 1 - h * h, left);
      if (s->mask && !s->mask[r]) h = NAME(load)(s->before + at, left);
      NAME(put)(s->h + at, h, left);
    }
}

static void NAME(plain_back)(const CellBack *s) {
  int64_t n = s->features;
  for (int64_t r = 0; r < s->rows; r++)
    for (int64_t feature = 0; feature < n; feature += LANES) {
      int64_t at = r * n + feature, left = n - feature;
      VEC h = NAME(load)(s->given_h + at, left) + NAME(load)(s->h + at, left);
      VEC by_pre = h * NAME(load)(s->slopes + at, left);
      if (s->mask && !s->mask[r]) {
        NAME(put)(s->kept + at, h, left);
        by_pre = (VEC){0};
      }
      NAME(put)(s->gates + at, by_pre, left);
    }
}
