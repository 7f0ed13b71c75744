/* Scaled dot-product attention of float32 arrays and its gradient, in memory that grows with the
 * length and not with its square, as handlers of XLA's foreign function interface.
 *
 * Each query sees a range of places, first <= place < last: causal masks, windows, lengths and runs
 * of segments are all such ranges. Blocks that no query sees are skipped, and places are compared
 * with ranges only in blocks where one begins or ends. A query that sees nothing gets zeros. */

#pragma once
#include "levels.h"

enum {
  PLACES = 64,   /* places at once: their keys, values and scores stay in the caches */
  QUERIES = 256, /* most queries of a chunk forward, which copies the keys and values it reads */
  BACK = 64,     /* queries at once in the gradient */
};

/* What only the gradient needs. */
typedef struct {
  const float *y, *total, *dy, *dtotal;
  float *dq, *dk, *dv;
  int64_t parts;     /* chunks of a group of heads */
  float *partial;    /* gradients by keys and values of each chunk */
  atomic_int *ended; /* chunks of each group */
} Back;

/* Shapes: q (batch, time, heads, size); k (batch, places, groups, size); v (batch, places, groups,
 * width); y and dy (batch, time, heads, width); first and last (batch, time); and by query (batch,
 * heads, time): `top`, the largest score times log2(e), `sums` of the weights relative to it, the
 * logarithm `total` of the sum of exp(score), and `dtotal`. */
typedef struct {
  Work work;
  const Kernels *kernels;
  int64_t batch, time, heads, size, places, groups, width;
  int64_t rows, blocks;         /* queries of a block, and how many blocks a head has */
  float scale, softcap, factor; /* `factor` of scores; with a softcap of the argument of tanh */
  const float *q, *k, *v;
  const int32_t *first, *last;
  float *out, *top, *sums; /* results but of the gradient */
  Back back;
} Attention;

static void close_attention(Work *work) {
  free_vectors(((Attention *)work)->back.partial);
  free(((Attention *)work)->back.ended);
  free(work);
}

/* c[i][j] = sum over r < depth of x[i][r] * w[r][j]; with `onto` it is added to what was there. Rows
 * of x and c are x_row and c_row apart; the columns of w are in panels. */
static void multiply(const Kernels *k, int64_t rows, int64_t columns, int64_t depth, const float *x,
                     int64_t x_row, const float *w, int onto, float *c, int64_t c_row) {
  int64_t panel = 2 * k->lanes, tiles = divide_up(rows, k->most / 2);
  for (int64_t j = 0; j < columns; j += panel) {
    const float *these = w + j * depth;
    for (int64_t n = 0; n < tiles; n++) {
      int64_t i = rows * n / tiles;
      const float *from = x + i * x_row;
      Sum s = {
        .x = &from, .w = &these, .rows = 1, .taps = 1, .run = depth, .pixel = x_row,
        .result = c_row, .onto = onto,
      };
      k->tiles->sum[columns - j >= panel][rows * (n + 1) / tiles - i](&s, 0, c + i * c_row + j, panel);
    }
  }
}

/* c[i][j] += sum over r < depth of x[r][i] * y[r][j]. */
static void accumulate(const Kernels *k, int64_t rows, int64_t columns, int64_t depth,
                       const float *x, int64_t x_row, const float *y, int64_t y_row, float *c,
                       int64_t c_row) {
  int64_t panel = 2 * k->lanes, tiles = divide_up(rows, k->most / 2);
  Add a = {
    .x = &x, .y = &y, .rows = 1, .columns = depth, .step_x = x_row, .step_y = y_row, .width = c_row,
  };
  for (int64_t j = 0; j < columns; j += panel)
    for (int64_t n = 0; n < tiles; n++) {
      int64_t i = rows * n / tiles, count = rows * (n + 1) / tiles - i;
      k->tiles->add[columns - j >= panel][count](&a, i, j, c + i * c_row + j);
    }
}

/* Queries past the end see nothing. */
static Ranges read_ranges(const Attention *s, int64_t batch, int64_t query) {
  Ranges r = {.low = s->places, .all_high = s->places};
  for (int64_t t = 0; t < MIN(2 * s->kernels->lanes, s->time - query); t++) {
    int64_t at = batch * s->time + query + t;
    int64_t first = MAX(s->first[at], 0), last = MIN(s->last[at], s->places);
    r.first[t] = (int32_t)first, r.last[t] = (int32_t)last;
    r.all_low = MAX(r.all_low, first), r.all_high = MIN(r.all_high, last);
    if (first < last) r.low = MIN(r.low, first), r.high = MAX(r.high, last);
  }
  return r;
}

