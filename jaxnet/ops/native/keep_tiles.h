/* Threefry with two words of 32 bits and 20 rounds, as in JAX, for one width of vectors; loops.h
 * includes this file. */

/* Whether the numbers `first` and those that follow it, encrypted, are below a limit: their two words
 * combined, and of these the first 23 bits. A round waits for the one before, so four vectors take
 * turns. */
static void NAME(keep)(const uint32_t *key, uint32_t below, int64_t first, int64_t count, uint8_t *to) {
  const int turns[] = {13, 15, 26, 6, 17, 29, 16, 24};
  const uint32_t keys[] = {key[0], key[1], key[0] ^ key[1] ^ 0x1bd11bda};
  WORDS lanes;
  for (int i = 0; i < LANES; i++) lanes[i] = (uint32_t)i;
  for (int64_t at = 0; at < count; at += 4 * LANES) {
    WORDS high[4], low[4];
    NAME(bytes) some[4];
    for (int v = 0; v < 4; v++) {
      uint64_t number = (uint64_t)(first + at + v * LANES);
      high[v] = (WORDS){0} + ((uint32_t)(number >> 32) + keys[0]);
      low[v] = lanes + ((uint32_t)number + keys[1]);
    }
    UNROLL for (int i = 0; i < 5; i++) {
      UNROLL for (int k = 0; k < 4; k++)
        UNROLL for (int v = 0; v < 4; v++) {
          int turn = turns[i % 2 * 4 + k];
          high[v] += low[v];
          low[v] = (low[v] << turn | low[v] >> (32 - turn)) ^ high[v];
        }
      UNROLL for (int v = 0; v < 4; v++) {
        high[v] += keys[(i + 1) % 3];
        low[v] += keys[(i + 2) % 3] + (uint32_t)i + 1;
      }
    }
    for (int v = 0; v < 4; v++)
      some[v] = __builtin_convertvector(((high[v] ^ low[v]) >> 9) < below, NAME(bytes)) & 1;
    memcpy(to + at, some, (size_t)MIN(4 * LANES, count - at));
  }
}
