/* The inner loops of attention, for one width of vectors; loops.h includes this file. A panel is as
 * many queries as two vectors have lanes. Scores of a panel are (places, queries), so that their
 * softmax needs no sums across a vector. */

#define PANEL (2 * LANES)

INLINE VEC NAME(choose)(INTS which, VEC a, VEC b) {
  return (VEC)(((INTS)a & which) | ((INTS)b & ~which));
}

INLINE VEC NAME(maximum)(VEC a, VEC b) {
#ifdef MAXIMUM
  return (VEC)MAXIMUM(a, b);
#else
  return NAME(choose)(a > b, a, b);
#endif
}

/* 2**f for f between -0.5 and 0.5, with relative error below 3e-7. */
INLINE VEC NAME(power)(VEC f) {
  VEC p = f * 1.3276471521e-03f + 9.6755413307e-03f;
  p = p * f + 5.5507132750e-02f;
  p = p * f + 2.4022119724e-01f;
  p = p * f + 6.9314696706e-01f;
  return p * f + 1.0f;
}

/* 2**x for x < 128, with relative error below 3e-7; 0 below 2**-126, and NaN for NaN. The sum with
 * 1.5 * 2**23 rounds to an integer. 127 more, and its last bits are the exponent of a power of 2. */
INLINE VEC NAME(exp2)(VEC x) {
  const float round = 12582912 + 127;
  VEC shifted = x + round, f = x - (shifted - round);
  VEC p = NAME(power)(f) * (VEC)((INTS)shifted << 23);
  return (VEC)((INTS)p & ~(x < -126.0f));
}

/* Turns LANES vectors into those of the transpose. */
INLINE void NAME(transpose)(VEC *rows) {
  UNROLL for (int stage = 1; stage < LANES; stage *= 2) {
    VEC next[LANES];
    UNROLL for (int i = 0; i < LANES / 2; i++) {
      next[2 * i] = MIX(rows[i], rows[i + LANES / 2], LOWER);
      next[2 * i + 1] = MIX(rows[i], rows[i + LANES / 2], UPPER);
    }
    UNROLL for (int i = 0; i < LANES; i++) rows[i] = next[i];
  }
}

/* Writes `count` rows of n floats, `row` apart, times a factor as a panel (n, PANEL); queries past
 * them are zeros. */
static void NAME(pack)(const float *from, int64_t row, int64_t count, int64_t n, float factor,
                       float *to) {
  for (int64_t d = 0; d < n; d += LANES)
    for (int64_t t = 0; t < PANEL; t += LANES) {
      VEC some[LANES];
      for (int64_t i = 0; i < LANES; i++)
        some[i] = NAME(load)(from + (t + i) * row + d, t + i < count ? n - d : 0) * factor;
      NAME(transpose)(some);
      for (int64_t i = 0; i < MIN(LANES, n - d); i++) *(VEC *)(to + (d + i) * PANEL + t) = some[i];
    }
}

/* The inverse, with one factor per query. */
static void NAME(unpack)(const float *from, const float *factor, int64_t row, int64_t count,
                         int64_t n, float *to) {
  for (int64_t d = 0; d < n; d += LANES)
    for (int64_t t = 0; t < PANEL; t += LANES) {
      VEC some[LANES];
      for (int64_t i = 0; i < LANES; i++) /* past the end the last row again, which `put` leaves out */
        some[i] = *(const VEC *)(from + MIN(d + i, n - 1) * PANEL + t) * *(const VEC *)(factor + t);
      NAME(transpose)(some);
      for (int64_t i = 0; i < MIN(LANES, count - t); i++)
        NAME(put)(to + (t + i) * row + d, some[i], n - d);
    }
}

/* Copies rows of n floats, `row` apart, times a factor to rows of `wide` floats, the rest of which
 * is zero. Rows of a head lie far apart, often by a power of 2, and would displace each other from
 * the cache. */
static void NAME(gather)(const float *from, int64_t row, int64_t count, int64_t n, int64_t wide,
                         float factor, float *to) {
  for (int64_t r = 0; r < count; r++, from += row, to += wide)
    for (int64_t d = 0; d < wide; d += LANES)
      *(VEC *)(to + d) = NAME(load)(from + d, n - d) * factor;
}

/* Whether n floats, a multiple of LANES, are all finite. */
static int NAME(finite)(const float *x, int64_t n) {
  INTS bad = {0};
  for (int64_t i = 0; i < n; i += LANES) {
    VEC y = *(const VEC *)(x + i);
    bad |= ~(y - y == 0);
  }
  for (int lane = 0; lane < LANES; lane++)
    if (bad[lane]) return 0;
  return 1;
}

