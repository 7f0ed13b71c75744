/* Convolutions of float32 or bfloat16 arrays (nets, batch, frames, rows, columns, features) and their
 * two gradients, as a handler of XLA's foreign function interface.
 *
 * Results and both operands are those of `jaxnet.ops.convolution`. The value and the gradient of
 * the input are the same sum, over the taps of the kernel and the features of an array that is
 * read. The gradient of the kernel is a sum over the positions. Rows of the array that is read are
 * copied with the zeros around them while they are needed, unless there are none.
 *
 * bfloat16 are multiplied in words of two, where the processor can, and summed in float32. The words
 * hold neighbors in the sum: two features of a pixel, or for the gradient of the kernel a feature of
 * two columns that meet neighbors of y. C and all distances count words. */


/* One axis. Position p and tap k of the kernel meet entry (p * step + k * dilation + offset) / gaps
 * of what is read, if it is a whole number and inside. */
typedef struct {
  int64_t in, out, window, step, dilation, offset, gaps;
} Axis;

/* The entry that a position and a tap meet, -1 outside, or -2 between two entries. */
static int64_t meet(const Axis *a, int64_t position, int64_t tap) {
  int64_t at = position * a->step + tap * a->dilation + a->offset, entry = at / a->gaps;
  return at % a->gaps ? -2 : at < 0 || entry >= a->in ? -1 : entry;
}

/* Columns that meet the same taps: every `period`-th, from the first on. */
typedef struct {
  int64_t count, tap, taps, start;
  int tile[2]; /* columns per tile, of one and of two vectors */
} Class;

typedef enum { VALUE, INPUT, KERNEL } Kind;

typedef struct {
  Work work;
  const Kernels *kernels;
  Kind kind;
  Axis z, h, w; /* frames, rows and columns */
  int64_t nets, groups, batch, planes; /* planes of all images of a net's result */
  int64_t window;                      /* taps of the kernel */
  int64_t C, D;            /* features of `a` and of what `b` is or makes of them, per group */
  int64_t D_padded;        /* D in whole vectors */
  int each;                /* each feature by itself: all of them are one group here */
  Spread *spread;          /* NULL, or how rows are copied for small groups; see `merge_groups` */
  int64_t depth, own;      /* features of `a` that a result depends on, and results of its own group */
  int64_t source;          /* features of a group in the rows of `a` */
  int64_t low, columns;    /* the first column that is read, and their number, with zeros around */
  int direct;              /* there are no zeros: rows are read where they are */
  int64_t period, classes; /* of columns */
  Class *class;
  int merged;            /* the taps of a row are neighbors in memory */
  int64_t tap, tap_x;    /* distance of the taps of a class, in the kernel and in what is read */
  int64_t block, blocks; /* features of a kernel's gradient at once */
  int64_t parts;         /* of the rows */
  int64_t packs;         /* chunks that pack weights, before the others */
  atomic_int finite;     /* the weights are: then zeros need not be multiplied */
  int half;              /* a, b and the result are bfloat16 */
  int64_t halves;        /* of them are the features of a pixel of `a` */
  int64_t alone;         /* columns that only the last, odd column of y meets, in words of their own */
  const float *a, *b;    /* what is read, in rows, and the weights or the gradient of y */
  float *out, *scratch;  /* the result, and packed weights or, unless NULL, a sum per chunk */
} Job;

