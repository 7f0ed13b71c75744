/* Winograd's convolution of float32 or bfloat16 images (nets, batch, rows, columns, features) by 3x3
 * kernels of stride 1 and its two gradients, as a handler of XLA's foreign function interface. Kernels
 * and all sums are float32.
 *
 * The result is cut into tiles of m x m, each of which reads n x n numbers. For each of these places
 * the transformed tiles and weights are matrices, (tiles, C) and (C, D), whose product is transformed
 * to results; see winograd_tiles.h. The value and the gradient of the input are the same sum: blocks
 * of tiles are transformed, multiplied and transformed back while they are in the second cache. The
 * gradient of the kernel is a sum over the tiles. A tile's numbers of n x n places lie side by side,
 * as (groups of tiles, vectors of features, n * n, tiles of a group, lanes): further apart, each store
 * would go to another page, of which the processor remembers few.
 *
 * A result that sees zeros alone is 0. A tile with numbers that would spoil others is computed directly;
 * see winograd_far.h. */

#pragma once
#include "winograd_direct.h"
#include "winograd_far.h"

/* Transforms a square of `size`, from a feature on, with zeros outside. */
static void transform_square(const Winograd *j, SquareTile *const *which, const Images *a, Place at,
                             int size, int64_t feature, Square *s, float *to) {
  s->pixel = a->features;
  s->row = a->columns * s->pixel;
  if (is_whole(a, at, size)) {
    which[0](s, pixel_of(a, at, feature), to);
    return;
  }
  find_square(j, a, at, size, feature, s);
  which[1](s, j->zeros, to);
}

/* Asks for what is inside of a square that is needed soon. */
static void fetch_square(const Images *a, Place at, int size) {
  Place here = {at.image, MAX(at.row, 0), MAX(at.column, 0)};
  int64_t rows = MIN(at.row + size, a->rows) - here.row;
  int64_t columns = MIN(at.column + size, a->columns) - here.column, pixel = a->features;
  if (a->half) pixel = divide_up(pixel, 2);
  fetch(pixel_of(a, here, 0), a->columns * pixel, rows, columns * pixel);
}

/* Makes those results of a tile 0 that see zeros alone. If the tile has other numbers, the transforms
 * leave rounding errors there, and a relu behind them would let half of the gradients through. */
static void clear_results(const Winograd *j, Place to, int zeros) {
  int64_t bytes = j->D * (j->to.half ? sizeof(uint16_t) : sizeof(float));
  for (int i = 0; i < j->m * j->m; i++) {
    Place at = within(to, i, j->m);
    if (zeros >> i & 1 && is_inside(&j->to, at)) memset(pixel_of(&j->to, at, 0), 0, bytes);
  }
}

/* Some inputs of a net's weights, as (blocks of one or two vectors of D, n * n, C, block). */
static void transform_weights(const Winograd *j, int64_t net, int64_t part) {
  const Kernels *k = j->kernels;
  int64_t lanes = k->lanes, C = j->C, D = j->D, n2 = j->n * j->n, lines = j->C_padded / lanes;
  int64_t first = lines * part / j->split.first_chunks * lanes;
  int64_t end = lines * (part + 1) / j->split.first_chunks * lanes, last = MIN(end, C);
  const float *from = j->weights + net * TAPS * C * D;
  float turned[9 * 16 * 32], *to = j->scratch + net * n2 * j->C_padded * j->D_padded;
  for (int64_t d = 0; d < j->D_padded;) {
    int64_t width = vectors_of(j, j->D_padded - d) * lanes, plane = j->C_padded * width;
    Square s = {.row_to = j->n * plane, .pixel_to = plane, .vector_to = lanes};
    for (int64_t a = 0; a < n2 && end > C; a++)
      memset(to + a * plane + C * width, 0, (end - C) * width * sizeof(float));
    if (j->kind == VALUE) {
      s.row = 3 * C * D, s.pixel = C * D, s.features = MIN(width, D - d);
      for (int64_t c = first; c < last; c++)
        k->weights[j->m / 4](&s, from + c * D + d, to + c * width);
    } else /* they are (3, 3, D, C), to be reversed */
      for (int64_t c = first; c < last; c += lanes) {
        int64_t some = MIN(lanes, C - c);
        s.pixel = 2 * lanes * lanes, s.row = 3 * s.pixel, s.features = width;
        for (int64_t tap = 0; tap < 9; tap++)
          k->pack(from + ((8 - tap) * D + d) * C + c, C, MIN(width, D - d), some, 1,
                  turned + tap * s.pixel);
        for (int64_t i = 0; i < some; i++)
          k->weights[j->m / 4](&s, turned + i * 2 * lanes, to + (c + i) * width);
      }
    to += n2 * plane;
    d += width;
  }
}