static float NAME(dot)(const float *x, const float *y, int64_t n) {
  VEC sum = {0};
  for (int64_t d = 0; d < n; d += LANES) sum += NAME(load)(x + d, n - d) * NAME(load)(y + d, n - d);
  float total = 0;
  for (int lane = 0; lane < LANES; lane++) total += sum[lane];
  return total;
}

INLINE INTS NAME(sees)(const Ranges *r, int v, int64_t place) {
  INTS first = *(const INTS *)(r->first + v * LANES), last = *(const INTS *)(r->last + v * LANES);
  return (first <= (int)place) & (last > (int)place);
}

/* Capped scores, times log2(e), from scores / softcap, and their slope. */
INLINE VEC NAME(cap)(VEC x, float softcap, VEC *slope) {
  VEC bent = NAME(tanh)(x);
  *slope = 1 - bent * bent;
  return bent * (softcap * LOG2_E);
}

/* Replaces the scores of a block of places by weights relative to the largest score so far. Changes
 * that, the sum of weights, and the values `y` (width, PANEL) collected before. */
static void NAME(softmax)(const Panel *p, float *scores, float *top, float *sums, float *y,
                          int64_t width) {
  for (int v = 0; v < 2; v++) {
    float *x = scores + v * LANES;
    VEC old = *(VEC *)(top + v * LANES), most = old, sum = {0}, slope;
    for (int64_t i = 0; i < p->count; i++) {
      VEC score = *(VEC *)(x + i * PANEL);
      if (p->softcap) score = NAME(cap)(score, p->softcap, &slope);
      if (p->masked)
        score = NAME(choose)(NAME(sees)(p->ranges, v, p->place + i), score,
                             (VEC){0} - __builtin_inff());
      if (p->softcap || p->masked) *(VEC *)(x + i * PANEL) = score;
      most = NAME(maximum)(most, score);
    }
    for (int64_t i = 0; i < p->count; i++) {
      VEC weight = NAME(exp2)(*(VEC *)(x + i * PANEL) - most);
      *(VEC *)(x + i * PANEL) = weight;
      sum += weight;
    }
    VEC keep = NAME(exp2)(old - most);
    *(VEC *)(top + v * LANES) = most;
    *(VEC *)(sums + v * LANES) = *(VEC *)(sums + v * LANES) * keep + sum;
    for (int64_t d = 0; d < width; d++) *(VEC *)(y + d * PANEL + v * LANES) *= keep;
  }
}

/* Turns scores into weights and gradients by weights into gradients by scores, both with rows of
 * `row` floats. `totals` are the logarithms of the sums of the weights, and `means` what the
 * gradients by the weights are on average, by query. */
static void NAME(slopes)(const Panel *p, float *weights, float *slopes, int64_t row,
                         const float *totals, const float *means) {
  for (int v = 0; v < 2; v++) {
    VEC total = *(const VEC *)(totals + v * LANES), mean = *(const VEC *)(means + v * LANES);
    VEC bend = {0};
    for (int64_t i = 0; i < p->count; i++) {
      VEC *weight = (VEC *)(weights + i * row + v * LANES), score = *weight;
      VEC *slope = (VEC *)(slopes + i * row + v * LANES);
      if (p->softcap) score = NAME(cap)(score, p->softcap, &bend);
      *weight = NAME(exp2)(score - total);
      *slope = *weight * (*slope - mean);
      if (p->softcap) *slope *= bend;
      if (!p->masked) continue;
      INTS seen = NAME(sees)(p->ranges, v, p->place + i);
      *weight = NAME(choose)(seen, *weight, (VEC){0});
      *slope = NAME(choose)(seen, *slope, (VEC){0});
    }
  }
}

/* The scores, times log2(e), of one query and LANES places from `place` on. */
INLINE VEC NAME(scores_of)(const int half, const One *s, const float *q, int64_t first, int64_t place) {
  VEC some[LANES], slope;
  for (int64_t l = 0; l < LANES; l++) {
    some[l] = (VEC){0};
    for (int64_t d = 0; place + l < s->places && d < s->size; d += LANES)
      some[l] += NAME(load)(q + d, s->size - d) *
                 NAME(numbers)(half, s->k, (first + place + l) * s->size + d, s->size - d);
  }
  NAME(transpose)(some);
  UNROLL for (int wide = LANES / 2; wide; wide /= 2)
    UNROLL for (int l = 0; l < wide; l++) some[l] += some[l + wide];
  VEC score = some[0] * s->scale;
  return s->softcap ? NAME(cap)(score / s->softcap, s->softcap, &slope) : (VEC)(score * LOG2_E);
}

/* Which of LANES places, of at most `left`, are seen. */
INLINE INTS NAME(shown)(const uint8_t *seen, int64_t left) {
  NAME(bytes) some = {0};
  if (left >= LANES) memcpy(&some, seen, LANES);
  else memcpy(&some, seen, left);
  return -__builtin_convertvector(some, INTS);
}

