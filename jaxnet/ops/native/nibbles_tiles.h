/* The inner loops of gemv.h for integers of 4 bits, for one width of vectors: with DOT, END, PAIR_LOW
 * and PAIR_HIGH of an instruction set, which its file defines.
 *
 * A byte of w holds two numbers of 4 bits, which become 0 to 15 by adding 8. DOT multiplies bytes of
 * w and of x and adds four neighbors, or two neighbors in 16 bits, which END adds: the sums of 32
 * inputs stay below 2**15. What the 8 adds is taken off afterwards. */

/* A vector of bytes, also beyond a line, which is not used then; zeros beyond the end of w. */
INLINE WORDS NAME(until)(const uint8_t *from, const uint8_t *end) {
  if (end - from >= 4 * LANES) return *(const WORDS *)from;
  WORDS words = {0};
  if (end > from) memcpy(&words, from, end - from);
  return words;
}

/* The digits of 32 neighbors of x, and what to do with them. */
typedef struct {
  int8_t digits[DIGITS][32];
  int32_t sums[32]; /* of the digits of a number, by their places: the number in steps */
  float largest;
} NAME(neighbors);

/* Rounds 32 neighbors of x to digits of 7 bits: x = largest / STEPS * (a * 2**14 + b * 2**7 + c), where
 * the largest is divided last, since its steps may be too small for a float. */
INLINE void NAME(round_neighbors)(const float *x, NAME(neighbors) *to) {
  enum { MANY = 32 / LANES };
  INTS most = {0}, n[MANY], last;
  UNROLL for (int i = 0; i < MANY; i++) {
    INTS size = *(const INTS *)(x + i * LANES) & 0x7fffffff, more = size > most;
    most = (size & more) | (most & ~more); /* NaN is the largest of all */
  }
  int32_t top = 0;
  for (int l = 0; l < LANES; l++) top = MAX(top, most[l]);
  const Rounding by = rounding_of(top, STEPS);
  to->largest = by.largest;
  UNROLL for (int i = 0; i < MANY; i++) {
    VEC some = *(const VEC *)(x + i * LANES) * by.up * by.inverse;
    some += 12582912.0f; /* 1.5 * 2**23 rounds */
    n[i] = ((INTS)some - 0x4b400000) & -by.fine;
    memcpy(to->sums + i * LANES, &n[i], sizeof(INTS));
  }
  UNROLL for (int d = DIGITS - 1; d >= 0; d--)
    UNROLL for (int i = 0; i < MANY; i++) {
      last = n[i];
      if (d) last = ((last + 64) & 127) - 64;
      const NAME(bytes) narrow = __builtin_convertvector(last, NAME(bytes));
      memcpy(to->digits[d] + i * LANES, &narrow, LANES);
      n[i] = (n[i] - last) >> 7;
    }
}

/* The order of `columns`: for each vector of w, the even ones of each digit, then the odd ones. */
INLINE void NAME(put_by_vectors)(const Nibbles *s, int64_t row, int64_t g, const NAME(neighbors) *of) {
  int64_t unit = 8 * LANES, vectors = (s->inputs + unit - 1) / unit, place = g * 32 % unit;
  int64_t at = row * vectors + g * 32 / unit;
  for (int i = 0; i < 4; i++) {
    s->largest[at * LANES + place / 8 + i] = of->largest;
    s->less[at * LANES + place / 8 + i] = 0;
    for (int l = 0; l < 8; l++) s->less[at * LANES + place / 8 + i] += 8 * of->sums[8 * i + l];
  }
  for (int d = 0; d < DIGITS; d++) {
    int8_t *to = s->digits + (at * DIGITS + d) * unit + place / 2;
    for (int i = 0; i < 16; i++) to[i] = of->digits[d][2 * i];
    for (int i = 0; i < 16; i++) to[unit / 2 + i] = of->digits[d][2 * i + 1];
  }
}