/* The places of a block that a panel sees: those below `end` from `place` on, if any. */
static Panel cut(const Attention *s, const Ranges *r, int64_t place, int64_t end) {
  int64_t from = MAX(place, r->low), count = MIN(end, r->high) - from;
  return (Panel){
    .ranges = r, .place = from, .count = count, .softcap = s->softcap,
    .masked = from < r->all_low || from + count > r->all_high,
  };
}

/* Replaces what is not finite by 0: its product with a weight of 0 would be NaN. */
static void clean(float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if (!__builtin_isfinite(x[i])) x[i] = 0;
}

/* Makes the sums of queries NaN that see a place whose key or value is not finite. */
static void spread_nan(const Attention *s, const Ranges *ranges, int64_t panels, int64_t place,
                       int64_t count, const float *keys, int64_t n, const float *values, int64_t w,
                       float *sums) {
  int64_t panel = 2 * s->kernels->lanes;
  for (int64_t i = 0; i < count; i++) {
    if (s->kernels->finite(keys + i * n, n) && s->kernels->finite(values + i * w, w)) continue;
    for (int64_t t = 0; t < panels * panel; t++) {
      const Ranges *r = ranges + t / panel;
      if (r->first[t % panel] <= place + i && place + i < r->last[t % panel])
        sums[t] = __builtin_nanf("");
    }
  }
}

/* The memory of a chunk forward: queries and values collected so far in panels, (size or width,
 * panel); by query the largest score and the sum of weights; and for a block of places the scores of
 * a panel, the keys and the values. */
typedef struct {
  float *q, *y, *top, *sums, *scores, *keys, *values;
} Collected;

static int open_collected(const Attention *s, int64_t queries, Collected *c) {
  int64_t lanes = s->kernels->lanes;
  enum { Q, Y, TOP, SUMS, SCORES, K, V, ARRAYS };
  const int64_t sizes[ARRAYS] = {
    [Q] = queries * s->size, [Y] = queries * s->width, [TOP] = queries, [SUMS] = queries,
    [SCORES] = PLACES * 2 * lanes, [K] = PLACES * round_up(s->size, lanes),
    [V] = PLACES * round_up(s->width, lanes),
  };
  float *a[ARRAYS];
  if (!allocate(ARRAYS, sizes, a)) return 0;
  *c = (Collected){a[Q], a[Y], a[TOP], a[SUMS], a[SCORES], a[K], a[V]};
  memset(c->y, 0, queries * s->width * sizeof(float));
  for (int64_t i = 0; i < queries; i++) c->top[i] = -__FLT_MAX__, c->sums[i] = 0;
  return 1;
}

/* Places from `from` on, at most PLACES, for all panels of queries: their scores and, with them, the
 * values collected so far. Places up to `high` are fetched meanwhile. */
static void attend_places(const Attention *s, const Collected *c, const Ranges *ranges,
                          int64_t panels, int64_t row, int64_t from, int64_t end, int64_t high) {
  const Kernels *k = s->kernels;
  int64_t n = s->size, w = s->width, panel = 2 * k->lanes, count = end - from;
  int64_t n_wide = round_up(n, k->lanes), w_wide = round_up(w, k->lanes);
  const float *keys = s->k + row * n, *values = s->v + row * w;
  k->gather(keys, s->groups * n, count, n, n_wide, 1, c->keys);
  k->gather(values, s->groups * w, count, w, w_wide, 1, c->values);
  if (!k->finite(c->keys, count * n_wide) || !k->finite(c->values, count * w_wide)) {
    spread_nan(s, ranges, panels, from, count, c->keys, n_wide, c->values, w_wide, c->sums);
    clean(c->keys, count * n_wide);
    clean(c->values, count * w_wide);
  }
  for (int64_t p = 0; p < panels; p++) {
    int64_t ahead = count + PLACES * p / panels, most = count + PLACES * (p + 1) / panels;
    fetch(keys + ahead * s->groups * n, s->groups * n, MIN(most, high - from) - ahead, n);
    fetch(values + ahead * s->groups * w, s->groups * w, MIN(most, high - from) - ahead, w);
    Panel now = cut(s, ranges + p, from, end);
    if (now.count <= 0) continue;
    float *y = c->y + p * panel * w;
    const float *key = c->keys + (now.place - from) * n_wide;
    const float *value = c->values + (now.place - from) * w_wide;
    multiply(k, now.count, panel, n, key, n_wide, c->q + p * panel * n, 0, c->scores, panel);
    k->softmax(&now, c->scores, c->top + p * panel, c->sums + p * panel, y, w);
    accumulate(k, w, panel, now.count, value, w_wide, c->scores, panel, y, panel);
  }
}

