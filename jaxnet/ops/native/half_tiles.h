/* How bfloat16 become words of two neighbors in a sum; loops.h includes this file where a processor
 * multiplies such words. A number that is left alone is with a zero. */

/* A vector of words, of at most this many numbers. */
INLINE NAME(words) NAME(words_of)(const uint16_t *from, int64_t left) {
  if (left >= 2 * LANES) return *(const NAME(words) *)from;
  NAME(words) some = (NAME(words))NAME(load)((const float *)from, left / 2);
  if (left > 0 && left % 2) some[left / 2] = from[left - 1];
  return some;
}

/* to[s * wide + i] = the numbers 2 s and 2 s + 1 of row i, of which there are n; zeros past the last
 * of `count` rows. */
static void NAME(turn)(const uint16_t *from, int64_t row, int64_t count, int64_t n, int64_t wide,
                       float *to) {
  for (int64_t s = 0; 2 * s < n; s += LANES)
    for (int64_t i = 0; i < wide; i += LANES) {
      VEC some[LANES];
      for (int64_t r = 0; r < LANES; r++)
        some[r] = (VEC)(i + r < count ? NAME(words_of)(from + (i + r) * row + 2 * s, n - 2 * s)
                                      : (NAME(words)){0});
      NAME(transpose)(some);
      for (int64_t r = 0; r < LANES && 2 * (s + r) < n; r++)
        NAME(put)(to + (s + r) * wide + i, some[r], wide - i);
    }
}

/* to[i] = the numbers a[i] and b[i]; zeros past the last of `count`, and for one that is NULL. */
static void NAME(pair)(const uint16_t *a, const uint16_t *b, int64_t count, int64_t wide, float *to) {
  for (int64_t i = 0; i < wide; i += LANES) {
    NAME(words) some = {0};
    if (a) some = NAME(low_halves)(a + i, count - i);
    if (b) some |= NAME(low_halves)(b + i, count - i) << 16;
    NAME(put)(to + i, (VEC)some, wide - i);
  }
}
