/* The transforms of Winograd's convolution, for one width of vectors; loops.h includes this file.
 *
 * A tile of m x m results of a 3x3 convolution is A'[(G w G') * (B' x B)]A with a product of n x n
 * numbers, n = m + 2, by the algorithm of Toom and Cook with the points 0, P, -P, Q, -Q (0, 1, -1 for
 * m = 2) and infinity. Each function applies one matrix to numbers `step` apart, along one axis. These
 * P and Q have half of the errors of the usual 1 and 2. All constants but those of G are exact. */

#define P 0.625f
#define Q 1.5f
#define P2 (P * P)
#define Q2 (Q * Q)
#define NP (1 / (2 * P2 * (P2 - Q2)))
#define NQ (1 / (2 * Q2 * (Q2 - P2)))

/* B': of x, n to n. */
INLINE void NAME(to_tile)(const int m, const VEC *x, const int step, VEC *to) {
  if (m == 2) {
    to[0] = x[0] - x[2 * step];
    to[1] = x[step] + x[2 * step];
    to[2] = x[2 * step] - x[step];
    to[3] = x[3 * step] - x[step];
    return;
  }
  VEC d1 = x[step], d2 = x[2 * step], d3 = x[3 * step], d4 = x[4 * step];
  VEC even = d4 - Q2 * d2, odd = d3 - Q2 * d1;
  to[0] = d4 + (P2 * Q2) * x[0] - (P2 + Q2) * d2;
  to[1] = even + P * odd;
  to[2] = even - P * odd;
  even = d4 - P2 * d2, odd = d3 - P2 * d1;
  to[3] = even + Q * odd;
  to[4] = even - Q * odd;
  to[5] = x[5 * step] + (P2 * Q2) * d1 - (P2 + Q2) * d3;
}

/* A': of products, n to m. */
INLINE void NAME(from_tile)(const int m, const VEC *x, const int step, VEC *to) {
  VEC sum = x[step] + x[2 * step], difference = x[step] - x[2 * step];
  if (m == 2) {
    to[0] = x[0] + sum;
    to[1] = difference + x[3 * step];
    return;
  }
  VEC more = x[3 * step] + x[4 * step], other = x[3 * step] - x[4 * step];
  to[0] = x[0] + sum + more;
  to[1] = P * difference + Q * other;
  to[2] = P2 * sum + Q2 * more;
  to[3] = x[5 * step] + (P2 * P) * difference + (Q2 * Q) * other;
}

/* A: of the gradient of y, m to n. */
INLINE void NAME(back_to_tile)(const int m, const VEC *y, const int step, VEC *to) {
  if (m == 2) {
    to[0] = y[0];
    to[1] = y[0] + y[step];
    to[2] = y[0] - y[step];
    to[3] = y[step];
    return;
  }
  VEC even = y[0] + P2 * y[2 * step], odd = y[step] + P2 * y[3 * step];
  to[0] = y[0];
  to[1] = even + P * odd;
  to[2] = even - P * odd;
  even = y[0] + Q2 * y[2 * step], odd = y[step] + Q2 * y[3 * step];
  to[3] = even + Q * odd;
  to[4] = even - Q * odd;
  to[5] = y[3 * step];
}

/* G: of weights, 3 to n. */
INLINE void NAME(weights_to_tile)(const int m, const VEC *w, const int step, VEC *to) {
  to[0] = w[0];
  to[m + 1] = w[2 * step];
  if (m == 2) {
    VEC even = 0.5f * (w[0] + w[2 * step]), odd = 0.5f * w[step];
    to[1] = even + odd;
    to[2] = even - odd;
    return;
  }
  to[0] *= 1 / (P2 * Q2);
  VEC even = NP * w[0] + (NP * P2) * w[2 * step], odd = (NP * P) * w[step];
  to[1] = even + odd;
  to[2] = even - odd;
  even = NQ * w[0] + (NQ * Q2) * w[2 * step], odd = (NQ * Q) * w[step];
  to[3] = even + odd;
  to[4] = even - odd;
}

