/* The inner loops of gemv.h, for the vectors of one instruction set.
 *
 * Reading w takes all the time, so the loops read it once, in order, and turn numbers into floats in
 * registers. A vector of 32-bit words holds `fields` numbers per word, one of each in a field. */

/* A vector of words, or the last bytes of a line and zeros. */
INLINE WORDS NAME(words_at)(const char *from, int64_t left) {
  if (left >= 4 * LANES) return *(const WORDS *)from;
  WORDS words = {0};
  memcpy(&words, from, left);
  return words;
}

/* Scales from one place on, of float32, float16 (1) or bfloat16 (2). */
INLINE VEC NAME(scales)(const void *scale, int half, int64_t at, int64_t left) {
  if (half != 1) return NAME(numbers)(half, scale, at, left);
  if (left >= LANES) return HALVES((const uint16_t *)scale + at);
  uint16_t some[LANES] = {0};
  if (left > 0) memcpy(some, (const uint16_t *)scale + at, left * sizeof(*some));
  return HALVES(some);
}

/* The numbers in a vector of words as floats, a vector for each field. Integers of the lower and of
 * the upper half of each word become the last places of 2**23, less 2**23: times 1, 2**4, 2**8 or
 * 2**12 by their place, which `UNIT_OF` corrects. That takes fewer operations than to widen them,
 * and other units than the sums. */
#define UNIT_OF(numbers, fields, k) ((numbers) >= INT8 ? 1 / (float)(1 << (k) * (32 / (fields)) % 16) : 1)
INLINE void NAME(floats)(const Numbers numbers, const int fields, WORDS words, VEC *to) {
  if (numbers == F32) to[0] = (VEC)words;
  if (numbers == BF16) to[0] = (VEC)(words << 16), to[1] = (VEC)(words & 0xffff0000);
  if (numbers >= INT8)
    UNROLL for (int k = 0; k < fields; k++) {
      const int bits = 32 / fields, at = k * bits % 16;
      const uint32_t mask = ((1u << bits) - 1) << at, sign = 1u << (bits - 1) << at;
#if LANES == 16 /* the last four bits of each word choose from the 16 values */
      if (numbers == INT4) {
        const VEC table = {0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1};
        to[k] = PERMUTE(table * (float)(1 << at), words >> k * bits);
        continue;
      }
#endif
      WORDS half = k * bits < 16 ? words : words >> 16;
      to[k] = (VEC)((half & mask) ^ (0x4b000000 | sign)) - (8388608.0f + (float)sign);
    }
}

/* sums += x * w for `count` lines of w, where each has all outputs. The first row of x turns the
 * numbers into floats, which the others find in the first cache. */
INLINE void NAME(add_lines)(const Numbers numbers, const int fields, const int count, const int one,
                            const Gemv *s, int64_t first, float *sums) {
  const char *w = s->w + first * s->line;
  const int64_t size = 4 * LANES, rows = one ? 1 : s->rows;
  float x[4][8];
  for (int64_t row = 0; row < rows; row++)
    for (int r = 0; r < count; r++) x[row][r] = s->x[row * s->inputs + first + r];
  for (int64_t at = 0; at < s->line; at += size, sums += fields * LANES) {
    VEC total[8], some[8][8];
    if (at % 64 == 0 && count > 1) /* the processor itself fetches ahead within a line only */
      UNROLL for (int r = 0; r < count; r++)
        __builtin_prefetch(w + (count + r) * s->line + at, 0, 2);
    for (int64_t row = 0; row < rows; row++) {
      VEC *to = (VEC *)(sums + row * s->padded);
      UNROLL for (int k = 0; k < fields; k++) total[k] = to[k];
      UNROLL for (int r = 0; r < count; r++) {
        if (row == 0)
          NAME(floats)(numbers, fields, NAME(words_at)(w + r * s->line + at, s->line - at), some[r]);
        UNROLL for (int k = 0; k < fields; k++) total[k] += x[row][r] * some[r][k];
      }
      UNROLL for (int k = 0; k < fields; k++) to[k] = total[k];
    }
  }
}

/* Adds the sums of a group, in order and times their scales. Each step mixes the first half of the
 * vectors with the second, number by number. */