/* Transforms what a tile reads to a place of the block, and looks whether it is far. */
static void read_tile(const Winograd *j, const TileBlock *m, int64_t tile, int64_t place, Looks *l) {
  const Kernels *k = j->kernels;
  int64_t group = j->split.group, lanes = k->lanes;
  Place from = source_of(j, tile);
  float sums[MOST_SUMS];
  Square in = {
    .row_to = j->n * m->plane, .pixel_to = m->plane, .vector_to = j->n * j->n * m->plane,
    .features = j->C, .sums = sums,
  };
  transform_square(j, k->read[j->from.half][j->m / 4], &j->from, from, j->n, 0, &in,
                   m->x + place / group * m->size_x + place % group * lanes);
  l->direct[place] = l->zeros[place] = 0;
  Place to = result_of(j, tile);
  int near = is_whole(&j->from, from, j->n) ? is_near(j, sums, &l->read[place])
                                            : is_near_at_border(j, to, sums, &l->read[place]);
  l->doubtful[place] = !near || is_at_border(j, to);
  if (!near && j->kind != KERNEL) look_at(j, tile, place, l);
}

/* The products of the matrices at one of the n * n places, for a block of tiles: sums of at most RUN. */
static void multiply_tiles(const Winograd *j, const TileBlock *m, const float *weights, int64_t a,
                           int64_t count, int64_t d0, int64_t d1) {
  const Kernels *k = j->kernels;
  int64_t lanes = k->lanes, n2 = j->n * j->n, group = j->split.group;
  const float *x, *w;
  Sum s = {
    .x = &x, .w = &w, .rows = 1, .run = lanes, .tap_x = n2 * m->plane, .pixel = lanes,
  };
  for (int64_t d = d0; d < d1;) {
    int vectors = vectors_of(j, d1 - d);
    int64_t width = vectors * lanes;
    s.result = width;
    s.tap_w = lanes * width;
    for (int64_t t = 0; t < count; t += group)
      for (int64_t c = 0; c < j->C_padded; c += RUN) {
        w = weights + (d * n2 + a * width) * j->C_padded + c * width;
        x = m->x + t / group * m->size_x + (c / lanes * n2 + a) * m->plane;
        s.taps = MIN(RUN, j->C_padded - c) / lanes;
        s.onto = c > 0;
        float *to = m->y + t / group * m->size_y + (d * n2 + a * width) * group;
        k->tiles->sum[vectors - 1][MIN(group, count - t)](&s, 0, to, width);
      }
    d += width;
  }
}