static int64_t down(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

/* Whether n floats or, with `half`, words are. */
static int all_finite(int half, const float *x, int64_t n) {
  int32_t found = 0, low = half ? 0x7f80 : -1;
  for (int64_t i = 0; i < n; i++) {
    int32_t bits;
    memcpy(&bits, x + i, 4);
    found |= (bits & 0x7f800000) == 0x7f800000 || (bits & low) == 0x7f80;
  }
  return !found;
}

/* The place of an array after n numbers. */
static float *after(int half, const float *array, int64_t n) {
  return (float *)((char *)array + n * (half ? 2 : 4));
}

/* Rows of an array (images, frames, height, width, stride), C features of each, from column `low` on. */
typedef struct {
  const Job *job;
  const float *from;
  int64_t stride, offset, frames, slots, size, *tags;
  float *memory;
} Rows;

/* How many frames a frame of the result reads from the first to the last. */
static int64_t frames_at_once(const Job *j) {
  return MIN((j->z.window - 1) * j->z.dilation / j->z.gaps + 1, j->z.in);
}

static int open_rows(Rows *r, const Job *j, int64_t net, int64_t group, int64_t needed) {
  r->job = j;
  r->stride = j->source * j->groups;
  r->offset = group * j->source;
  if (j->half) r->stride = j->halves;
  r->from = after(j->half, j->a, net * j->batch * j->z.in * j->h.in * j->w.in * r->stride + r->offset);
  r->frames = frames_at_once(j);
  r->slots = j->direct ? 0 : MIN(needed, j->h.in);
  r->size = (j->columns + j->alone) * j->C;
  /* The first row stays zero. */
  r->memory = zeros((r->frames * r->slots + 1) * r->size, sizeof(float));
  r->tags = zeros(r->frames * r->slots, sizeof(int64_t));
  return r->memory && r->tags;
}

static void close_rows(Rows *r) {
  free(r->memory);
  free(r->tags);
}

/* Columns of a row from `first` on, with zeros outside, as words with those `step` columns later or, if
 * that is 0, with zeros. */
static void pair_columns(const Job *j, const uint16_t *from, int64_t first, int64_t count, int64_t step,
                         float *to) {
  int64_t in = j->w.in, C = j->C, low = MIN(0, in - step), high = MAX(0, in - step);
  int64_t ends[] = {-step, low, high, in, first + count};
  for (int64_t i = 0, c = first, last = first + count; i < 5; i++) {
    int64_t end = MIN(MAX(ends[i], c), last), size = (end - c) * C;
    int inside = c >= 0 && c < in, followed = step && c + step >= 0 && c + step < in;
    if (size)
      j->kernels->pair(inside ? from + c * C : NULL, followed ? from + (c + step) * C : NULL, size, size,
                       to + (c - first) * C);
    c = end;
  }
}

/* Row h of a frame of an image, copied unless it is still there; zeros for one outside. */
static const float *row_of(Rows *r, int64_t image, int64_t frame, int64_t h) {
  const Job *j = r->job;
  if (frame < 0 || h < 0) return r->memory;
  int64_t row = (image * j->z.in + frame) * j->h.in + h;
  const float *from = after(j->half, r->from, row * j->w.in * r->stride);
  if (j->direct) return from;
  int64_t slot = frame % r->frames * r->slots + h % r->slots;
  float *to = r->memory + (slot + 1) * r->size;
  if (r->tags[slot] == row + 1) return to;
  r->tags[slot] = row + 1;
  int64_t first = MAX(j->low, 0), last = MIN(j->low + j->columns, j->w.in);
  float *put = to + (first - j->low) * j->C;
  if (j->half && j->kind == KERNEL) {
    int64_t last_y = (j->w.out - 1) * j->w.step + j->w.offset;
    pair_columns(j, (const uint16_t *)from, j->low, j->columns, j->w.step, to);
    pair_columns(j, (const uint16_t *)from, last_y, j->alone, 0, to + j->columns * j->C);
  } else if (j->half && j->halves == 1)
    j->kernels->pair((const uint16_t *)from + first, NULL, last - first, last - first, put);
  else if (j->half && j->halves % 2)
    for (int64_t c = first; c < last; c++, put += j->C)
      memcpy(put, after(1, from, c * j->halves), j->halves * 2);
  else if (j->spread)
    for (int64_t c = first; c < last; c++, put += j->C)
      j->kernels->spread(j->spread, from + c * r->stride, (j->w.in - c) * r->stride - r->offset, put);
  else if (j->groups == 1) {
    if (last > first) memcpy(put, from + first * j->C, (last - first) * j->C * sizeof(float));
  } else
    for (int64_t c = first; c < last; c++, put += j->C)
      memcpy(put, from + c * r->stride, j->C * sizeof(float));
  return to;
}

/* How many output rows to compute before the next block of features, so that their inputs stay in
 * the first cache, or in the second where a block's weights fill the first. */
static int64_t rows_at_once(const Job *j, int64_t weights, int64_t row) {
  int64_t budget = weights > 262144 ? 262144 : weights > 16384 ? 131072 : 24576;
  int64_t most = (budget / (4 * row) - j->h.window * j->h.dilation) * j->h.gaps / j->h.step;
  int64_t blocks = most < 1 ? j->h.out : (j->h.out + most - 1) / most;
  return (j->h.out + blocks - 1) / blocks;
}

/* The value, or the gradient of the input: rows first to last of all images of a net and group. */
static int sums(Job *j, int64_t net, int64_t group, int64_t first, int64_t last) {
  const Axis *z = &j->z, *h = &j->h, *w = &j->w;
  int64_t lanes = j->kernels->lanes, C = j->C, D = j->D, stride = D * j->groups;
  int64_t weights = j->window * j->depth, lines = z->window * h->window;
  const float *packed = j->scratch + (net * j->groups + group) * weights * j->D_padded;
  int64_t at_once = rows_at_once(j, weights * MIN(2 * lanes, j->D_padded) * 4,
                                 j->columns * C * frames_at_once(j));
  int64_t needed = (at_once * h->step + h->window * h->dilation) / h->gaps + 2;
  Rows rows;
  const float **x = zeros(3 * lines, sizeof(float *)), **y = x + lines, **rows_w = y + lines;
  int64_t every = j->period * w->step / w->gaps;
  Sum s = {
    .x = x, .w = y, .tap_x = j->tap_x, .pixel = every * C, .result = j->period * stride,
  };
  SumTile *const(*sum)[29] = j->half ? j->kernels->sum_half : j->kernels->sum;
  int ok = open_rows(&rows, j, net, group, needed) && x;
  for (int64_t block = first; ok && block < last;) {
    int64_t plane = block / h->out, top = block % h->out, image = plane / z->out;
    int64_t end = MIN(MIN(top + at_once, h->out), top + last - block);
    for (int64_t d = 0; d < j->D_padded;) {
      int vectors = !j->each && j->D_padded - d >= 2 * lanes ? 2 : 1;
      int64_t width = vectors * lanes, feature = j->each ? d : 0;
      for (int64_t p = top; p < end; p++) {
        int64_t row = ((net * j->planes + plane) * h->out + p) * w->out;
        float *result = after(j->half, j->out, row * stride + group * D + d);
        s.rows = 0;
        for (int64_t k = 0; k < lines; k++) {
          int64_t frame = meet(z, plane % z->out, k / h->window), at = meet(h, p, k % h->window);
          if (MIN(frame, at) < (j->finite ? 0 : -1)) continue;
          x[s.rows] = row_of(&rows, image, frame, at);
          rows_w[s.rows++] = packed + weights * d + k * w->window * j->depth * width;
        }
        for (int64_t i = 0; i < j->classes; i++) {
          const Class *c = j->class + i;
          for (int64_t r = 0; r < s.rows; r++) y[r] = rows_w[r] + c->tap * j->depth * width;
          s.taps = j->merged && c->taps ? 1 : c->taps;
          s.run = j->merged ? c->taps * j->depth : j->depth;
          s.tap_w = j->tap * j->depth * width;
          int tile = c->tile[vectors - 1];
          SumTile *run = j->each ? j->kernels->sum_each[tile] : sum[vectors - 1][tile];
          for (int64_t t = 0; t < c->count; t += tile) {
            int64_t at = MIN(t, c->count - tile); /* the last tile overlaps the one before it */
            run(&s, (c->start + at * every) * C + feature,
                after(j->half, result, (i + at * j->period) * stride), D - d);
          }
        }
      }
      d += width;
    }
    block += end - top;
  }
  close_rows(&rows);
  free(x);
  return ok;
}

/* The gradient of the kernel from some rows, for a block of features: (*window, C, block). Where x is
 * dilated, conv.py asks for the gradient of the mirrored convolution. */
static int kernel_gradient(Job *j, int64_t net, int64_t group, int64_t block_of_features,
                           int64_t first, int64_t last, float *result, int64_t width) {
  const Axis *z = &j->z, *h = &j->h, *w = &j->w;
  const Kernels *tiles = j->kernels;
  int64_t d0 = block_of_features * j->block, padded = MIN(j->block, j->D_padded - d0);
  int64_t lanes = tiles->lanes, C = j->C, stride = j->D * j->groups;
  int64_t line = w->out * stride, size = w->window * j->depth;
  int whole = j->merged || (j->each && !j->spread);
  int64_t run = whole ? size : j->depth, runs = whole ? 1 : w->window;
  AddTile *const(*by_rows)[10] =
    j->each ? tiles->add_each : j->half ? tiles->add_rows_half : tiles->add_rows;
  AddTile *const(*add)[29] = j->half ? tiles->add_half : tiles->add;
  int64_t row = j->columns * C + w->out * padded / h->step;
  int64_t at_once = rows_at_once(j, h->window * size * padded * 4, row);
  Rows rows;
  const float *read = after(j->half, j->b, net * j->planes * h->out * line + group * j->D + d0);
  const float **x = zeros(6 * at_once, sizeof(float *)), **y = x + 5 * at_once;
  int64_t *kept = zeros(at_once, sizeof(int64_t));
  /* Whole vectors reach beyond a row of y, so the last ones are copied. */
  const float *end_y = j->b + j->nets * j->planes * h->out * line;
  int64_t reach = line - stride + padded;
  int64_t pairs = (w->out + 1) / 2, copies = MIN(at_once, padded / line + 2);
  if (j->half) copies = at_once, reach = pairs * padded; /* words of columns 2 c and 2 c + 1 */
  float *tail = zeros(copies * reach, sizeof(float));
  int64_t needed = at_once * h->step + h->window * h->dilation;
  int ok = open_rows(&rows, j, net, group, needed) && x && kept && tail;
  Add a = {
    .x = x, .y = y, .columns = w->out, .step_x = w->step * C, .step_y = stride,
    .step_tap = j->spread ? lanes : w->dilation * C, .kernel = size * width, .width = width,
  };
  if (j->half) a.columns = w->out / 2, a.step_x *= 2, a.step_y = padded;
  for (int64_t k = 0; k < j->window * j->depth; k++)
    memset(result + k * width, 0, padded * sizeof(float));
  for (int64_t block = first; ok && block < last;) {
    int64_t plane = block / h->out, top = block % h->out, image = plane / z->out;
    int64_t end = MIN(MIN(top + at_once, h->out), top + last - block);
    for (int64_t p = top; p < end && j->half; p++)
      for (int64_t c = 0; c < pairs; c++) {
        const uint16_t *one = (const uint16_t *)read + (plane * h->out + p) * line + 2 * c * stride;
        tiles->pair(one, 2 * c + 1 < w->out ? one + stride : NULL, MIN(padded, j->D - d0), padded,
                    tail + (p - top) * reach + c * padded);
      }
    for (int64_t line_k = 0, together; line_k < z->window * h->window; line_k += together) {
      int64_t k = line_k % h->window, left = run < 10 ? h->window - k : 0;
      int64_t frame = meet(z, plane % z->out, line_k / h->window);
      float *to = result + line_k * size * width;
      together = left >= 5 && by_rows[2][run] ? 5 : left >= 3 && by_rows[1][run] ? 3 : 1;
      a.rows = 0;
      float *copy = tail;
      for (int64_t p = top; p < end; p++) {
        const float *here = read + (plane * h->out + p) * line;
        int64_t own = line - group * j->D - d0; /* to the end of the row */
        if (j->half) here = tail + (p - top) * reach, own = reach;
        int outside = frame < 0 || (together == 1 && meet(h, p, k) < 0);
        if (outside && all_finite(j->half, here, own)) continue; /* zeros */
        if (!j->half && end_y - here < reach) {
          here = memcpy(copy, here, MIN(own, reach) * sizeof(float));
          copy += reach;
        }
        y[a.rows] = here;
        kept[a.rows++] = p;
      }
      for (int64_t i = 0; i < together; i++)
        for (int64_t r = 0; r < a.rows; r++)
          x[i * a.rows + r] = row_of(&rows, image, frame, meet(h, kept[r], k + i));
      for (int64_t d = 0; d < padded;) {
        int several = together > 1 || j->each;
        int vectors = !several && padded - d >= 2 * lanes ? 2 : 1;
        int64_t most = together > 1 ? run : j->each ? 9 : tiles->most / vectors;
        int64_t pieces = (run + most - 1) / most, feature = j->each ? d0 + d : 0;
        for (int64_t i = 0; i < runs; i++)
          for (int64_t piece = 0; piece < pieces; piece++) {
            int64_t c = run * piece / pieces, count = run * (piece + 1) / pieces - c;
            AddTile *tile =
              several ? by_rows[together / 2][count] : add[vectors - 1][count];
            int64_t start = (i * w->dilation + w->offset - j->low) * C;
            start += j->each ? c * a.step_tap + feature : c;
            float *sum = to + (i * j->depth + c) * width + d;
            tile(&a, start, d, sum);
            if (!j->alone) continue;
            Add last_one = a;
            last_one.columns = 1;
            start = (j->columns + i * w->dilation) * C + c;
            tile(&last_one, start, (pairs - 1) * padded + d, sum);
          }
        d += vectors * lanes;
      }
    }
    block += end - top;
  }
  close_rows(&rows);
  free(x);
  free(kept);
  free(tail);
  return ok;
}

/* A block of features of the weights of a net and group as (*window, C, one or two vectors): what a
 * tile reads is in order. For the gradient of the input the window is reversed; each of the groups
 * that are merged has its own inputs. */
static void pack(const Job *j, int64_t net, int64_t group, int64_t d, int64_t width, float *to) {
  int64_t taps = j->window, C = j->depth, D = j->D, lanes = j->kernels->lanes;
  int64_t total = C * (D / j->own) * j->groups, some = MIN(width, D - d);
  const float *from = j->b + net * taps * C * D * j->groups;
  if (some < width) memset(to, 0, taps * C * width * sizeof(float));
  for (int64_t k = 0; k < taps; k++, to += C * width)
    if (j->half && j->kind == VALUE)
      for (int64_t c = 0; c < C; c++) {
        const uint16_t *one = (const uint16_t *)j->b + ((net * taps + k) * j->halves + 2 * c) * D + d;
        j->kernels->pair(one, 2 * c + 1 < j->halves ? one + D : NULL, some, width, to + c * width);
      }
    else if (j->half)
      j->kernels->turn((const uint16_t *)j->b + ((net * taps + taps - 1 - k) * D + d) * j->halves,
                       j->halves, some, j->halves, width, to);
    else if (j->each && !j->spread)
      memcpy(to, from + (j->kind == VALUE ? k : taps - 1 - k) * D + d, some * sizeof(float));
    else if (j->kind == VALUE)
      for (int64_t c = 0; c < C; c++)
        memcpy(to + c * width, from + (k * C + c) * D * j->groups + group * D + d, some * 4);
    else if (j->own == D && width == 2 * lanes)
      j->kernels->pack(from + ((taps - 1 - k) * D + d) * total + group * C, total, some, C, 1, to);
    else
      for (int64_t i = 0; i < some; i++) {
        const float *line = from + ((taps - 1 - k) * j->own + (d + i) % j->own) * total;
        line += (group * (D / j->own) + (d + i) / j->own) * C;
        for (int64_t c = 0; c < C; c++) to[c * width + i] = line[c];
      }
}

/* A part of the weights of all nets and groups, packed. */
static void pack_part(Job *j, int64_t part, int64_t parts) {
  int64_t wide = (j->each ? 1 : 2) * j->kernels->lanes, weights = j->window * j->depth;
  int64_t blocks = divide_up(j->D_padded, wide), all = j->nets * j->groups * blocks;
  for (int64_t i = all * part / parts; i < all * (part + 1) / parts; i++) {
    int64_t pair = i / blocks, d = i % blocks * wide, width = MIN(wide, j->D_padded - d);
    float *to = j->scratch + (pair * j->D_padded + d) * weights;
    pack(j, pair / j->groups, pair % j->groups, d, width, to);
    int known = j->half ? all_finite(1, to, weights * width) : j->kernels->finite(to, weights * width);
    if (!known) atomic_store(&j->finite, 0);
  }
}

static int convolve(Work *work, int64_t chunk) {
  Job *j = (Job *)work;
  if (chunk < j->packs) return pack_part(j, chunk, j->packs), 1;
  wait_for(work, j->packs); /* somebody packs them */
  chunk -= j->packs;
  int64_t pair = chunk / (j->blocks * j->parts), block = chunk / j->parts % j->blocks;
  int64_t part = chunk % j->parts, rows = j->planes * j->h.out;
  int64_t net = pair / j->groups, group = pair % j->groups;
  int64_t first = rows * part / j->parts, last = rows * (part + 1) / j->parts;
  if (j->kind != KERNEL) return sums(j, net, group, first, last);
  int64_t weights = j->window * j->depth, stride = j->D * j->groups;
  float *to = j->out + net * weights * stride + group * j->D + block * j->block;
  if (j->scratch) to = j->scratch + chunk * weights * j->block;
  return kernel_gradient(j, net, group, block, first, last, to, j->scratch ? j->block : stride);
}

static void free_job(Work *work) {
  Job *j = (Job *)work;
  free(j->class);
  free(j->spread);
  free_vectors(j->scratch);
  free(j);
}

/* The sum of the parts in order, so that it does not depend on the number of threads. */
static void add_parts(const Job *j, int64_t net, int64_t group) {
  int64_t lines = j->window * j->depth, size = lines * j->block;
  float *from = j->scratch + (net * j->groups + group) * j->blocks * j->parts * size;
  for (int64_t block = 0; block < j->blocks; block++, from += (j->parts - 1) * size)
    for (int64_t k = 0; k < lines; k++, from += j->block) {
      int64_t first = block * j->block, some = MIN(j->block, j->D - first);
      int64_t at = (net * lines + k) * j->D * j->groups + group * j->D + first;
      float *to = j->half ? from : j->out + at;
      if (!j->half) memcpy(to, from, some * sizeof(float));
      for (int64_t part = 1; part < j->parts; part++)
        for (int64_t d = 0; d < some; d++) to[d] += from[part * size + d];
      if (j->half) j->kernels->round(from, some, (uint16_t *)j->out + at);
    }
}

/* The greatest common divisor. */
static int64_t divisor(int64_t a, int64_t b) { return b ? divisor(b, a % b) : a; }

/* Which columns read what; 0 if there is no memory. */
static int plan(Job *j) {
  const Axis *w = &j->w;
  int64_t reach = (w->out - 1) * w->step + (w->window - 1) * w->dilation + w->offset;
  int64_t low = down(w->offset, w->gaps), high = down(reach, w->gaps);
  j->direct = j->groups == 1 && !j->spread && low >= 0 && high < w->in;
  if (j->each && j->D != j->D_padded) j->direct = 0; /* whole vectors reach over the end */
  if (j->half && (j->kind == KERNEL || j->halves % 2)) j->direct = 0; /* words have to be made */
  if (j->half && j->kind == KERNEL && w->out % 2) j->alone = (w->window - 1) * w->dilation + 1;
  j->low = j->direct ? 0 : low;
  j->columns = j->direct ? w->in : high - low + 1;
  if (j->columns + j->alone > INT32_MAX / j->C) return 0;
  j->period = w->gaps / divisor(w->step, w->gaps);
  j->tap = w->gaps / divisor(w->dilation, w->gaps);
  j->tap_x = j->tap * w->dilation / w->gaps * j->C;
  j->merged = (!j->each || j->spread) && j->tap == 1 && j->tap_x == j->C;
  j->classes = MIN(j->period, w->out);
  j->class = zeros(j->classes, sizeof(Class));
  if (!j->class) return 0;
  for (int64_t i = 0; i < j->classes; i++) {
    Class *c = j->class + i;
    int64_t first = i * w->step + w->offset;
    c->count = (w->out - i + j->period - 1) / j->period;
    while (c->tap < MIN(j->tap, w->window) && (first + c->tap * w->dilation) % w->gaps) c->tap++;
    if (c->tap < MIN(j->tap, w->window)) {
      c->taps = (w->window - 1 - c->tap) / j->tap + 1;
      c->start = (first + c->tap * w->dilation) / w->gaps - j->low;
    } else
      c->tap = 0;
    for (int v = 1; v <= 2; v++) {
      int64_t most = j->each ? 12 : j->kernels->most / v, tiles = (c->count + most - 1) / most;
      c->tile[v - 1] = (int)((c->count + tiles - 1) / tiles);
    }
  }
  return 1;
}

/* Groups of few results leave most of a vector unused, so some of them fill a vector together. Their
 * rows are copied with one vector for each input of a group, in which each result finds its own. 0 if
 * there is no memory. */
static int merge_groups(Job *j) {
  int64_t lanes = j->kernels->lanes, some = lanes / j->D;
  while (some > 1 && j->groups % some) some--;
  j->own = j->D;
  j->source = j->depth = j->C;
  if (j->C == 1 && j->D == 1 && j->groups > 1) {
    j->each = 1;
    j->source = j->C = j->D = j->groups;
    j->groups = j->own = 1;
  } else if (some > 1) {
    if (!(j->spread = zeros(1, sizeof(Spread)))) return 0;
    j->each = 1;
    j->groups /= some;
    j->D *= some;
    j->source *= some;
    j->C = j->depth * lanes;
    *j->spread = (Spread){.depth = j->depth, .inputs = j->source};
    for (int64_t i = 0; i < lanes; i++)
      j->spread->first[i] = (int32_t)(MIN(i, j->D - 1) / j->own * j->depth);
  }
  return 1;
}

/* Divides the work, by numbers that for a sum over rows do not depend on the number of threads. */
static int prepare(Job *j, int64_t threads) {
  int64_t lanes = j->kernels->lanes, taps = j->window;
  if (!merge_groups(j)) return 0;
  j->halves = j->C;
  if (j->half && j->kind != KERNEL) j->C = j->depth = j->source = (j->C + 1) / 2;
  j->D_padded = (j->D + lanes - 1) / lanes * lanes;
  if (!plan(j)) return 0;
  int64_t weights = taps * j->depth * j->D_padded, pairs = j->nets * j->groups;
  int sum = j->kind == KERNEL, large = sum && weights > 65536; /* more than the second cache has */
  j->block = large ? MIN(j->D_padded, 2 * lanes) : j->D_padded;
  j->blocks = (j->D_padded + j->block - 1) / j->block;
  int64_t each = pairs * j->blocks, most = sum ? 8 : threads == 1 ? 1 : 4 * threads;
  double work = 2.0 * j->planes * j->h.out * j->w.out * weights;
  j->parts = MIN((most + each - 1) / each, (int64_t)MIN(work / 1e6, 1e6) + 1);
  j->parts = MIN(j->parts, j->planes * j->h.out);
  j->work.chunks = each * j->parts;
  j->finite = 1;
  if (sum && j->parts == 1 && j->D == j->D_padded && !j->half) return 1; /* the sums are the result */
  int64_t size = sum ? j->work.chunks * taps * j->depth * j->block : pairs * weights;
  if (!allocate(1, &size, &j->scratch)) return 0;
  if (!sum && (threads == 1 || size < 16384)) pack_part(j, 0, 1);
  else if (!sum) j->work.chunks += j->packs = 2 * threads;
  return 1;
}

#include "outer.h"

/* A convolution without neighbors: one entry of the window, and of x for each of y. */
static Halves product_of(const Job *j) {
  int64_t pixels = j->planes * j->h.out * j->w.out;
  return (Halves){
    .kernels = j->kernels, .nets = j->nets, .outputs = j->D, .x = (const uint16_t *)j->a,
    .rows = j->kind == KERNEL ? j->C : pixels, .inputs = j->kind == KERNEL ? pixels : j->C,
    .turned_x = j->kind == KERNEL, .turned_w = j->kind == INPUT, .w = (const uint16_t *)j->b,
    .y = (uint16_t *)j->out,
  };
}

enum { KIND, GROUPS, STRIDE, DILATION = 5, LOW = 8, GAPS = 11, NUMBERS = 14, RANK = 6 };

FfiError *jaxnet_conv(FfiCall *f) {
  if (no_run(f)) return NULL;
  REQUIRE(f->operands.count == 2 && f->results.count == 1 && f->options.count == 1);
  REQUIRE(f->options.kinds[0] == FFI_ARRAY);
  const FfiArray *array = f->options.values[0];
  REQUIRE(array->type == FFI_S64 && array->count == NUMBERS);
  const int64_t *form = array->data;
  FfiBuffer *given[3] = {f->operands.buffers[0], f->operands.buffers[1], f->results.buffers[0]};
  int half = given[0]->type == FFI_BF16;
  REQUIRE(!half || (multiplies_halves() && form[GROUPS] == 1));
  for (int i = 0; i < 3; i++) {
    REQUIRE(given[i]->type == (half ? FFI_BF16 : FFI_F32));
    REQUIRE(given[i]->rank == RANK);
    for (int axis = 0; axis < RANK; axis++) REQUIRE(given[i]->dims[axis] <= INT32_MAX);
  }
  REQUIRE(form[KIND] >= VALUE && form[KIND] <= KERNEL);
  Kind kind = (Kind)form[KIND];
  const FfiBuffer *x = given[kind == INPUT ? 2 : 0], *y = given[kind == VALUE ? 2 : 1];
  const FfiBuffer *w = given[kind == VALUE ? 1 : kind == INPUT ? 0 : 2];
  for (int i = GROUPS; i < NUMBERS; i++)
    REQUIRE(form[i] <= INT32_MAX && form[i] >= (i >= LOW && i < GAPS ? -INT32_MAX : 1));
  for (int i = GAPS; i < NUMBERS; i++) REQUIRE(kind != KERNEL || form[i] == 1);
  int64_t groups = form[GROUPS];
  REQUIRE(x->dims[0] == w->dims[0] && x->dims[0] == y->dims[0] && x->dims[1] == y->dims[1]);
  REQUIRE(x->dims[5] == w->dims[4] * groups && w->dims[5] == y->dims[5]);
  REQUIRE(y->dims[5] % groups == 0);
  const Kernels *kernels = kernels_in_use();
  REQUIRE(kernels);
  int64_t sizes[3];
  for (int i = 0; i < 3; i++) {
    sizes[i] = 1;
    for (int axis = 0; axis < RANK; axis++) sizes[i] *= given[i]->dims[axis];
  }
  if (!sizes[0] || !sizes[1] || !sizes[2]) {
    memset(given[2]->data, 0, sizes[2] * (half ? 2 : sizeof(float)));
    return NULL;
  }
  Job *j = zeros(1, sizeof(Job));
  if (!j) return no_memory(f);
  *j = (Job){
    .work = {.holders = 1, .run = convolve, .close = free_job},
    .kernels = kernels, .kind = kind, .nets = x->dims[0], .groups = groups, .half = half,
  };
  j->batch = x->dims[1];
  for (int axis = 0; axis < 3; axis++) {
    int64_t in = x->dims[2 + axis], out = y->dims[2 + axis], window = w->dims[1 + axis];
    int64_t stride = form[STRIDE + axis], dilation = form[DILATION + axis];
    int64_t low = form[LOW + axis], gaps = form[GAPS + axis];
    *(Axis *[]){&j->z, &j->h, &j->w}[axis] =
      kind == INPUT
        ? (Axis){out, in, window, gaps, dilation, low - (window - 1) * dilation, stride}
        : (Axis){in, out, window, stride, dilation, -low, gaps};
  }
  j->window = j->z.window * j->h.window * j->w.window;
  j->planes = j->batch * j->z.out;
  j->C = (kind == INPUT ? y : x)->dims[5] / groups;
  j->D = (kind == INPUT ? x : y)->dims[5] / groups;
  j->a = (kind == INPUT ? y : x)->data;
  j->b = (kind == KERNEL ? y : w)->data;
  j->out = given[2]->data;
  int64_t threads = threads_of(f);
  int product = half && j->window == 1;
  for (int i = 0; i < 3; i++)
    product &= x->dims[2 + i] == y->dims[2 + i] && form[STRIDE + i] * form[GAPS + i] == 1 &&
               !form[LOW + i];
  /* where a tile of `add` would read few pixels of x that are far apart, they are copied first */
  int far = j->w.step > 1 && j->C >= 128 && j->w.out <= 14;
  int by_tap = kind == KERNEL && groups == 1 && !half && (j->window == 1 || far);
  int ok = product ? multiply_halves(product_of(j), f)
                   : (by_tap ? prepare_outer(j) : prepare(j, threads)) && run_chunks(&j->work, f, threads);
  for (int64_t i = 0; ok && !product && kind == KERNEL && j->scratch && i < j->nets * j->groups; i++)
    add_parts(j, i / j->groups, i % j->groups);
  release(&j->work);
  return ok ? NULL : no_memory(f);
}