/* The order of `lines`. */
INLINE void NAME(put_by_groups)(const Nibbles *s, int64_t row, int64_t g, const NAME(neighbors) *of) {
  int64_t at = row * s->groups + g;
  s->largest[at] = of->largest;
  s->less[at] = 0;
  for (int i = 0; i < 32; i++) s->less[at] += 8 * of->sums[i];
  memcpy(s->digits + at * sizeof(of->digits), of->digits, sizeof(of->digits));
}

/* Rows of x by digits. */
static void NAME(digits)(const Nibbles *s) {
  for (int64_t row = 0; row < s->rows; row++)
    for (int64_t g = 0; g < s->groups; g++) {
      float x[32] = {0};
      NAME(neighbors) found;
      memcpy(x, s->x + row * s->inputs + g * 32, MIN(32, s->inputs - g * 32) * sizeof(float));
      NAME(round_neighbors)(x, &found);
      if (s->transposed) NAME(put_by_vectors)(s, row, g, &found);
      else NAME(put_by_groups)(s, row, g, &found);
    }
}

/* The sum of the digits' sums, less what belongs to the 8 in each number of w, as floats. */
INLINE VEC NAME(whole)(const INTS *sums, INTS less) {
  INTS all = (INTS)END(sums[0]);
  UNROLL for (int d = 1; d < DIGITS; d++) all = (all << 7) + (INTS)END(sums[d]);
  return __builtin_convertvector(all - less, VEC);
}

/* Half of the columns of four lines, times four numbers of each row of x. */
INLINE void NAME(quad)(const int rows, const int half, const uint8_t *w, const int64_t *lines,
                       const uint8_t *end, const int32_t *const *x, INTS (*sums)[4][DIGITS]) {
  const WORDS a = NAME(until)(w, end), b = NAME(until)(w + lines[0], end);
  const WORDS c = NAME(until)(w + lines[1], end), d = NAME(until)(w + lines[2], end);
  WORDS ab = half ? PAIR_HIGH(8, a, b) : PAIR_LOW(8, a, b), cd = half ? PAIR_HIGH(8, c, d) : PAIR_LOW(8, c, d);
  UNROLL for (int q = 0; q < 2; q++) {
    WORDS four = (q ? PAIR_HIGH(16, ab, cd) : PAIR_LOW(16, ab, cd)) ^ 0x88888888;
    WORDS low = four & 0x0f0f0f0f, high = four >> 4 & 0x0f0f0f0f;
    UNROLL for (int row = 0; row < rows; row++)
      UNROLL for (int k = 0; k < DIGITS; k++) {
        INTS these = (INTS){0} + x[row][8 * k];
        sums[row][2 * q][k] = DOT(sums[row][2 * q][k], low, these);
        sums[row][2 * q + 1][k] = DOT(sums[row][2 * q + 1][k], high, these);
      }
  }
}

/* Half of the columns of 32 lines, for one or two rows of x: sums of the numbers in the low and in the
 * high bits, two vectors of each. */
