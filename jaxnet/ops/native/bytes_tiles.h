/* The inner loops of gemv.h for integers of 8 bits, where a processor adds products of four bytes:
 * with DOT, PAIR_LOW and PAIR_HIGH, which its file defines. DOT takes w as 0 to 255, by adding 128,
 * whose products are taken off afterwards. */

#define WIDE (4 * LANES)

/* A row of x by digits of 7 bits: x = largest / STEPS_8 * (((a * 128) + b) * 128 + c) * 128 + d, as
 * finely as floats; the largest is multiplied last, since a step may be too small for a float. The
 * digits lie as DOT reads them: transposed, for each vector of w its bytes of a, of b and so on; else
 * for each four lines. `less` is what the 128 adds: to a lane, or in all. */
static void NAME(byte_digits)(const Bytes *s, int64_t row) {
  const float *x = s->x + row * s->inputs;
  int8_t *digits = s->digits + row * s->padded * DIGITS_8;
  int32_t *less = s->less + row * LANES * DIGITS_8, top = 0;
  INTS most = {0};
  for (int64_t i = 0; i < s->inputs; i += LANES) {
    INTS size = (INTS)NAME(load)(x + i, s->inputs - i) & 0x7fffffff, more = size > most;
    most = (size & more) | (most & ~more); /* NaN is the largest of all */
  }
  for (int l = 0; l < LANES; l++) top = MAX(top, most[l]);
  const Rounding by = rounding_of(top, STEPS_8);
  s->largest[row] = by.largest;
  memset(less, 0, LANES * DIGITS_8 * sizeof *less);
  for (int64_t i = 0; i < s->padded; i += LANES) {
    VEC some = by.fine ? (VEC)(NAME(load)(x + i, s->inputs - i) * by.up * by.inverse) : (VEC){0};
    some += (VEC)(((INTS)some & (int)0x80000000) | 0x3f000000); /* half, to round */
    INTS n = __builtin_convertvector(some, INTS);
    for (int d = DIGITS_8 - 1; d >= 0; d--) {
      INTS last = n;
      if (d) last = ((n + 64) & 127) - 64;
      n = (n - last) >> 7;
      const NAME(bytes) narrow = __builtin_convertvector(last, NAME(bytes));
      if (s->transposed) {
        memcpy(digits + (i / WIDE * DIGITS_8 + d) * WIDE + i % WIDE, &narrow, LANES);
        for (int l = 0; l < LANES; l++) less[d * LANES + (i % WIDE + l) / 4] += 128 * last[l];
      } else {
        for (int64_t q = 0; q < LANES / 4; q++)
          memcpy(digits + ((i / 4 + q) * DIGITS_8 + d) * 4, (const char *)&narrow + 4 * q, 4);
        *(INTS *)(less + d * LANES) += 128 * last;
      }
    }
  }
  for (int d = 0; d < DIGITS_8 && !s->transposed; d++) {
    int32_t all = 0;
    for (int l = 0; l < LANES; l++) all += less[d * LANES + l];
    for (int l = 0; l < LANES; l++) less[d * LANES + l] = all;
  }
}

/* Sums of digits as floats, of which the scales are left out. */
INLINE VEC NAME(of_digits)(const INTS *sums, const int32_t *less) {
  VEC total = __builtin_convertvector(sums[0] - *(const INTS *)less, VEC);
  UNROLL for (int d = 1; d < DIGITS_8; d++)
    total = total * 128 + __builtin_convertvector(sums[d] - *(const INTS *)(less + d * LANES), VEC);
  return total;
}

/* `count` lines, four at a time, times a row of x, for 4 * LANES columns. */
INLINE void NAME(byte_lines)(const Bytes *s, int64_t first, int64_t count, int64_t o, const int32_t *x,
                             int32_t *sums) {
  const uint8_t *end = s->w + s->inputs * s->outputs, *w = s->w + first * s->outputs + o;
  const uint8_t *next = s->w + (first + 32) * s->outputs + 16 * o; /* in the order of memory */
  INTS total[4][DIGITS_8];
  UNROLL for (int q = 0; q < 4; q++)
    UNROLL for (int d = 0; d < DIGITS_8; d++) total[q][d] = *(INTS *)(sums + (q * DIGITS_8 + d) * LANES);
  for (int64_t i = 0; i < count; i += 4, w += 4 * s->outputs, x += DIGITS_8) {
    WORDS line[4];
    UNROLL for (int r = 0; r < 4; r++) {
      line[r] = NAME(until)(w + r * s->outputs, end);
      __builtin_prefetch(next + (i + r) * 64, 0, 2);
    }
    UNROLL for (int q = 0; q < 4; q++) {
      const WORDS a = q < 2 ? PAIR_LOW(8, line[0], line[1]) : PAIR_HIGH(8, line[0], line[1]);
      const WORDS b = q < 2 ? PAIR_LOW(8, line[2], line[3]) : PAIR_HIGH(8, line[2], line[3]);
      const WORDS four = (q % 2 ? PAIR_HIGH(16, a, b) : PAIR_LOW(16, a, b)) ^ 0x80808080;
      UNROLL for (int d = 0; d < DIGITS_8; d++) total[q][d] = DOT(total[q][d], four, (INTS){0} + x[d]);
    }
  }
  UNROLL for (int q = 0; q < 4; q++)
    UNROLL for (int d = 0; d < DIGITS_8; d++) *(INTS *)(sums + (q * DIGITS_8 + d) * LANES) = total[q][d];
}