INLINE void NAME(add_group)(const Numbers numbers, const int fields, const Gemv *s,
                            int64_t scale, const float *group, float *sums) {
  for (int64_t o = 0; o < s->outputs; o += fields * LANES) {
    VEC v[8], next[8];
    UNROLL for (int k = 0; k < fields; k++)
      v[k] = *(const VEC *)(group + o + k * LANES) * UNIT_OF(numbers, fields, k);
    UNROLL for (int step = 1; step < fields; step *= 2) {
      UNROLL for (int k = 0; k < fields / 2; k++) {
#if LANES == 16
        next[2 * k] = MIX(v[k], v[k + fields / 2], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        next[2 * k + 1] =
          MIX(v[k], v[k + fields / 2], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif LANES == 8
        next[2 * k] = MIX(v[k], v[k + fields / 2], 0, 8, 1, 9, 2, 10, 3, 11);
        next[2 * k + 1] = MIX(v[k], v[k + fields / 2], 4, 12, 5, 13, 6, 14, 7, 15);
#else
        next[2 * k] = MIX(v[k], v[k + fields / 2], 0, 4, 1, 5);
        next[2 * k + 1] = MIX(v[k], v[k + fields / 2], 2, 6, 3, 7);
#endif
      }
      UNROLL for (int k = 0; k < fields; k++) v[k] = next[k];
    }
    UNROLL for (int k = 0; k < fields; k++) {
      int64_t at = o + k * LANES;
      if (s->scale) v[k] *= NAME(scales)(s->scale, s->half, scale + at, s->outputs - at);
      *(VEC *)(sums + at) += v[k];
    }
  }
}

/* One part of the lines, group by group: eight lines at once, whose sums stay in a cache. */
INLINE void NAME(part)(const Numbers numbers, const int fields, const int one, const Gemv *s,
                       int64_t part) {
  int64_t size = s->rows * s->padded, i = s->inputs * part / s->parts / 8 * 8, next;
  int64_t last = part == s->parts - 1 ? s->inputs : s->inputs * (part + 1) / s->parts / 8 * 8;
  float *sums = s->sums + 2 * part * size, *group = sums + size;
  memset(sums, 0, size * sizeof(float));
  for (; i < last; i = next) {
    int64_t scale = i / s->group * s->outputs;
    next = MIN(last, (i / s->group + 1) * s->group);
    memset(group, 0, size * sizeof(float));
    for (; next - i >= 8; i += 8) NAME(add_lines)(numbers, fields, 8, one, s, i, group);
    for (; i < next; i++) NAME(add_lines)(numbers, fields, 1, one, s, i, group);
    for (int64_t row = 0; row < s->rows; row++)
      NAME(add_group)(numbers, fields, s, scale, group + row * s->padded, sums + row * s->padded);
  }
}

/* The outputs from o on whose lines of w are `count` neighbors, where each has all inputs. x is in
 * the order of the fields of w. */
INLINE void NAME(dots)(const Numbers numbers, const int fields, const int rows, const int count,
                       const Gemv *s, int64_t o) {
  const char *w = s->w + o * s->line;
  const VEC *x = (const VEC *)s->sums;
  const int32_t *places = s->places;
  int64_t groups = (s->inputs + s->group - 1) / s->group;
  VEC total[4][4];
  UNROLL for (int r = 0; r < count; r++)
    UNROLL for (int row = 0; row < rows; row++) total[r][row] = (VEC){0};
  for (int64_t at = 0; at < s->line; at += 4 * LANES, x += fields, places += LANES) {
    UNROLL for (int r = 0; r < count; r++) {
      VEC some[8], scale = {0};
      NAME(floats)(numbers, fields, NAME(words_at)(w + r * s->line + at, s->line - at), some);
      __builtin_prefetch(w + r * s->line + at + AHEAD, 0, 2);
      if (groups > 1) {
        NAME(ints) place = *(const NAME(ints) *)places;
        int64_t first = (o + r) * groups + places[0];
        scale = NAME(scales)(s->scale, s->half, first, s->outputs * groups - first);
        scale = PERMUTE(scale, place - places[0]);
      }
      UNROLL for (int row = 0; row < rows; row++) {
        VEC sum = x[row * s->padded / LANES] * some[0];
        UNROLL for (int k = 1; k < fields; k++) sum += x[row * s->padded / LANES + k] * some[k];
        if (groups > 1) sum *= scale;
        total[r][row] += sum;
      }
    }
  }
  for (int r = 0; r < count; r++)
    for (int row = 0; row < MIN(rows, s->rows); row++) {
      float sum = 0;
      for (int l = 0; l < LANES; l++) sum += total[r][row][l];
      if (s->scale && groups == 1) sum *= NAME(scales)(s->scale, s->half, o + r, s->outputs - o - r)[0];
      s->y[row * s->outputs + o + r] = sum;
    }
}

INLINE void NAME(some_dots)(const Numbers numbers, const int fields, const int rows, const Gemv *s,
                            int64_t part) {
  int64_t o = s->outputs * part / s->parts, last = s->outputs * (part + 1) / s->parts;
  for (; last - o >= 4; o += 4) NAME(dots)(numbers, fields, rows, 4, s, o);
  for (; o < last; o++) NAME(dots)(numbers, fields, rows, 1, s, o);
}

void NAME(gemv)(const Gemv *s, int64_t chunk) {
  const int one = s->rows == 1;
#define CASE(kind, fields)                                                          \
  if (s->numbers == kind) {                                                         \
    if (s->transposed && one) NAME(some_dots)(kind, fields, 1, s, chunk);           \
    else if (s->transposed) NAME(some_dots)(kind, fields, 4, s, chunk);             \
    else if (one) NAME(part)(kind, fields, 1, s, chunk);                            \
    else NAME(part)(kind, fields, 0, s, chunk);                                     \
  }
  CASE(F32, 1)
  CASE(BF16, 2)
  CASE(INT8, 4)
  CASE(INT4, 8)
}