/* Writes the results of a block of queries, of which the first is `start`. */
static void write_results(const Attention *s, const Collected *c, int64_t b, int64_t h, int64_t start,
                          int64_t rows) {
  const Kernels *k = s->kernels;
  int64_t panel = 2 * k->lanes, at = (b * s->heads + h) * s->time + start;
  memcpy(s->top + at, c->top, rows * sizeof(float));
  memcpy(s->sums + at, c->sums, rows * sizeof(float));
  for (int64_t i = 0; i < round_up(rows, panel); i++) c->sums[i] = c->sums[i] == 0 ? 0 : 1 / c->sums[i];
  for (int64_t p = 0; p < rows; p += panel)
    k->unpack(c->y + p * s->width, c->sums + p, s->heads * s->width, rows - p, s->width,
              s->out + ((b * s->time + start + p) * s->heads + h) * s->width);
}

/* One block of queries of one head. */
static int attend(Work *work, int64_t chunk) {
  const Attention *s = (const Attention *)work;
  const Kernels *k = s->kernels;
  int64_t heads = s->batch * s->heads, panel = 2 * k->lanes;
  int64_t start = (s->blocks - 1 - chunk / heads) * s->rows; /* causal: most work first */
  int64_t b = chunk % heads / s->heads, h = chunk % s->heads, g = h / (s->heads / s->groups);
  int64_t rows = MIN(s->rows, s->time - start), panels = divide_up(rows, panel);
  Collected c;
  if (!open_collected(s, panels * panel, &c)) return 0;
  Ranges ranges[QUERIES / 8];
  int64_t low = s->places, high = 0;
  for (int64_t p = 0; p < panels; p++) {
    int64_t query = start + p * panel, row = (b * s->time + query) * s->heads + h;
    ranges[p] = read_ranges(s, b, query);
    low = MIN(low, ranges[p].low), high = MAX(high, ranges[p].high);
    k->pack(s->q + row * s->size, s->heads * s->size, rows - p * panel, s->size, s->factor,
            c.q + p * panel * s->size);
  }
  /* Blocks begin at multiples of PLACES, so that results do not depend on the queries of a chunk. */
  for (int64_t place = low / PLACES * PLACES; place < high; place += PLACES) {
    int64_t from = MAX(place, low), row = (b * s->places + from) * s->groups + g;
    attend_places(s, &c, ranges, panels, row, from, MIN(place + PLACES, high), high);
  }
  write_results(s, &c, b, h, start, rows);
  free_vectors(c.q);
  return 1;
}

/* What the gradient reads of a block of queries: queries and gradients of y in panels (size, panel)
 * as w of a product that is over the size, and in panels of columns (BACK, panel) for a product over
 * queries; and by query `totals`, times log2(e), and `means` of the gradients by weights. */
typedef struct {
  float *q, *dy, *q_rows, *dy_rows, *totals, *means, *dq;
} Block;

static void gather_panels(const Kernels *k, const float *from, int64_t row, int64_t count,
                          int64_t n, float factor, float *to) {
  int64_t panel = 2 * k->lanes;
  memset(to, 0, BACK * round_up(n, k->lanes) * sizeof(float));
  for (int64_t d = 0; d < n; d += panel) {
    int64_t wide = MIN(panel, round_up(n - d, k->lanes));
    k->gather(from + d, row, count, n - d, wide, factor, to + d * BACK);
  }
}