/* G': of the gradient of the products, n to 3. */
INLINE void NAME(tile_to_weights)(const int m, const VEC *x, const int step, VEC *to) {
  VEC sum = x[step] + x[2 * step], difference = x[step] - x[2 * step];
  if (m == 2) {
    to[0] = x[0] + 0.5f * sum;
    to[1] = 0.5f * difference;
    to[2] = 0.5f * sum + x[3 * step];
    return;
  }
  VEC more = x[3 * step] + x[4 * step], other = x[3 * step] - x[4 * step];
  to[0] = (1 / (P2 * Q2)) * x[0] + NP * sum + NQ * more;
  to[1] = (NP * P) * difference + (NQ * Q) * other;
  to[2] = x[5 * step] + (NP * P2) * sum + (NQ * Q2) * more;
}

typedef void NAME(OneAxis)(const int m, const VEC *, const int step, VEC *);

/* Adds the squares of column j. Of what a tile of 4 reads, cells of 2x2 pixels are summed; of what a tile of
 * 2 reads, the four inner pixels and the rest. */
INLINE void NAME(measure)(const int in, const int count, const int j, const VEC *x, VEC *column, VEC *cells) {
  UNROLL for (int i = 0; i < in; i++) {
    const int inner = count == 5 && i % 3 && j % 3;
    VEC *to = in == 6 ? column + i / 2 : cells + (inner ? 2 * i + j - 2 : 0);
    if (in == 6 && !(i % 2) && !(j % 2)) *to = x[i * 6] * x[i * 6];
    else *to += x[i * 6] * x[i * 6];
  }
  if (in < 6 || !(j % 2)) return;
  UNROLL for (int i = 0; i < 3; i++) cells[i * 3 + j / 2] += column[i];
}

/* Sums halves of neighbors; the last one of an odd number is its own neighbor. */
INLINE void NAME(fold_all)(const int count, VEC *sums) {
  UNROLL for (int i = 0; i < count / 2; i++) sums[i] = NAME(fold)(sums[2 * i], sums[2 * i + 1]);
  if (count % 2) sums[count / 2] = NAME(fold)(sums[count - 1], sums[count - 1]);
}

/* Writes the sum of each of `count` vectors: of as many as there are lanes together, by their reversed
 * places. The compiler keeps them in registers, since it knows all numbers. */
INLINE void NAME(put_sums)(const int count, VEC *sums, float *to) {
  const int half = (count + 1) / 2, fourth = (half + 1) / 2, eighth = (fourth + 1) / 2;
  const int left = LANES == 4 ? fourth : LANES == 8 ? eighth : (eighth + 1) / 2;
  NAME(fold_all)(count, sums);
  NAME(fold_all)(half, sums);
  if (LANES > 4) NAME(fold_all)(fourth, sums);
  if (LANES > 8) NAME(fold_all)(eighth, sums);
  UNROLL for (int i = 0; i < left; i++) *(VEC *)(to + i * LANES) = sums[i];
}

/* A vector of what is read, of a pixel or, with `at`, where s->at says. */
INLINE VEC NAME(number)(const int at, const int half, const Square *s, const float *from, int place,
                        int in, int64_t c) {
  const float *start = at ? s->at[place] : from;
  int64_t here = at ? c : place / in * s->row + place % in * s->pixel + c, left = s->features - c;
  if (half) return NAME(numbers)(1, start, here, left);
  return left >= LANES ? *(const VEC *)(start + here) : NAME(load)(start + here, left);
}

/* Both axes of a square of `in` by `in` vectors, for all features. If `padded`, what is read may end
 * within a vector, and what is written has whole ones; else the other way round. With `half`, what may
 * end within a vector is bfloat16. With `at`, a square is read where s->at says. */
