/* How features of small groups become vectors, for the vectors of one instruction set; loops.h
 * includes this file. */

/* A pixel of some groups as a vector for each input of a group. */
static void NAME(spread)(const Spread *s, const float *x, int64_t left, float *to) {
  NAME(ints) at = *(const NAME(ints) *)s->first;
  for (int64_t i = 0; i < s->depth; i++, at += 1, to += LANES) {
    VEC some = PERMUTE(NAME(load)(x, left), at);
    for (int64_t first = LANES; first < s->inputs; first += LANES) {
      VEC others = PERMUTE(NAME(load)(x + first, left - first), at);
      NAME(ints) here = at >= (int)first;
      some = (VEC)(((NAME(ints))some & ~here) | ((NAME(ints))others & here));
    }
    *(VEC *)to = some;
  }
}