/* Transforms the products of a tile to its results. */
static void write_tile(const Winograd *j, const TileBlock *m, int64_t tile, int64_t place, int64_t d0,
                       int64_t d1) {
  const Kernels *k = j->kernels;
  int64_t n2 = j->n * j->n, group = j->split.group, D = j->D;
  Place at = result_of(j, tile);
  Square out = {
    .row_to = j->to.columns * D, .pixel_to = D, .vector_to = k->lanes,
    .rows = j->to.rows - at.row, .columns = j->to.columns - at.column, .finish = j->finish,
  };
  const float *products = m->y + place / group * m->size_y;
  for (int64_t d = d0; d < d1;) {
    int64_t width = vectors_of(j, d1 - d) * k->lanes;
    float *to = pixel_of(&j->to, at, d);
    out.features = MIN(width, D - d);
    out.pixel = group * width, out.row = j->n * out.pixel;
    if (j->finish) out.bias = j->finish->bias + d;
    k->write[j->to.half][j->m / 4](&out, products + d * n2 * group + place % group * width, to);
    for (int i = 0; j->finish && j->finish->activate && i < MIN(j->m, out.rows); i++)
      j->finish->activate(to + i * out.row_to, MIN(j->m, out.columns), D, out.features);
    d += width;
  }
}

/* The value, or the gradient of the input, of some tiles of a net, features d0 to d1; 0 if there is no
 * memory. */
static int transformed_sums(const Winograd *j, int64_t net, int64_t first, int64_t last, int64_t d0,
                            int64_t d1) {
  if (!j->finish && has_far_weights(j, net)) return direct_sums(j, net, first, last - first, NULL, d0, MIN(d1, j->D));
  int64_t n2 = j->n * j->n;
  int ok = 1;
  TileBlock m = block_of(j, last - first, j->D_padded);
  float *memory[2];
  if (!allocate(2, (int64_t[]){m.groups * m.size_x, m.groups * m.size_y}, memory)) return 0;
  m.x = memory[0], m.y = memory[1];
  const float *weights = j->scratch + net * n2 * j->C_padded * j->D_padded;
  int64_t block = m.groups * j->split.group;
  for (int64_t t0 = first; ok && t0 < last; t0 += block) {
    int64_t count = MIN(block, last - t0);
    Looks looks;
    looks.far = 0;
    for (int64_t t = 0; t < count; t++) read_tile(j, &m, t0 + t, t, &looks);
    for (int64_t a = 0; a < n2; a++) {
      for (int64_t t = t0 + count * a / n2; t < t0 + count * (a + 1) / n2; t++) {
        fetch_square(&j->to, result_of(j, t), j->m);
        if (t + count < last) fetch_square(&j->from, source_of(j, t + count), j->n);
      }
      multiply_tiles(j, &m, weights, a, count, d0, d1);
    }
    for (int64_t t = 0; t < count; t++) {
      if (looks.direct[t] != WHOLE) write_tile(j, &m, t0 + t, t, d0, d1);
      if (looks.zeros[t]) clear_results(j, result_of(j, t0 + t), looks.zeros[t]);
    }
    if (looks.far) ok = direct_sums(j, net, t0, count, looks.direct, d0, MIN(d1, j->D));
  }
  free_vectors(m.x);
  return ok;
}

/* Transforms the gradient of the results of a tile, `wide` features from d0 on, to a place of the
 * block. Returns the sum of their squares. */
static double read_gradient(const Winograd *j, const TileBlock *m, int64_t tile, int64_t place, int64_t d0,
                            int64_t wide) {
  const Kernels *k = j->kernels;
  int64_t n2 = j->n * j->n, group = j->split.group, features = MIN(wide, j->D - d0);
  Place at = result_of(j, tile);
  double squares = 0;
  for (int64_t d = 0; d < wide;) {
    int64_t width = vectors_of(j, wide - d) * k->lanes;
    float sums[MOST_SUMS];
    Square given = {
      .row_to = j->n * group * width, .pixel_to = group * width, .vector_to = k->lanes,
      .features = MIN(width, features - d), .sums = sums,
    };
    transform_square(j, k->back[j->to.half][j->m / 4], &j->to, at, j->m, d0 + d, &given,
                     m->y + place / group * m->size_y + d * n2 * group + place % group * width);
    squares += sums[0];
    d += width;
  }
  return squares;
}