static void read_block(const Attention *s, int64_t b, int64_t h, int64_t start, const Block *to) {
  const Kernels *k = s->kernels;
  int64_t n = s->size, w = s->width, panel = 2 * k->lanes;
  int64_t n_row = s->heads * n, w_row = s->heads * w;
  int64_t rows = MIN(BACK, s->time - start), at = (b * s->heads + h) * s->time + start;
  int64_t row = (b * s->time + start) * s->heads + h;
  const float *q = s->q + row * n, *y = s->back.y + row * w, *dy = s->back.dy + row * w;
  for (int64_t p = 0; p < BACK; p += panel) {
    k->pack(q + p * n_row, n_row, rows - p, n, s->factor, to->q + p * n);
    k->pack(dy + p * w_row, w_row, rows - p, w, 1, to->dy + p * w);
  }
  gather_panels(k, q, n_row, rows, n, s->scale, to->q_rows);
  gather_panels(k, dy, w_row, rows, w, 1, to->dy_rows);
  memset(to->dq, 0, BACK * round_up(n, k->lanes) * sizeof(float));
  for (int64_t i = 0; i < BACK; i++) {
    float total = i < rows ? s->back.total[at + i] : 0;
    to->totals[i] = total == -__builtin_inff() ? 0 : total * LOG2_E;
    to->means[i] = i < rows ? k->dot(y + i * w_row, dy + i * w_row, w) - s->back.dtotal[at + i] : 0;
  }
}

/* The sum of a group's parts in order, so that it does not depend on the threads. */
static void sum_parts(const Attention *s, int64_t group, int64_t n, int64_t wide, const float *from,
                      int64_t part, float *to) {
  to += (group / s->groups * s->places * s->groups + group % s->groups) * n;
  for (int64_t r = 0; r < s->places; r++, from += wide, to += s->groups * n) {
    memcpy(to, from, n * sizeof(float));
    for (int64_t i = 1; i < s->back.parts; i++)
      for (int64_t d = 0; d < n; d++) to[d] += from[i * part + d];
  }
}

/* The memory of a chunk of the gradient: keys and values of all places; for a block of places and of
 * queries weights and their slopes, (places, queries); and what `read_block` reads. */
typedef struct {
  float *keys, *values, *weights, *slopes;
  Block block;
} Memory;

static int open_memory(const Attention *s, Memory *m) {
  int64_t n = s->size, w = s->width, lanes = s->kernels->lanes;
  int64_t n_wide = round_up(n, lanes), w_wide = round_up(w, lanes);
  enum { K, V, WEIGHTS, SLOPES, Q, DY, Q_ROWS, DY_ROWS, TOTALS, MEANS, DQ, ARRAYS };
  const int64_t sizes[ARRAYS] = {
    [K] = s->places * n_wide, [V] = s->places * w_wide, [WEIGHTS] = PLACES * BACK,
    [SLOPES] = PLACES * BACK, [Q] = BACK * n, [DY] = BACK * w, [Q_ROWS] = BACK * n_wide,
    [DY_ROWS] = BACK * w_wide, [TOTALS] = BACK, [MEANS] = BACK, [DQ] = BACK * n_wide,
  };
  float *a[ARRAYS];
  if (!allocate(ARRAYS, sizes, a)) return 0;
  *m = (Memory){
    a[K], a[V], a[WEIGHTS], a[SLOPES],
    {a[Q], a[DY], a[Q_ROWS], a[DY_ROWS], a[TOTALS], a[MEANS], a[DQ]},
  };
  return 1;
}

/* Copies the keys and values of a group of heads. */
static void read_places(const Attention *s, int64_t b, int64_t g, const Memory *m) {
  const Kernels *k = s->kernels;
  int64_t n = s->size, w = s->width, row = b * s->places * s->groups + g;
  int64_t n_wide = round_up(n, k->lanes), w_wide = round_up(w, k->lanes);
  k->gather(s->k + row * n, s->groups * n, s->places, n, n_wide, 1, m->keys);
  k->gather(s->v + row * w, s->groups * w, s->places, w, w_wide, 1, m->values);
  if (!k->finite(m->keys, s->places * n_wide)) clean(m->keys, s->places * n_wide);
  if (!k->finite(m->values, s->places * w_wide)) clean(m->values, s->places * w_wide);
}

/* The weights of a panel of queries for the places of a block and their slopes, zeros for places that
 * the panel does not see, and from the slopes the gradient of the queries. */
