/* Scaled dot-product attention of float32 arrays and its gradient, in memory that grows with the
 * length and not with its square, as handlers of XLA's foreign function interface.
 *
 * Each query sees a range of places, first <= place < last: causal masks, windows, lengths and runs
 * of segments are all such ranges. Blocks that no query sees are skipped, and places are compared
 * with ranges only in blocks where one begins or ends. A query that sees nothing gets zeros. */

enum {
  PLACES = 64,   /* places at once: their keys, values and scores stay in the caches */
  QUERIES = 256, /* most queries of a chunk forward, which copies the keys and values it reads */
  BACK = 64,     /* queries at once in the gradient */
};

/* Shapes: q (batch, time, heads, size); k (batch, places, groups, size); v (batch, places, groups,
 * width); y and dy (batch, time, heads, width); first and last (batch, time); and by query (batch,
 * heads, time): `top`, the largest score times log2(e), `sums` of the weights relative to it, the
 * logarithm `total` of the sum of exp(score), and `dtotal`. */
typedef struct {
  Work work;
  const Kernels *kernels;
  int64_t batch, time, heads, size, places, groups, width;
  int64_t rows, blocks; /* queries of a block, and how many blocks a head has */
  int64_t parts;        /* chunks of a group of heads in the gradient */
  float scale, softcap, factor; /* `factor` of scores; with a softcap of the argument of tanh */
  const float *q, *k, *v, *y, *total, *dy, *dtotal;
  const int32_t *first, *last;
  float *out, *top, *sums, *dq, *dk, *dv;
  float *partial;    /* gradients by keys and values of each chunk */
  atomic_int *ended; /* chunks of each group */
} Attention;

static void close_attention(Work *work) {
  free_vectors(((Attention *)work)->partial);
  free(((Attention *)work)->ended);
  free(work);
}

static int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

/* Makes arrays of these many floats, aligned for vectors; the first one is to be freed. */
static int allocate(int64_t count, const int64_t *floats, float **arrays) {
  int64_t total = 0;
  for (int64_t i = 0; i < count; i++) total += round_up(floats[i], 16);
  arrays[0] = new_vectors(total * 4);
  for (int64_t i = 1; arrays[0] && i < count; i++)
    arrays[i] = arrays[i - 1] + round_up(floats[i - 1], 16);
  return arrays[0] != NULL;
}

/* Asks for some rows of n floats that are needed soon: the processor does not by itself for rows
 * that lie far apart. */