/* Sets what a place of the block has to zeros. */
static void blank(const Winograd *j, const TileBlock *m, int64_t place, int64_t wide) {
  int64_t n2 = j->n * j->n, group = j->split.group, lanes = j->kernels->lanes;
  float *x = m->x + place / group * m->size_x + place % group * lanes;
  for (int64_t i = 0; i < n2 * (j->C_padded / lanes); i++)
    memset(x + i * m->plane, 0, lanes * sizeof(float));
  for (int64_t d = 0; d < wide;) {
    int64_t width = vectors_of(j, wide - d) * lanes;
    float *y = m->y + place / group * m->size_y + d * n2 * group + place % group * width;
    for (int64_t a = 0; a < n2; a++) memset(y + a * group * width, 0, width * sizeof(float));
    d += width;
  }
}

/* Adds the products of the matrices at one of the n * n places to `sum`, for some groups of tiles. */
static void add_products(const Winograd *j, const TileBlock *m, int64_t a, int64_t groups, int64_t wide,
                         float *sum) {
  const Kernels *k = j->kernels;
  int64_t lanes = k->lanes, n2 = j->n * j->n, group = j->split.group;
  const float *x[BLOCK], *y[BLOCK];
  Add add = {.x = x, .y = y, .rows = groups, .columns = group, .step_x = lanes, .width = wide};
  for (int64_t d = 0; d < wide;) {
    int vectors = vectors_of(j, wide - d);
    int64_t width = vectors * lanes, pieces = divide_up(width, k->most);
    add.step_y = width;
    for (int64_t r = 0; r < groups; r++) y[r] = m->y + r * m->size_y + (d * n2 + a * width) * group;
    for (int64_t line = 0; line < j->C_padded / lanes; line++) {
      for (int64_t r = 0; r < groups; r++) x[r] = m->x + r * m->size_x + (line * n2 + a) * m->plane;
      for (int64_t piece = 0; piece < pieces; piece++) {
        int64_t c = lanes * piece / pieces, some = lanes * (piece + 1) / pieces - c;
        k->tiles->add[vectors - 1][some](&add, c, 0, sum + (line * lanes + c) * wide + d);
      }
    }
    d += width;
  }
}

/* Transforms sums of n * n places, `whole` numbers apart, to the gradient of the kernel. */
static void write_kernel(const Winograd *j, const float *sum, int64_t whole, int64_t wide, int64_t d0,
                         float *result) {
  int64_t D = j->D;
  Square out = {
    .row = j->n * whole, .pixel = whole, .row_to = 3 * j->C * D, .pixel_to = j->C * D,
    .vector_to = j->kernels->lanes, .features = MIN(wide, D - d0), .rows = 3, .columns = 3,
  };
  for (int64_t c = 0; c < j->C; c++)
    j->kernels->kernel[j->m / 4](&out, sum + c * wide, result + c * D + d0);
}

/* Transforms a block of tiles for the gradient of the kernel; those that are direct are added to `direct`,
 * which is made for the first one. 0 if there is no memory. */
static int read_pairs(const Winograd *j, const TileBlock *m, int64_t t0, int64_t count, int64_t d0,
                      int64_t wide, float **direct) {
  int64_t size = TAPS * j->C * wide;
  Looks looks;
  looks.far = 0;
  for (int64_t t = 0; t < count; t++) {
    read_tile(j, m, t0 + t, t, &looks);
    looks.given[t] = read_gradient(j, m, t0 + t, t, d0, wide);
  }
  for (int64_t t = count; t < round_up(count, j->split.group); t++) blank(j, m, t, wide);
  compare_gradients(j, &looks, t0, count, d0, MIN(wide, j->D - d0));
  if (!looks.far) return 1;
  for (int64_t t = 0; t < count; t++)
    if (looks.direct[t]) blank(j, m, t, wide);
  if (!*direct) {
    if (!(*direct = new_vectors(round_up(size, 16) * sizeof(float)))) return 0;
    memset(*direct, 0, size * sizeof(float));
  }
  return add_direct(j, t0, count, looks.direct, d0, wide, *direct);
}