static void slopes_of_panel(const Attention *s, const Memory *m, const Ranges *ranges, int64_t p,
                            int64_t place, int64_t end) {
  const Kernels *k = s->kernels;
  int64_t n = s->size, w = s->width, panel = 2 * k->lanes, first = p * panel;
  int64_t n_wide = round_up(n, k->lanes), w_wide = round_up(w, k->lanes);
  Panel now = cut(s, ranges + p, place, end);
  float *weights = m->weights + first, *slopes = m->slopes + first;
  for (int64_t r = 0; now.count < end - place && r < end - place; r++) {
    memset(weights + r * BACK, 0, panel * sizeof(float));
    memset(slopes + r * BACK, 0, panel * sizeof(float));
  }
  if (now.count <= 0) return;
  weights += (now.place - place) * BACK, slopes += (now.place - place) * BACK;
  const float *keys = m->keys + now.place * n_wide, *values = m->values + now.place * w_wide;
  const Block *of = &m->block;
  multiply(k, now.count, panel, n, keys, n_wide, of->q + first * n, 0, weights, BACK);
  multiply(k, now.count, panel, w, values, w_wide, of->dy + first * w, 0, slopes, BACK);
  k->slopes(&now, weights, slopes, BACK, of->totals + first, of->means + first);
  accumulate(k, panel, n_wide, now.count, slopes, BACK, keys, n_wide, of->dq + first * n_wide, n_wide);
}

/* A block of queries: for each block of places the gradients by their keys and values, added to dk
 * and dv, and at last the gradient by the queries. */
static void attend_block_back(const Attention *s, const Memory *m, int64_t b, int64_t h,
                              int64_t start, float *dk, float *dv) {
  const Kernels *k = s->kernels;
  const Block *of = &m->block;
  int64_t n = s->size, panel = 2 * k->lanes, panels = BACK / panel, low = s->places, high = 0;
  int64_t n_wide = round_up(n, k->lanes), w_wide = round_up(s->width, k->lanes);
  Ranges ranges[BACK / 8];
  read_block(s, b, h, start, of);
  for (int64_t p = 0; p < panels; p++) {
    ranges[p] = read_ranges(s, b, start + p * panel);
    low = MIN(low, ranges[p].low), high = MAX(high, ranges[p].high);
  }
  for (int64_t place = low; place < high; place += PLACES) {
    int64_t end = MIN(place + PLACES, high), count = end - place;
    for (int64_t p = 0; p < panels; p++) slopes_of_panel(s, m, ranges, p, place, end);
    multiply(k, count, w_wide, BACK, m->weights, BACK, of->dy_rows, 1, dv + place * w_wide, w_wide);
    multiply(k, count, n_wide, BACK, m->slopes, BACK, of->q_rows, 1, dk + place * n_wide, n_wide);
  }
  float *dq = s->back.dq + ((b * s->time + start) * s->heads + h) * n;
  for (int64_t r = 0; r < MIN(BACK, s->time - start); r++)
    for (int64_t d = 0; d < n; d++) dq[r * s->heads * n + d] = of->dq[r * n_wide + d] * s->scale;
}

/* One part of the blocks of queries of all heads that share keys and values. The gradients by keys
 * and values collect in memory of this chunk, (places, size or width); the last chunk of a group adds
 * up the parts. */
static int attend_back(Work *work, int64_t chunk) {
  Attention *s = (Attention *)work;
  int64_t lanes = s->kernels->lanes, n_wide = round_up(s->size, lanes);
  int64_t w_wide = round_up(s->width, lanes), part = s->places * (n_wide + w_wide);
  int64_t group = chunk / s->back.parts, b = group / s->groups, g = group % s->groups;
  int64_t shared = s->heads / s->groups;
  float *dk = s->back.partial + chunk * part, *dv = dk + s->places * n_wide;
  Memory m;
  if (!open_memory(s, &m)) return 0;
  read_places(s, b, g, &m);
  memset(dk, 0, part * sizeof(float));
  for (int64_t i = chunk % s->back.parts; i < shared * s->blocks; i += s->back.parts)
    attend_block_back(s, &m, b, g * shared + i / s->blocks, i % s->blocks * BACK, dk, dv);
  free_vectors(m.keys);
  if (atomic_fetch_add(s->back.ended + group, 1) == s->back.parts - 1) {
    const float *from = s->back.partial + group * s->back.parts * part;
    sum_parts(s, group, s->size, n_wide, from, part, s->back.dk);
    sum_parts(s, group, s->width, w_wide, from + s->places * n_wide, part, s->back.dv);
  }
  return 1;
}

