/* A step of an LSTM, and a step back, for the vectors of one instruction set; loops.h includes this
 * file. */

/* tanh as a quotient of two polynomials, as in XLA; NaN stays NaN. */
INLINE VEC NAME(tanh)(VEC x) {
  const float most = 8.078094482421875f; /* where the quotient is 1, with and without fused products */
  NAME(ints) high = x > most, low = x < -most;
  NAME(ints) bits = ((NAME(ints))x & ~(high | low)) | ((NAME(ints))((VEC){0} + most) & high) |
                    ((NAME(ints))((VEC){0} - most) & low);
  x = (VEC)bits;
  VEC x2 = x * x, p = (VEC){0} - 2.76076847742355e-16f, q = (VEC){0} + 1.19825839466702e-06f;
  p = p * x2 + 2.00018790482477e-13f;
  p = p * x2 - 8.60467152213735e-11f;
  p = p * x2 + 5.12229709037114e-08f;
  p = p * x2 + 1.48572235717979e-05f;
  p = p * x2 + 6.37261928875436e-04f;
  p = p * x2 + 4.89352455891786e-03f;
  q = q * x2 + 1.18534705686654e-04f;
  q = q * x2 + 2.26843463243900e-03f;
  q = q * x2 + 4.89352518554385e-03f;
  return x * p / q;
}

INLINE VEC NAME(sigmoid)(VEC x) { return NAME(tanh)(x * 0.5f) * 0.5f + 0.5f; }

static void NAME(cell)(const Cell *s, int64_t feature) {
  int64_t n = s->features, left = n - feature;
  VEC bias[4];
  for (int gate = 0; gate < 4; gate++) bias[gate] = NAME(load)(s->bias + gate * n + feature, left);
  for (int64_t r = 0; r < s->rows; r++) {
    int64_t at = r * n + feature, wide = 4 * r * n + feature;
    VEC z[4], old_c = NAME(load)(s->c + at, left);
    for (int gate = 0; gate < 4; gate++)
      z[gate] = NAME(load)(s->gates + wide + gate * n, left) + bias[gate] +
                *(const VEC *)(s->product + (4 * r + gate) * LANES);
    VEC i = NAME(sigmoid)(z[0]), f = NAME(sigmoid)(z[1]), g = NAME(tanh)(z[2]);
    VEC o = NAME(sigmoid)(z[3]), c = f * old_c + i * g, squashed = NAME(tanh)(c);
    if (s->slopes) {
      VEC slopes[] = {
        g * i * (1 - i), old_c * f * (1 - f), i * (1 - g * g), squashed * o * (1 - o),
      };
      for (int gate = 0; gate < 4; gate++)
        NAME(put)(s->slopes + wide + gate * n, slopes[gate], left);
      NAME(put)(s->by_old_c + at, f, left);
      NAME(put)(s->by_c + at, o * (1 - squashed * squashed), left);
    }
    if (s->mask && !s->mask[r]) {
      NAME(put)(s->h + at, NAME(load)(s->before + at, left), left);
      continue;
    }
    NAME(put)(s->h + at, o * squashed, left);
    NAME(put)(s->c + at, c, left);
  }
}

static void NAME(cell_back)(const CellBack *s) {
  int64_t n = s->features;
  for (int64_t r = 0; r < s->rows; r++)
    for (int64_t feature = 0; feature < n; feature += LANES) {
      int64_t at = r * n + feature, wide = 4 * r * n + feature, left = n - feature;
      VEC h = NAME(load)(s->given_h + at, left) + NAME(load)(s->h + at, left);
      if (s->mask && !s->mask[r]) {
        NAME(put)(s->kept + at, h, left);
        for (int gate = 0; gate < 4; gate++) NAME(put)(s->gates + wide + gate * n, (VEC){0}, left);
        continue;
      }
      VEC c = NAME(load)(s->c + at, left) + NAME(load)(s->by_c + at, left) * h;
      for (int gate = 0; gate < 4; gate++) {
        VEC slope = NAME(load)(s->slopes + wide + gate * n, left);
        NAME(put)(s->gates + wide + gate * n, slope * (gate < 3 ? c : h), left);
      }
      NAME(put)(s->c + at, NAME(load)(s->by_old_c + at, left) * c, left);
    }
}