INLINE void NAME(half_block)(const int rows, const int half, const Nibbles *s, int64_t row, int64_t g,
                             int64_t o, VEC (*low)[4], VEC (*high)[4]) {
  const uint8_t *end = s->w + s->inputs * s->line, *w = s->w + g * 32 * s->line + o / 2;
  const int64_t lines[] = {s->line, 2 * s->line, 3 * s->line};
  int64_t count = MIN(32, s->inputs - g * 32), i = 0;
  const int32_t *x[2];
  INTS sums[2][4][DIGITS];
  UNROLL for (int r = 0; r < rows; r++) {
    x[r] = (const int32_t *)s->digits + ((row + r) * s->groups + g) * 8 * DIGITS;
    UNROLL for (int q = 0; q < 4; q++)
      UNROLL for (int k = 0; k < DIGITS; k++) sums[r][q][k] = (INTS){0};
  }
  for (; count - i >= 4; i += 4, w += 4 * s->line) {
    if (!half)
      UNROLL for (int r = 0; r < 4; r++) __builtin_prefetch(w + (32 + r) * s->line, 0, 2);
    NAME(quad)(rows, half, w, lines, end, x, sums);
    UNROLL for (int r = 0; r < rows; r++) x[r]++;
  }
  if (i < count) { /* zeros in x */
    int64_t last = count - 1 - i;
    const int64_t fewer[] = {MIN(1, last) * s->line, MIN(2, last) * s->line, last * s->line};
    NAME(quad)(rows, half, w, fewer, end, x, sums);
  }
  UNROLL for (int r = 0; r < rows; r++) {
    INTS less = (INTS){0} + s->less[(row + r) * s->groups + g];
    UNROLL for (int q = 0; q < 2; q++) {
      low[r][2 * half + q] = NAME(whole)(sums[r][2 * q], less);
      high[r][2 * half + q] = NAME(whole)(sums[r][2 * q + 1], less);
    }
  }
}