/* A part of the inputs, times all outputs: 16 lines at a time. */
static void NAME(byte_part)(const Bytes *s, int64_t part) {
  int64_t quads = (s->inputs + 3) / 4, first = quads * part / s->parts * 4;
  int64_t last = quads * (part + 1) / s->parts * 4, wide = (s->outputs + WIDE - 1) / WIDE * WIDE;
  for (int64_t row = 0; row < s->rows; row++) {
    int32_t *sums = s->sums + (part * s->rows + row) * wide * DIGITS_8;
    memset(sums, 0, wide * DIGITS_8 * sizeof *sums);
  }
  for (int64_t i = first; i < last; i += 16)
    for (int64_t o = 0; o < s->outputs; o += WIDE)
      for (int64_t row = 0; row < s->rows; row++)
        NAME(byte_lines)(s, i, MIN(16, last - i), o,
                         (const int32_t *)(s->digits + row * s->padded * DIGITS_8) + i / 4 * DIGITS_8,
                         s->sums + ((part * s->rows + row) * wide + o) * DIGITS_8);
}

/* All parts of a row, in the order of the columns. */
static void NAME(byte_sums)(const Bytes *s, int64_t row) {
  int64_t wide = (s->outputs + WIDE - 1) / WIDE * WIDE, size = wide * DIGITS_8;
  float largest = s->largest[row];
  for (int64_t o = 0; o < s->outputs; o += WIDE) {
    float found[4][LANES];
    UNROLL for (int q = 0; q < 4; q++) {
      INTS total[DIGITS_8];
      UNROLL for (int d = 0; d < DIGITS_8; d++) total[d] = (INTS){0};
      for (int64_t part = 0; part < s->parts; part++) {
        const int32_t *sums = s->sums + (part * s->rows + row) * size + (o + q * LANES) * DIGITS_8;
        UNROLL for (int d = 0; d < DIGITS_8; d++) total[d] += *(const INTS *)(sums + d * LANES);
      }
      *(VEC *)found[q] = NAME(of_digits)(total, s->less + row * LANES * DIGITS_8);
    }
    for (int64_t c = 0; c < MIN(WIDE, s->outputs - o); c++)
      s->y[row * s->outputs + o + c] =
        found[c % 16 / 4][c / 16 * 4 + c % 4] * (s->scale[o + c] / STEPS_8) * largest;
  }
}

/* The outputs of a part, each with a line of w. */
INLINE void NAME(byte_columns)(const int count, const Bytes *s, int64_t row, int64_t o) {
  const uint8_t *w = s->w + o * s->inputs, *end = s->w + s->outputs * s->inputs;
  const INTS *x = (const INTS *)(s->digits + row * s->padded * DIGITS_8);
  INTS total[4][DIGITS_8];
  UNROLL for (int r = 0; r < count; r++)
    UNROLL for (int d = 0; d < DIGITS_8; d++) total[r][d] = (INTS){0};
  for (int64_t at = 0; at < s->inputs; at += WIDE, x += DIGITS_8)
    UNROLL for (int r = 0; r < count; r++) {
      const WORDS four = NAME(until)(w + r * s->inputs + at, end) ^ 0x80808080;
      __builtin_prefetch(w + r * s->inputs + at + AHEAD, 0, 2);
      UNROLL for (int d = 0; d < DIGITS_8; d++) total[r][d] = DOT(total[r][d], four, x[d]);
    }
  UNROLL for (int r = 0; r < count; r++) {
    VEC sum = NAME(of_digits)(total[r], s->less + row * LANES * DIGITS_8);
    sum += MIX(sum, sum, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    sum += MIX(sum, sum, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    s->y[row * s->outputs + o + r] =
      ((sum[0] + sum[1]) + (sum[2] + sum[3])) * (s->scale[o + r] / STEPS_8) * s->largest[row];
  }
}

static void NAME(byte_dots)(const Bytes *s, int64_t part) {
  int64_t o = s->outputs * part / s->parts, last = s->outputs * (part + 1) / s->parts;
  for (; last - o >= 4; o += 4)
    for (int64_t row = 0; row < s->rows; row++) NAME(byte_columns)(4, s, row, o);
  for (; o < last; o++)
    for (int64_t row = 0; row < s->rows; row++) NAME(byte_columns)(1, s, row, o);
}

const ByteLoops NAME(bytes_of) = {NAME(byte_digits), NAME(byte_part), NAME(byte_sums), NAME(byte_dots)};