/* Operands: q, k, v, first and last; back also y, total, and the gradients by both. Results: y, top
 * and sums; back the gradients by q, k and v. The option is the scale and the softcap or 0. */
static FfiError *read_sizes(FfiCall *f, int back, Attention *s) {
  FfiBuffer **in = f->operands.buffers;
  REQUIRE(f->operands.count == (back ? 9 : 5) && f->results.count == 3 && f->options.count == 1);
  REQUIRE(f->options.kinds[0] == FFI_ARRAY);
  const FfiArray *numbers = f->options.values[0];
  REQUIRE(numbers->type == FFI_F32 && numbers->count == 2);
  REQUIRE(in[0]->rank == 4 && in[1]->rank == 4 && in[2]->rank == 4);
  float scale = ((float *)numbers->data)[0], softcap = ((float *)numbers->data)[1];
  *s = (Attention){
    .batch = in[0]->dims[0], .time = in[0]->dims[1], .heads = in[0]->dims[2],
    .size = in[0]->dims[3], .places = in[1]->dims[1], .groups = in[1]->dims[2],
    .width = in[2]->dims[3], .scale = scale, .softcap = softcap,
    .factor = softcap ? scale / softcap : scale * LOG2_E,
  };
  REQUIRE(MIN(MIN(s->batch, s->time), MIN(s->heads, s->size)) > 0);
  REQUIRE(MIN(s->places, MIN(s->groups, s->width)) > 0 && s->heads % s->groups == 0);
  return NULL;
}

static FfiError *read_operands(FfiCall *f, int back, Attention *s) {
  FfiBuffer **in = f->operands.buffers, **out = f->results.buffers;
  int64_t batch = s->batch, time = s->time, heads = s->heads, size = s->size, places = s->places;
  int64_t groups = s->groups, width = s->width;
  REQUIRE(IS(in[0], F32, batch, time, heads, size) && IS(in[1], F32, batch, places, groups, size));
  REQUIRE(IS(in[2], F32, batch, places, groups, width));
  REQUIRE(IS(in[3], S32, batch, time) && IS(in[4], S32, batch, time));
  s->q = in[0]->data, s->k = in[1]->data, s->v = in[2]->data;
  s->first = in[3]->data, s->last = in[4]->data;
  if (!back) {
    REQUIRE(IS(out[0], F32, batch, time, heads, width));
    REQUIRE(IS(out[1], F32, batch, heads, time) && IS(out[2], F32, batch, heads, time));
    s->out = out[0]->data, s->top = out[1]->data, s->sums = out[2]->data;
    return NULL;
  }
  REQUIRE(IS(in[5], F32, batch, time, heads, width) && IS(in[6], F32, batch, heads, time));
  REQUIRE(IS(in[7], F32, batch, time, heads, width) && IS(in[8], F32, batch, heads, time));
  REQUIRE(IS(out[0], F32, batch, time, heads, size));
  REQUIRE(IS(out[1], F32, batch, places, groups, size));
  REQUIRE(IS(out[2], F32, batch, places, groups, width));
  s->back = (Back){
    .y = in[5]->data, .total = in[6]->data, .dy = in[7]->data, .dtotal = in[8]->data,
    .dq = out[0]->data, .dk = out[1]->data, .dv = out[2]->data,
  };
  return NULL;
}

/* Enough chunks that all threads end together. */
static void divide_forward(Attention *s, int64_t threads) {
  int64_t heads = s->batch * s->heads, wanted = divide_up(4 * threads, heads);
  s->rows = MIN(QUERIES, round_up(divide_up(s->time, wanted), 2 * s->kernels->lanes));
  s->blocks = divide_up(s->time, s->rows);
  s->work.chunks = heads * s->blocks;
}

/* As many parts for any number of threads, so that sums are in the same order. Returns 0 without
 * memory. */
static int divide_back(Attention *s) {
  int64_t lanes = s->kernels->lanes, all = s->batch * s->groups;
  int64_t part = s->places * (round_up(s->size, lanes) + round_up(s->width, lanes));
  s->blocks = divide_up(s->time, BACK);
  s->back.parts = MIN(divide_up(8, all), s->heads / s->groups * s->blocks);
  s->work.chunks = all * s->back.parts;
  s->back.ended = zeros(all, sizeof(atomic_int));
  return s->back.ended && allocate(1, (int64_t[]){s->work.chunks * part}, &s->back.partial);
}