/* Sums of the low and the high bits as eight vectors, in the order of the columns. */
INLINE void NAME(in_order)(const VEC *low, const VEC *high, VEC *v) {
#if LANES == 16
  UNROLL for (int q = 0; q < 4; q += 2)
    UNROLL for (int l = 0; l < 4; l += 2) {
#define LANE(q) (l ? MIX(low[q], high[q], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31) \
                   : MIX(low[q], high[q], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23))
      VEC one = LANE(q), next = LANE(q + 1);
      v[2 * l + q / 2] = MIX(one, next, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
      v[2 * l + 2 + q / 2] =
        MIX(one, next, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    }
#elif LANES == 8
  UNROLL for (int q = 0; q < 4; q++) {
    v[q] = MIX(low[q], high[q], 0, 8, 1, 9, 2, 10, 3, 11);
    v[4 + q] = MIX(low[q], high[q], 4, 12, 5, 13, 6, 14, 7, 15);
  }
#else
  UNROLL for (int q = 0; q < 4; q++) {
    v[2 * q] = MIX(low[q], high[q], 0, 4, 1, 5);
    v[2 * q + 1] = MIX(low[q], high[q], 2, 6, 3, 7);
  }
#endif
}

/* Adds 32 lines, for 8 * LANES columns and one or two rows of x. */
INLINE void NAME(block)(const int rows, const Nibbles *s, int64_t row, int64_t g, int64_t o,
                        float *to) {
  VEC low[2][4], high[2][4];
  NAME(half_block)(rows, 0, s, row, g, o, low, high);
  NAME(half_block)(rows, 1, s, row, g, o, low, high);
  int64_t scale = g * 32 / s->group * s->outputs + o;
  UNROLL for (int r = 0; r < rows; r++) {
    float largest = s->largest[(row + r) * s->groups + g], *at = to + r * s->padded;
    VEC v[8];
    NAME(in_order)(low[r], high[r], v);
    UNROLL for (int k = 0; k < 8; k++) {
      int64_t left = s->outputs - o - k * LANES;
      VEC one = NAME(scales)(s->scale, s->half, scale + k * LANES, left) * (1 / STEPS);
      *(VEC *)(at + k * LANES) += v[k] * one * largest;
    }
  }
}

/* Some of the inputs, times some of the outputs. */
static void NAME(lines)(const Nibbles *s, int64_t chunk) {
  int64_t part = chunk / s->strips, strip = chunk % s->strips, width = 8 * LANES;
  int64_t blocks = (s->outputs + width - 1) / width;
  int64_t first = blocks * strip / s->strips * width, last = blocks * (strip + 1) / s->strips * width;
  float *sums = s->sums + part * s->rows * s->padded;
  for (int64_t row = 0; row < s->rows; row++)
    memset(sums + row * s->padded + first, 0, (last - first) * sizeof(float));
  for (int64_t g = s->groups * part / s->parts; g < s->groups * (part + 1) / s->parts; g++)
    for (int64_t o = first; o < last; o += width) {
      int64_t row = 0;
#if LANES != 8
      for (; row + 2 <= s->rows; row += 2) NAME(block)(2, s, row, g, o, sums + row * s->padded + o);
#endif
      for (; row < s->rows; row++) NAME(block)(1, s, row, g, o, sums + row * s->padded + o);
    }
}

/* The outputs from o on whose lines of w are `count` neighbors, for one or two rows of x. */
INLINE void NAME(nibble_dots)(const int rows, const int count, const Nibbles *s, int64_t row, int64_t o) {
  const uint8_t *w = s->w + o * s->line, *end = s->w + s->outputs * s->line;
  int64_t vectors = (s->inputs + 8 * LANES - 1) / (8 * LANES);
  int64_t scales = (s->inputs + s->group - 1) / s->group;
  VEC total[4][2];
  UNROLL for (int r = 0; r < count; r++)
    UNROLL for (int i = 0; i < rows; i++) total[r][i] = (VEC){0};
  for (int64_t v = 0; v < vectors; v++) {
    const INTS place = *(const INTS *)(s->places + v * LANES);
    UNROLL for (int r = 0; r < count; r++) {
      int64_t first = (o + r) * scales + place[0];
      VEC scale = NAME(scales)(s->scale, s->half, first, s->outputs * scales - first) * (1 / STEPS);
      if (LANES == 4) scale = scale[0] + (VEC){0};
      else scale = PERMUTE(scale, place - place[0]);
      WORDS four = NAME(until)(w + r * s->line + v * 4 * LANES, end) ^ 0x88888888;
      __builtin_prefetch(w + r * s->line + v * 4 * LANES + AHEAD, 0, 2);
      WORDS low = four & 0x0f0f0f0f, high = four >> 4 & 0x0f0f0f0f;
      UNROLL for (int i = 0; i < rows; i++) {
        int64_t at = (row + i) * vectors + v;
        const INTS *x = (const INTS *)s->digits + at * 2 * DIGITS;
        INTS sums[DIGITS];
        UNROLL for (int k = 0; k < DIGITS; k++) {
          INTS none = {0};
          sums[k] = DOT(DOT(none, low, x[2 * k]), high, x[2 * k + 1]);
        }
        INTS less = *(const INTS *)(s->less + at * LANES);
        total[r][i] += NAME(whole)(sums, less) * scale * *(const VEC *)(s->largest + at * LANES);
      }
    }
  }
  UNROLL for (int r = 0; r < count; r++)
    UNROLL for (int i = 0; i < rows; i++) {
      VEC sum = total[r][i];
#if LANES == 16
      sum += MIX(sum, sum, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
      sum += MIX(sum, sum, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
#elif LANES == 8
      sum += MIX(sum, sum, 4, 5, 6, 7, 0, 1, 2, 3);
#endif
      s->y[(row + i) * s->outputs + o + r] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
}

static void NAME(columns)(const Nibbles *s, int64_t part) {
  int64_t o = s->outputs * part / s->parts, last = s->outputs * (part + 1) / s->parts;
  for (; o < last; o += 4) {
    int64_t row = 0;
    for (; row + 2 <= s->rows; row += 2)
      if (last - o >= 4) NAME(nibble_dots)(2, 4, s, row, o);
      else for (int64_t r = o; r < last; r++) NAME(nibble_dots)(2, 1, s, row, r);
    if (row < s->rows) {
      if (last - o >= 4) NAME(nibble_dots)(1, 4, s, row, o);
      else for (int64_t r = o; r < last; r++) NAME(nibble_dots)(1, 1, s, row, r);
    }
  }
}

const Dots NAME(dots_of) = {LANES, NAME(digits), NAME(lines), NAME(columns)};