/* Adds what was computed directly to the gradient of the kernel. */
static void add_to_kernel(const Winograd *j, const float *direct, int64_t wide, int64_t d0, float *result) {
  for (int64_t line = 0; line < TAPS * j->C; line++)
    for (int64_t d = 0; d < MIN(wide, j->D - d0); d++)
      result[line * j->D + d0 + d] += direct[line * wide + d];
}

/* The gradient of the kernel from some tiles, for some features of y; 0 if there is no memory. */
static int transformed_gradient(const Winograd *j, int64_t d0, int64_t first, int64_t last,
                                float *result) {
  int64_t n2 = j->n * j->n, group = j->split.group, wide = MIN(j->split.wide, j->D_padded - d0);
  int64_t whole = j->C_padded * wide;
  int ok = 1;
  TileBlock m = block_of(j, last - first, wide);
  float *memory[3], *direct = NULL;
  if (!allocate(3, (int64_t[]){m.groups * m.size_x, m.groups * m.size_y, n2 * whole}, memory)) return 0;
  m.x = memory[0], m.y = memory[1];
  float *sum = memset(memory[2], 0, n2 * whole * sizeof(float));
  int64_t block = m.groups * group;
  for (int64_t t0 = first; ok && t0 < last; t0 += block) {
    int64_t count = MIN(block, last - t0), groups = divide_up(count, group);
    ok = read_pairs(j, &m, t0, count, d0, wide, &direct);
    for (int64_t a = 0; a < n2; a++) {
      for (int64_t t = t0 + count * (a + n2) / n2; t < MIN(t0 + count * (a + 1 + n2) / n2, last); t++) {
        fetch_square(&j->to, result_of(j, t), j->m);
        fetch_square(&j->from, source_of(j, t), j->n);
      }
      add_products(j, &m, a, groups, wide, sum + a * whole);
    }
  }
  write_kernel(j, sum, whole, wide, d0, result);
  if (ok && direct) add_to_kernel(j, direct, wide, d0, result);
  free_vectors(direct);
  free_vectors(m.x);
  return ok;
}

static int run_winograd(Work *work, int64_t chunk) {
  const Winograd *j = (Winograd *)work;
  int64_t weights = j->kind == KERNEL || j->finish ? 0 : j->nets * j->split.first_chunks;
  if (chunk < weights) {
    transform_weights(j, chunk / j->split.first_chunks, chunk % j->split.first_chunks);
    measure_weights(j, chunk / j->split.first_chunks, chunk % j->split.first_chunks);
    return 1;
  }
  wait_for(work, weights); /* somebody computes them */
  chunk -= weights;
  int64_t net = chunk / (j->split.parts * j->split.blocks), part = chunk % j->split.parts;
  int64_t first = net * j->tiles + j->tiles * part / j->split.parts;
  int64_t last = net * j->tiles + j->tiles * (part + 1) / j->split.parts;
  int64_t d0 = chunk / j->split.parts % j->split.blocks * j->split.wide;
  if (j->kind != KERNEL)
    return transformed_sums(j, net, first, last, d0, MIN(d0 + j->split.wide, j->D_padded));
  float *scratch = j->scratch + (net * (j->split.parts - 1) + part - 1) * TAPS * j->C * j->D;
  return transformed_gradient(j, d0, first, last,
                              part ? scratch : j->gradient + net * TAPS * j->C * j->D);
}

/* The sum of the parts in order, so that it does not depend on the number of threads. */
static void add_tile_parts(const Winograd *j) {
  int64_t size = TAPS * j->C * j->D;
  const float *from = j->scratch;
  for (int64_t net = 0; net < j->nets; net++)
    for (int64_t part = 1; part < j->split.parts; part++, from += size)
      for (int64_t i = 0; i < size; i++) j->gradient[net * size + i] += from[i];
}