static FfiError *attention(FfiCall *f, int back) {
  if (no_run(f)) return NULL;
  Attention given;
  FfiError *wrong = read_sizes(f, back, &given);
  if (!wrong) wrong = read_operands(f, back, &given);
  if (wrong) return wrong;
  given.kernels = kernels_in_use();
  REQUIRE(given.kernels);
  Attention *s = zeros(1, sizeof(Attention));
  if (!s) return no_memory(f);
  *s = given;
  s->work = (Work){.holders = 1, .run = back ? attend_back : attend, .close = close_attention};
  int64_t threads = threads_of(f);
  int ok = back ? divide_back(s) : (divide_forward(s, threads), 1);
  ok = ok && run_chunks(&s->work, f, threads);
  release(&s->work);
  return ok ? NULL : no_memory(f);
}

FfiError *jaxnet_attention(FfiCall *f) { return attention(f, 0); }
FfiError *jaxnet_attention_back(FfiCall *f) { return attention(f, 1); }

/* Attention of one query per head, as in generation: q (batch, heads, size), k (batch, groups, places,
 * size), v (batch, groups, places, width), booleans (batch, heads, places) and, maybe, numbers to add
 * to the scores. Results: y (batch, heads, width) and the weights (batch, heads, places). The
 * option is that of `attention`. */
typedef struct {
  Work work;
  const Kernels *kernels;
  One one;
} Ones;

static int attend_ones(Work *work, int64_t chunk) {
  const Ones *s = (const Ones *)work;
  s->kernels->one(&s->one, chunk);
  return 1;
}

static void free_ones(Work *work) { free(work); }

FfiError *jaxnet_attention_one(FfiCall *f) {
  if (no_run(f)) return NULL;
  FfiBuffer **in = f->operands.buffers, **out = f->results.buffers;
  int added = f->operands.count == 5;
  REQUIRE((f->operands.count == 4 || added) && f->results.count == 2 && f->options.count == 1);
  REQUIRE(f->options.kinds[0] == FFI_ARRAY);
  const FfiArray *numbers = f->options.values[0];
  REQUIRE(numbers->type == FFI_F32 && numbers->count == 2);
  REQUIRE(in[0]->rank == 3 && in[1]->rank == 4 && in[2]->rank == 4);
  int64_t batch = in[0]->dims[0], heads = in[0]->dims[1], size = in[0]->dims[2];
  int64_t groups = in[1]->dims[1], places = in[1]->dims[2], width = in[2]->dims[3];
  int half = in[1]->type == FFI_BF16;
  FfiType kept = half ? FFI_BF16 : FFI_F32;
  REQUIRE(groups > 0 && heads % groups == 0 && IS(in[0], F32, batch, heads, size));
  REQUIRE(is(in[1], kept, 4, (int64_t[]){batch, groups, places, size}));
  REQUIRE(is(in[2], kept, 4, (int64_t[]){batch, groups, places, width}));
  REQUIRE(IS(in[3], PRED, batch, heads, places) && IS(out[0], F32, batch, heads, width));
  REQUIRE(IS(out[1], F32, batch, heads, places) && (!added || IS(in[4], F32, batch, heads, places)));
  const Kernels *kernels = kernels_in_use();
  REQUIRE(kernels);
  Ones *s = zeros(1, sizeof(Ones));
  if (!s) return no_memory(f);
  const float *form = numbers->data;
  *s = (Ones){
    .work = {.holders = 1, .run = attend_ones, .close = free_ones, .chunks = batch * groups},
    .kernels = kernels,
    .one = {
      .half = half, .heads = batch * heads, .groups = batch * groups, .size = size, .places = places,
      .width = width, .scale = form[0], .softcap = form[1], .q = in[0]->data, .k = in[1]->data,
      .v = in[2]->data, .seen = in[3]->data, .bias = added ? in[4]->data : NULL, .y = out[0]->data,
      .weights = out[1]->data,
    },
  };
  /* Another thread wakes up in the time of some hundred thousand products. */
  int64_t products = batch * heads * places * (size + width);
  run_chunks(&s->work, f, products < 1 << 18 ? 1 : threads_of(f));
  release(&s->work);
  return NULL;
}