INLINE void NAME(both)(NAME(OneAxis) one, const int m, const int in, const int out, const int padded,
                       const int at, const int half, const Square *s, const float *from, float *to) {
  const int measured = padded && in != 3; /* not weights */
  const int cells = in == 6 ? 9 : m == 2 && in == 4 ? 5 : 1;
  VEC sums[9] = {0};
  for (int64_t c = 0; c < s->features; c += LANES, to += half && !padded ? 0 : s->vector_to) {
    VEC x[6][6], halfway[6][6], done[6], squares[3];
    int64_t left = s->features - c;
    UNROLL for (int j = 0; j < in; j++) {
      UNROLL for (int i = 0; i < in; i++) {
        x[i][j] = padded ? NAME(number)(at, half, s, from, i * in + j, in, c)
                         : *(const VEC *)(from + i * s->row + j * s->pixel + c);
      }
      if (measured) NAME(measure)(in, cells, j, &x[0][j], squares, sums);
      VEC column[6];
      one(m, &x[0][j], 6, column);
      UNROLL for (int i = 0; i < out; i++) halfway[i][j] = column[i];
    }
    UNROLL for (int i = 0; i < out; i++) {
      if (!padded && i >= s->rows) break;
      one(m, halfway[i], 1, done);
      UNROLL for (int j = 0; j < out; j++) {
        int64_t place = i * s->row_to + j * s->pixel_to;
        float *there = to + place;
        if (half && !padded) {
          if (j < s->columns) NAME(put_half)(0, (uint16_t *)to + place + c, done[j], left);
        } else if (padded) *(VEC *)there = done[j];
        else if (j < s->columns) {
          VEC y = done[j];
          if (s->finish) y = NAME(finished)(s->finish, y + *(const VEC *)(s->bias + c), there, left);
          NAME(put)(there, y, left);
        }
      }
    }
  }
  if (measured) NAME(put_sums)(cells, sums, s->sums);
}

/* The sums of squares of each pixel of a tile where s->at says, for numbers times a scale. That of a
 * pixel with a number other than 0 is not 0. */
INLINE void NAME(sum_squares)(const int n, const int half, const Square *s, float scale, float *to) {
  const float least = 1e-37f;
  VEC sums[36 + LANES] = {0};
  for (int64_t c = 0; c < s->features; c += LANES)
    UNROLL for (int i = 0; i < n * n; i++) {
      VEC given = NAME(number)(1, half, s, NULL, i, n, c), one = given * scale;
      one = NAME(maximum)((VEC){0} + least, one * one);
      sums[i] += (VEC)((INTS)one & (given != 0));
    }
  for (int first = 0; first < n * n; first += LANES) {
    VEC *some = sums + first;
    UNROLL for (int count = LANES / 2; count; count /= 2)
      UNROLL for (int i = 0; i < count; i++) some[i] = NAME(fold)(some[i], some[i + count]);
    NAME(put)(to + first, some[0], n * n - first);
  }
}

#define SQUARE(name, one, m, in, out, padded, at, half)                          \
  static void NAME(name##_##m)(const Square *s, const float *from, float *to) {  \
    NAME(both)(NAME(one), m, in, out, padded, at, half, s, from, to);            \
  }
#define SUM_SQUARES(name, m, half)                                                  \
  static void NAME(name##_##m)(const Square *s, float scale, float *to) {           \
    NAME(sum_squares)(m + 2, half, s, scale, to);                                   \
  }
#define SQUARES(m, n)                                  \
  SUM_SQUARES(squares, m, 0)                           \
  SUM_SQUARES(squares_half, m, 1)                      \
  SQUARE(read, to_tile, m, n, n, 1, 0, 0)              \
  SQUARE(read_at, to_tile, m, n, n, 1, 1, 0)           \
  SQUARE(read_half, to_tile, m, n, n, 1, 0, 1)         \
  SQUARE(read_half_at, to_tile, m, n, n, 1, 1, 1)      \
  SQUARE(write, from_tile, m, n, m, 0, 0, 0)           \
  SQUARE(write_half, from_tile, m, n, m, 0, 0, 1)      \
  SQUARE(back, back_to_tile, m, m, n, 1, 0, 0)         \
  SQUARE(back_at, back_to_tile, m, m, n, 1, 1, 0)      \
  SQUARE(back_half, back_to_tile, m, m, n, 1, 0, 1)    \
  SQUARE(back_half_at, back_to_tile, m, m, n, 1, 1, 1) \
  SQUARE(weights, weights_to_tile, m, 3, n, 1, 0, 0)   \
  SQUARE(kernel, tile_to_weights, m, n, 3, 0, 0, 0)
SQUARES(2, 4)
SQUARES(4, 6)