static void close_winograd(Work *work) {
  free_vectors(((Winograd *)work)->zeros);
  free(work);
}

/* As `split_packed` of conv.h. */
static void divide_packed(Winograd *j, int64_t threads) {
  int64_t n2 = j->n * j->n, wide = 2 * j->kernels->lanes, vectors = divide_up(j->D_padded, wide);
  int64_t weights = n2 * j->C_padded * j->D_padded, x = 4 * j->tiles * n2 * j->C_padded;
  int64_t most = threads == 1 ? 1 : 4 * threads, least = INT64_MAX, block = vectors;
  for (int64_t blocks = 1; blocks <= MIN(most, vectors); blocks++) {
    int64_t parts = MAX(1, MIN(most / blocks, j->tiles / MIN(FEWEST_TILES, j->tiles)));
    int64_t each = divide_up(vectors, blocks);
    double fullest = (double)divide_up(j->tiles, parts) * each * divide_up(parts * blocks, threads);
    double excess = fullest * threads / ((double)j->tiles * vectors);
    int64_t read = (weights * parts + x * blocks) * excess * (1 + 4 * (excess - 1));
    if (read < least) least = read, block = each, j->split.parts = parts;
  }
  j->split.wide = block * wide;
  j->split.blocks = divide_up(j->D_padded, j->split.wide);
  int64_t own = divide_up(j->tiles, j->split.parts);
  j->split.group = divide_up(own, divide_up(own, j->split.group)); /* groups of the same size */
  j->split.first_chunks = 0;
  j->work.chunks = j->split.blocks * j->split.parts;
}

/* Divides the work, by numbers that for a sum over tiles do not depend on the number of threads. */
static int prepare_winograd(Winograd *j, int64_t threads) {
  int64_t lanes = j->kernels->lanes, n2, scratch;
  j->n = j->m + 2, n2 = j->n * j->n;
  j->C_padded = round_up(j->C, lanes);
  j->D_padded = round_up(j->D, lanes);
  j->split.group = j->kernels->most / vectors_of(j, j->D_padded);
  j->split.block = BLOCK;
  j->split.blocks = 1;
  j->split.wide = j->D_padded;
  if (j->kind == KERNEL) {
    /* so many that their sums stay in the second cache */
    while (j->split.wide > 4 * lanes && n2 * j->C * j->split.wide > 300000)
      j->split.wide = round_up(j->split.wide / 2, lanes);
    j->split.blocks = divide_up(j->D_padded, j->split.wide);
    j->split.parts = MAX(1, MIN(8 / (j->nets * j->split.blocks), j->tiles / j->split.block));
    j->work.chunks = j->nets * j->split.blocks * j->split.parts;
    scratch = j->nets * (j->split.parts - 1) * TAPS * j->C * j->D;
  } else {
    /* weights that do not stay in the second cache are read again for each block */
    if (n2 * j->C * j->D > 750000) j->split.block = LARGE_BLOCK;
    int64_t most = threads * MAX(1, MIN(4, j->nets * j->tiles / (threads * 2 * j->split.block)));
    j->split.parts = MIN(divide_up(most, j->nets), j->tiles);
    most = threads == 1 ? 1 : divide_up(2 * threads, j->nets);
    j->split.first_chunks = MIN(most, j->C_padded / lanes);
    j->work.chunks = j->nets * (j->split.first_chunks + j->split.parts);
    scratch = j->nets * n2 * j->C_padded * j->D_padded;
    if (j->finish) divide_packed(j, threads), scratch = 0;
  }
  j->far = far_of(j);
  for (int i = 0; i < 9; i++) j->cell[i] = place_of(lanes, i);
  float *memory[3];
  int64_t pixel = MAX(j->C_padded, j->D_padded), taps = TAPS * j->nets * j->split.first_chunks;
  if (!allocate(3, (int64_t[]){pixel, scratch, taps}, memory)) return 0;
  j->zeros = memset(memory[0], 0, pixel * sizeof(float));
  if (!j->finish) j->scratch = memory[1];
  j->taps = memory[2];
  return 1;
}