INLINE void fetch(const float *from, int64_t row, int64_t count, int64_t n) {
  for (int64_t r = 0; r < count; r++)
    for (int64_t d = 0; d < n; d += 16) __builtin_prefetch(from + r * row + d, 0, 2);
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
      k->sum[columns - j >= panel][rows * (n + 1) / tiles - i](&s, 0, c + i * c_row + j, panel);
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
      k->add[columns - j >= panel][count](&a, i, j, c + i * c_row + j);
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

/* One block of queries of one head: for each block of places and each panel of queries the scores
 * and, with them, the values collected so far, (width, panel). */
static int attend(Work *work, int64_t chunk) {
  const Attention *s = (const Attention *)work;
  const Kernels *k = s->kernels;
  int64_t n = s->size, w = s->width, heads = s->batch * s->heads, panel = 2 * k->lanes;
  int64_t n_wide = round_up(n, k->lanes), w_wide = round_up(w, k->lanes);
  int64_t start = (s->blocks - 1 - chunk / heads) * s->rows; /* causal: most work first */
  int64_t b = chunk % heads / s->heads, h = chunk % s->heads, g = h / (s->heads / s->groups);
  int64_t rows = MIN(s->rows, s->time - start), panels = divide_up(rows, panel);
  int64_t all = panels * panel;
  enum { Q, Y, TOP, SUMS, INVERSE, SCORES, K, V, ARRAYS };
  float *a[ARRAYS];
  if (!allocate(ARRAYS, (int64_t[]){all * n, all * w, all, all, all, PLACES * panel,
                                 PLACES * n_wide, PLACES * w_wide}, a))
    return 0;
  Ranges ranges[QUERIES / 8];
  int64_t low = s->places, high = 0;
  for (int64_t p = 0; p < panels; p++) {
    int64_t query = start + p * panel, row = ((b * s->time + query) * s->heads + h) * n;
    ranges[p] = read_ranges(s, b, query);
    low = MIN(low, ranges[p].low), high = MAX(high, ranges[p].high);
    k->pack(s->q + row, s->heads * n, rows - p * panel, n, s->factor, a[Q] + p * panel * n);
  }
  memset(a[Y], 0, all * w * sizeof(float));
  for (int64_t i = 0; i < all; i++) a[TOP][i] = -__FLT_MAX__, a[SUMS][i] = 0;
  /* Blocks begin at multiples of PLACES, so that results do not depend on the queries of a chunk. */
  for (int64_t place = low / PLACES * PLACES; place < high; place += PLACES) {
    int64_t from = MAX(place, low), end = MIN(place + PLACES, high);
    int64_t row = (b * s->places + from) * s->groups + g;
    const float *keys = s->k + row * n, *values = s->v + row * w;
    k->gather(keys, s->groups * n, end - from, n, n_wide, 1, a[K]);
    k->gather(values, s->groups * w, end - from, w, w_wide, 1, a[V]);
    if (!k->finite(a[K], (end - from) * n_wide) || !k->finite(a[V], (end - from) * w_wide)) {
      spread_nan(s, ranges, panels, from, end - from, a[K], n_wide, a[V], w_wide, a[SUMS]);
      clean(a[K], (end - from) * n_wide);
      clean(a[V], (end - from) * w_wide);
    }
    for (int64_t p = 0; p < panels; p++) {
      int64_t ahead = end - from + PLACES * p / panels;
      int64_t most = end - from + PLACES * (p + 1) / panels;
      fetch(keys + ahead * s->groups * n, s->groups * n, MIN(most, high - from) - ahead, n);
      fetch(values + ahead * s->groups * w, s->groups * w, MIN(most, high - from) - ahead, w);
      Panel now = cut(s, ranges + p, place, end);
      if (now.count <= 0) continue;
      float *q = a[Q] + p * panel * n, *y = a[Y] + p * panel * w;
      float *key = a[K] + (now.place - from) * n_wide, *value = a[V] + (now.place - from) * w_wide;
      multiply(k, now.count, panel, n, key, n_wide, q, 0, a[SCORES], panel);
      k->softmax(&now, a[SCORES], a[TOP] + p * panel, a[SUMS] + p * panel, y, w);
      accumulate(k, w, panel, now.count, value, w_wide, a[SCORES], panel, y, panel);
    }
  }
  for (int64_t i = 0; i < all; i++) a[INVERSE][i] = a[SUMS][i] == 0 ? 0 : 1 / a[SUMS][i];
  for (int64_t p = 0; p < panels; p++)
    k->unpack(a[Y] + p * panel * w, a[INVERSE] + p * panel, s->heads * w, rows - p * panel, w,
              s->out + ((b * s->time + start + p * panel) * s->heads + h) * w);
  int64_t at = (b * s->heads + h) * s->time + start;
  memcpy(s->top + at, a[TOP], rows * sizeof(float));
  memcpy(s->sums + at, a[SUMS], rows * sizeof(float));
  free_vectors(a[0]);
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
  const float *q = s->q + row * n, *y = s->y + row * w, *dy = s->dy + row * w;
  for (int64_t p = 0; p < BACK; p += panel) {
    k->pack(q + p * n_row, n_row, rows - p, n, s->factor, to->q + p * n);
    k->pack(dy + p * w_row, w_row, rows - p, w, 1, to->dy + p * w);
  }
  gather_panels(k, q, n_row, rows, n, s->scale, to->q_rows);
  gather_panels(k, dy, w_row, rows, w, 1, to->dy_rows);
  memset(to->dq, 0, BACK * round_up(n, k->lanes) * sizeof(float));
  for (int64_t i = 0; i < BACK; i++) {
    float total = i < rows ? s->total[at + i] : 0;
    to->totals[i] = total == -__builtin_inff() ? 0 : total * LOG2_E;
    to->means[i] = i < rows ? k->dot(y + i * w_row, dy + i * w_row, w) - s->dtotal[at + i] : 0;
  }
}

/* The sum of a group's parts in order, so that it does not depend on the threads. */
static void sum_parts(const Attention *s, int64_t group, int64_t n, int64_t wide, const float *from,
                      int64_t part, float *to) {
  to += (group / s->groups * s->places * s->groups + group % s->groups) * n;
  for (int64_t r = 0; r < s->places; r++, from += wide, to += s->groups * n) {
    memcpy(to, from, n * sizeof(float));
    for (int64_t i = 1; i < s->parts; i++)
      for (int64_t d = 0; d < n; d++) to[d] += from[i * part + d];
  }
}

/* One part of the blocks of queries of all heads that share keys and values: for each block of
 * queries and each block of places the scores, their gradients, and from these all three gradients.
 * The gradients by keys and values collect in memory of this chunk, (places, size or width). */
static int attend_back(Work *work, int64_t chunk) {
  Attention *s = (Attention *)work;
  const Kernels *k = s->kernels;
  int64_t n = s->size, w = s->width, panel = 2 * k->lanes, panels = BACK / panel;
  int64_t n_wide = round_up(n, k->lanes), w_wide = round_up(w, k->lanes);
  int64_t group = chunk / s->parts, b = group / s->groups, g = group % s->groups;
  int64_t shared = s->heads / s->groups, part = s->places * (n_wide + w_wide);
  float *dk = s->partial + chunk * part, *dv = dk + s->places * n_wide;
  enum { K, V, WEIGHTS, SLOPES, Q, DY, Q_ROWS, DY_ROWS, TOTALS, MEANS, DQ, ARRAYS };
  float *a[ARRAYS];
  if (!allocate(ARRAYS, (int64_t[]){s->places * n_wide, s->places * w_wide, PLACES * BACK,
                                 PLACES * BACK, BACK * n, BACK * w, BACK * n_wide, BACK * w_wide,
                                 BACK, BACK, BACK * n_wide}, a))
    return 0;
  Block of = {a[Q], a[DY], a[Q_ROWS], a[DY_ROWS], a[TOTALS], a[MEANS], a[DQ]};
  int64_t row = b * s->places * s->groups + g;
  k->gather(s->k + row * n, s->groups * n, s->places, n, n_wide, 1, a[K]);
  k->gather(s->v + row * w, s->groups * w, s->places, w, w_wide, 1, a[V]);
  if (!k->finite(a[K], s->places * n_wide)) clean(a[K], s->places * n_wide);
  if (!k->finite(a[V], s->places * w_wide)) clean(a[V], s->places * w_wide);
  memset(dk, 0, part * sizeof(float));
  for (int64_t i = chunk % s->parts; i < shared * s->blocks; i += s->parts) {
    int64_t h = g * shared + i / s->blocks, start = i % s->blocks * BACK;
    read_block(s, b, h, start, &of);
    Ranges ranges[BACK / 8];
    int64_t low = s->places, high = 0;
    for (int64_t p = 0; p < panels; p++) {
      ranges[p] = read_ranges(s, b, start + p * panel);
      low = MIN(low, ranges[p].low), high = MAX(high, ranges[p].high);
    }
    for (int64_t place = low; place < high; place += PLACES) {
      int64_t end = MIN(place + PLACES, high);
      for (int64_t p = 0; p < panels; p++) {
        Panel now = cut(s, ranges + p, place, end);
        float *weights = a[WEIGHTS] + p * panel, *slopes = a[SLOPES] + p * panel;
        if (now.count < end - place) /* places that the panel does not see */
          for (int64_t r = 0; r < end - place; r++) {
            memset(weights + r * BACK, 0, panel * sizeof(float));
            memset(slopes + r * BACK, 0, panel * sizeof(float));
          }
        if (now.count <= 0) continue;
        weights += (now.place - place) * BACK, slopes += (now.place - place) * BACK;
        float *keys = a[K] + now.place * n_wide, *values = a[V] + now.place * w_wide;
        int64_t first = p * panel;
        multiply(k, now.count, panel, n, keys, n_wide, of.q + first * n, 0, weights, BACK);
        multiply(k, now.count, panel, w, values, w_wide, of.dy + first * w, 0, slopes, BACK);
        k->slopes(&now, weights, slopes, BACK, of.totals + first, of.means + first);
        accumulate(k, panel, n_wide, now.count, slopes, BACK, keys, n_wide, of.dq + first * n_wide,
                   n_wide);
      }
      multiply(k, end - place, w_wide, BACK, a[WEIGHTS], BACK, of.dy_rows, 1, dv + place * w_wide,
               w_wide);
      multiply(k, end - place, n_wide, BACK, a[SLOPES], BACK, of.q_rows, 1, dk + place * n_wide,
               n_wide);
    }
    float *dq = s->dq + ((b * s->time + start) * s->heads + h) * n;
    for (int64_t r = 0; r < MIN(BACK, s->time - start); r++)
      for (int64_t d = 0; d < n; d++) dq[r * s->heads * n + d] = of.dq[r * n_wide + d] * s->scale;
  }
  free_vectors(a[0]);
  if (atomic_fetch_add(s->ended + group, 1) == s->parts - 1) {
    const float *from = s->partial + group * s->parts * part;
    sum_parts(s, group, n, n_wide, from, part, s->dk);
    sum_parts(s, group, w, w_wide, from + s->places * n_wide, part, s->dv);
  }
  return 1;
}

/* Operands: q, k, v, first and last; back also y, total, and the gradients by both. Results: y, top
 * and sums; back the gradients by q, k and v. The attribute is the scale and the softcap or 0. */
static FfiError *attention(FfiCall *f, int back) {
  if (no_run(f)) return NULL;
  FfiBuffer **in = f->operands.buffers, **out = f->results.buffers;
  REQUIRE(f->operands.count == (back ? 9 : 5) && f->results.count == 3 && f->options.count == 1);
  REQUIRE(f->options.kinds[0] == FFI_ARRAY);
  const FfiArray *numbers = f->options.values[0];
  REQUIRE(numbers->type == FFI_F32 && numbers->count == 2);
  REQUIRE(in[0]->rank == 4 && in[1]->rank == 4 && in[2]->rank == 4);
  int64_t batch = in[0]->dims[0], time = in[0]->dims[1], heads = in[0]->dims[2];
  int64_t size = in[0]->dims[3], places = in[1]->dims[1], groups = in[1]->dims[2];
  int64_t width = in[2]->dims[3];
  REQUIRE(MIN(MIN(batch, time), MIN(heads, size)) > 0);
  REQUIRE(MIN(places, MIN(groups, width)) > 0 && heads % groups == 0);
  REQUIRE(IS(in[0], F32, batch, time, heads, size) && IS(in[1], F32, batch, places, groups, size));
  REQUIRE(IS(in[2], F32, batch, places, groups, width));
  REQUIRE(IS(in[3], S32, batch, time) && IS(in[4], S32, batch, time));
  if (back) {
    REQUIRE(IS(in[5], F32, batch, time, heads, width) && IS(in[6], F32, batch, heads, time));
    REQUIRE(IS(in[7], F32, batch, time, heads, width) && IS(in[8], F32, batch, heads, time));
    REQUIRE(IS(out[0], F32, batch, time, heads, size));
    REQUIRE(IS(out[1], F32, batch, places, groups, size));
    REQUIRE(IS(out[2], F32, batch, places, groups, width));
  } else {
    REQUIRE(IS(out[0], F32, batch, time, heads, width));
    REQUIRE(IS(out[1], F32, batch, heads, time) && IS(out[2], F32, batch, heads, time));
  }
  const Kernels *kernels = kernels_in_use();
  REQUIRE(kernels);
  Attention *s = zeros(1, sizeof(Attention));
  if (!s) return no_memory(f);
  float scale = ((float *)numbers->data)[0], softcap = ((float *)numbers->data)[1];
  *s = (Attention){
    .work = {.holders = 1, .run = back ? attend_back : attend, .close = close_attention},
    .kernels = kernels, .batch = batch, .time = time, .heads = heads, .size = size,
    .places = places, .groups = groups, .width = width, .scale = scale, .softcap = softcap,
    .factor = softcap ? scale / softcap : scale * LOG2_E, .q = in[0]->data, .k = in[1]->data,
    .v = in[2]->data, .first = in[3]->data, .last = in[4]->data,
  };
  int64_t threads = threads_of(f), panel = 2 * kernels->lanes, lanes = kernels->lanes;
  int ok = 1;
  if (back) {
    s->y = in[5]->data, s->total = in[6]->data, s->dy = in[7]->data, s->dtotal = in[8]->data;
    s->dq = out[0]->data, s->dk = out[1]->data, s->dv = out[2]->data;
    s->blocks = divide_up(time, BACK);
    /* As many parts for any number of threads, so that sums are in the same order. */
    s->parts = MIN(divide_up(8, batch * groups), heads / groups * s->blocks);
    s->work.chunks = batch * groups * s->parts;
    s->ended = zeros(batch * groups, sizeof(atomic_int));
    int64_t part = places * (round_up(size, lanes) + round_up(width, lanes));
    ok = s->ended && allocate(1, (int64_t[]){s->work.chunks * part}, &s->partial);
  } else {
    s->out = out[0]->data, s->top = out[1]->data, s->sums = out[2]->data;
    /* Enough chunks that all threads end together. */
    int64_t wanted = divide_up(4 * threads, batch * heads);
    s->rows = MIN(QUERIES, round_up(divide_up(time, wanted), panel));
    s->blocks = divide_up(time, s->rows);
    s->work.chunks = batch * heads * s->blocks;
  }
  ok = ok && run_chunks(&s->work, f, threads);
  release(&s->work);
  return ok ? NULL : no_memory(f);
}

FfiError *jaxnet_attention(FfiCall *f) { return attention(f, 0); }
FfiError *jaxnet_attention_back(FfiCall *f) { return attention(f, 1); }

/* Attention of one query per head, as in generation: q (batch, heads, size), k (batch, groups, places,
 * size), v (batch, groups, places, width), booleans (batch, heads, places) and, maybe, numbers to add
 * to the scores. Results: y (batch, heads, width) and the weights (batch, heads, places). The
 * attribute is that of `attention`. */
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