/* The places from the first to the last that a head of a group sees, in whole vectors. Results are 0
 * elsewhere. */
INLINE void NAME(seen_by_group)(const One *s, int64_t group, int64_t *low, int64_t *high) {
  int64_t heads = s->heads / s->groups, places = s->places, width = s->width;
  *low = places, *high = 0;
  for (int64_t h = group * heads; h < (group + 1) * heads; h++) {
    const uint8_t *seen = s->seen + h * places;
    memset(s->y + h * width, 0, width * sizeof(float));
    memset(s->weights + h * places, 0, places * sizeof(float));
    int64_t start = 0, end = places;
    while (start < end && !seen[start]) start++;
    while (end > start && !seen[end - 1]) end--;
    if (start < end) *low = MIN(*low, start), *high = MAX(*high, end);
  }
  *low = *low / LANES * LANES;
}

/* Scores of the heads of a group, times log2(e). */
INLINE void NAME(score_group)(const int half, const One *s, int64_t group, int64_t low, int64_t high) {
  int64_t heads = s->heads / s->groups, places = s->places, first = group * places;
  for (int64_t place = low; place < high; place += LANES)
    for (int64_t h = group * heads; h < (group + 1) * heads; h++) {
      int64_t at = h * places + place, left = places - place;
      VEC score = NAME(scores_of)(half, s, s->q + h * s->size, first, place);
      if (s->bias) score += NAME(load)(s->bias + at, left) * LOG2_E;
      NAME(put)(s->weights + at, score, left);
    }
}

/* The weights of a head, from its scores. */
INLINE void NAME(weigh_head)(const One *s, int64_t h, int64_t low, int64_t high) {
  int64_t places = s->places;
  float *weights = s->weights + h * places, total = 0, highest = -__builtin_inff();
  const uint8_t *seen = s->seen + h * places;
  VEC most = (VEC){0} + highest, sum = {0};
  for (int64_t p = low; p < high; p += LANES) {
    VEC score = NAME(load)(weights + p, places - p);
    score = NAME(choose)(NAME(shown)(seen + p, places - p), score, (VEC){0} - __builtin_inff());
    most = NAME(maximum)(most, score);
  }
  for (int l = 0; l < LANES; l++) highest = MAX(highest, most[l]);
  for (int64_t p = low; p < high; p += LANES) {
    VEC weight = NAME(exp2)(NAME(load)(weights + p, places - p) - highest);
    weight = NAME(choose)(NAME(shown)(seen + p, places - p), weight, (VEC){0});
    NAME(put)(weights + p, weight, places - p);
    sum += weight;
  }
  for (int l = 0; l < LANES; l++) total += sum[l];
  for (int64_t p = low; total != 0 && p < high; p++) weights[p] /= total;
}

/* Adds the values of some places to four vectors of y, by the weights of a head. */
INLINE void NAME(add_values)(const int half, const One *s, int64_t group, int64_t h, int64_t d,
                             int64_t place, int64_t end) {
  int64_t width = s->width, first = group * s->places;
  const float *weights = s->weights + h * s->places;
  float *y = s->y + h * width + d;
  VEC sums[4];
  UNROLL for (int v = 0; v < 4; v++) sums[v] = NAME(load)(y + v * LANES, width - d - v * LANES);
  for (int64_t p = place; p < end; p++)
    UNROLL for (int v = 0; v < 4; v++)
      sums[v] += weights[p] * NAME(numbers)(half, s->v, (first + p) * width + d + v * LANES,
                                            width - d - v * LANES);
  UNROLL for (int v = 0; v < 4; v++) NAME(put)(y + v * LANES, sums[v], width - d - v * LANES);
}

/* The heads of a group. Only places are read between the first and the last that a head sees, in
 * tiles that stay in the first cache for all heads. */
INLINE void NAME(attend_group)(const int half, const One *s, int64_t group) {
  int64_t heads = s->heads / s->groups, first = group * heads, last = first + heads, low, high;
  NAME(seen_by_group)(s, group, &low, &high);
  NAME(score_group)(half, s, group, low, high);
  for (int64_t h = first; h < last; h++) NAME(weigh_head)(s, h, low, high);
  for (int64_t place = low; place < high; place += 64)
    for (int64_t h = first; h < last; h++)
      for (int64_t d = 0; d < s->width; d += 4 * LANES)
        NAME(add_values)(half, s, group, h, d, place, MIN(place + 64, high));
}

static void NAME(attend_one)(const One *s, int64_t group) {
  if (s->half) NAME(attend_group)(1, s, group);
  else NAME(attend_group)(0, s, group);
}