enum { WHICH, TILE, BEFORE, WINOGRAD_NUMBERS = 4 };

FfiError *jaxnet_winograd(FfiCall *f) {
  if (no_run(f)) return NULL;
  REQUIRE(f->operands.count == 2 && f->results.count == 1 && f->options.count == 1);
  REQUIRE(f->options.kinds[0] == FFI_ARRAY);
  const FfiArray *array = f->options.values[0];
  REQUIRE(array->type == FFI_S64 && array->count == WINOGRAD_NUMBERS);
  const int64_t *form = array->data;
  REQUIRE(form[WHICH] >= VALUE && form[WHICH] <= KERNEL && (form[TILE] == 2 || form[TILE] == 4));
  Kind kind = (Kind)form[WHICH];
  FfiBuffer *given[3] = {f->operands.buffers[0], f->operands.buffers[1], f->results.buffers[0]};
  for (int i = 0; i < 3; i++) REQUIRE(given[i]->rank == 5);
  const FfiBuffer *x = given[kind == INPUT ? 2 : 0], *y = given[kind == VALUE ? 2 : 1];
  const FfiBuffer *w = given[kind == VALUE ? 1 : kind == INPUT ? 0 : 2];
  const int64_t *in = x->dims, *out = y->dims;
  int half = x->type == FFI_BF16;
  FfiType numbers = half ? FFI_BF16 : FFI_F32;
  REQUIRE(is(x, numbers, 5, in));
  REQUIRE(is(y, numbers, 5, ((int64_t[]){in[0], in[1], out[2], out[3], out[4]})));
  REQUIRE(IS(w, F32, in[0], 3, 3, in[4], out[4]));
  for (int i = 0; i < 2; i++) {
    int64_t before = form[BEFORE + i], after = out[2 + i] + 2 - in[2 + i] - before;
    REQUIRE(MIN(before, after) >= 0 && MAX(before, after) <= 2);
  }
  const Kernels *kernels = kernels_in_use();
  REQUIRE(kernels);
  int64_t images = in[0] * in[1], size = size_of(given[2]);
  if (!images || !out[2] || !out[3] || !in[2] || !in[3] || !in[4] || !out[4]) {
    if (size) memset(given[2]->data, 0, size * (half && kind != KERNEL ? 2 : sizeof(float)));
    return NULL;
  }
  Winograd *j = zeros(1, sizeof(Winograd));
  if (!j) return no_memory(f);
  Images read = {x->data, in[2], in[3], in[4], half}, made = {y->data, out[2], out[3], out[4], half};
  *j = (Winograd){
    .work = {.holders = 1, .run = run_winograd, .close = close_winograd},
    .kernels = kernels, .kind = kind, .m = (int)form[TILE], .nets = in[0],
    .from = kind == INPUT ? made : read, .to = kind == INPUT ? read : made,
    .weights = w->data, .gradient = w->data,
  };
  for (int i = 0; i < 2; i++) j->before[i] = kind == INPUT ? 2 - form[BEFORE + i] : form[BEFORE + i];
  j->C = j->from.features, j->D = j->to.features;
  j->across = divide_up(j->to.columns, j->m);
  j->each = j->across * divide_up(j->to.rows, j->m);
  j->tiles = in[1] * j->each;
  int64_t threads = threads_of(f);
  int ok = prepare_winograd(j, threads) && run_chunks(&j->work, f, threads);
  if (ok && kind == KERNEL) add_tile_parts(j);
  release(&j->work);
  return ok ? NULL : no_memory(f);
}
