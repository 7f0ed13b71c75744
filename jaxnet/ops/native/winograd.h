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
 * A result that sees zeros alone is 0. A number that is not finite, or so large that sums of 20 of its
 * kind are not, spoils its tile. */

#pragma once
#include "rows.h"
#include "levels.h"

typedef struct {
  float *data;
  int64_t rows, columns, features;
  int half; /* they are bfloat16 */
} Images;

/* How the work is divided into chunks. */
typedef struct {
  int64_t group, block; /* tiles of a product, and tiles at once */
  int64_t wide, blocks; /* for KERNEL, features of `to` at once */
  int64_t first_chunks; /* of each net, which transform weights */
  int64_t parts;        /* of the tiles of a net */
} Portions;

typedef struct {
  Work work;
  const Kernels *kernels;
  Kind kind;
  int m, n;                 /* results of a tile, and numbers that it reads, per axis */
  Images from, to;          /* that tiles read, and that they make or for KERNEL the gradient of y */
  int64_t before[2];        /* zeros before what is read */
  int64_t nets, C, D;       /* features of `from` and of `to` */
  int64_t C_padded, D_padded;
  int64_t across, each, tiles; /* tiles of a row, of an image and of a net */
  Portions split;
  const float *weights;
  float *gradient;          /* of them */
  float *zeros, *scratch;   /* a pixel, and transformed weights or the sums of parts but the first */
} Winograd;

enum { BLOCK = 28, LARGE_BLOCK = 64, MOST_READ = 6 /* n */ };

typedef struct {
  int64_t image, row, column;
} Place;

/* Where the results of a tile are. */
static Place result_of(const Winograd *j, int64_t tile) {
  int64_t rest = tile % j->each;
  return (Place){tile / j->each, rest / j->across * j->m, rest % j->across * j->m};
}

/* Where the numbers begin that a tile reads, maybe outside. */
static Place source_of(const Winograd *j, int64_t tile) {
  Place at = result_of(j, tile);
  return (Place){at.image, at.row - j->before[0], at.column - j->before[1]};
}

static float *pixel_of(const Images *a, Place at, int64_t feature) {
  int64_t pixel = (at.image * a->rows + at.row) * a->columns + at.column;
  return after(a->half, a->data, pixel * a->features + feature);
}

/* Transforms a square of `size`, from a feature on, with zeros outside. */
static void transform_square(const Winograd *j, SquareTile *const *which, const Images *a, Place at,
                             int size, int64_t feature, Square *s, float *to) {
  s->pixel = a->features;
  s->row = a->columns * s->pixel;
  if (at.row >= 0 && at.column >= 0 && at.row + size <= a->rows && at.column + size <= a->columns) {
    which[0](s, pixel_of(a, at, feature), to);
    return;
  }
  for (int i = 0; i < size * size; i++) {
    Place here = {at.image, at.row + i / size, at.column + i % size};
    int inside = MIN(here.row, here.column) >= 0 && here.row < a->rows && here.column < a->columns;
    s->at[i] = inside ? pixel_of(a, here, feature) : j->zeros;
  }
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

/* Whether all features of a pixel are 0, as they are outside. */
static int is_zero(const Images *a, Place at) {
  if (at.row < 0 || at.column < 0 || at.row >= a->rows || at.column >= a->columns) return 1;
  const float *pixel = pixel_of(a, at, 0);
  const uint16_t *halves = (const uint16_t *)pixel;
  for (int64_t c = 0; c < a->features; c++)
    if (a->half ? halves[c] & 0x7fff : pixel[c] != 0) return 0;
  return 1;
}

/* Makes those results of a tile 0 that see zeros alone. If the tile has other numbers, the transforms
 * leave rounding errors there, and a relu behind them would let half of the gradients through. */
static void clear_results(const Winograd *j, Place from, Place to) {
  int zero[MOST_READ][MOST_READ], columns[MOST_READ] = {0}, some = 0;
  for (int row = 0; row < j->n; row++)
    for (int column = 0; column < j->n; column++) {
      Place at = {from.image, from.row + row, from.column + column};
      some |= zero[row][column] = is_zero(&j->from, at);
    }
  if (!some) return;
  int64_t bytes = j->D * (j->to.half ? sizeof(uint16_t) : sizeof(float));
  for (int row = 0; row < MIN(j->m, j->to.rows - to.row); row++) {
    for (int column = 0; column < j->n; column++) /* three pixels above each other */
      columns[column] = zero[row][column] && zero[row + 1][column] && zero[row + 2][column];
    for (int column = 0; column < MIN(j->m, j->to.columns - to.column); column++) {
      Place at = {to.image, to.row + row, to.column + column};
      if (columns[column] && columns[column + 1] && columns[column + 2])
        memset(pixel_of(&j->to, at, 0), 0, bytes);
    }
  }
}

/* Vectors of the next tile of products. */
static int vectors_of(const Winograd *j, int64_t features) {
  return features >= 2 * j->kernels->lanes ? 2 : 1;
}

/* Some inputs of a net's weights, as (blocks of one or two vectors of D, n * n, C, block). */
static void transform_weights(const Winograd *j, int64_t net, int64_t part) {
  const Kernels *k = j->kernels;
  int64_t lanes = k->lanes, C = j->C, D = j->D, n2 = j->n * j->n, lines = j->C_padded / lanes;
  int64_t first = lines * part / j->split.first_chunks * lanes;
  int64_t end = lines * (part + 1) / j->split.first_chunks * lanes, last = MIN(end, C);
  const float *from = j->weights + net * 9 * C * D;
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

/* The memory of a chunk: transformed numbers that tiles read and, for the value, their products or, for
 * KERNEL, transformed gradients of y. A group of tiles has `size_x` and `size_y` numbers. */
typedef struct {
  float *x, *y;
  int64_t groups, size_x, size_y;
  int64_t plane; /* of a group and a vector of features, for each of the n * n places */
} TileBlock;

static TileBlock block_of(const Winograd *j, int64_t count, int64_t wide) {
  int64_t lanes = j->kernels->lanes, n2 = j->n * j->n, group = j->split.group, plane = group * lanes;
  return (TileBlock){
    .groups = divide_up(MIN(j->split.block, count), group), .plane = plane,
    .size_x = n2 * plane * (j->C_padded / lanes), .size_y = n2 * group * wide,
  };
}

/* Transforms what a tile reads to a place of the block. */
static void read_tile(const Winograd *j, const TileBlock *m, int64_t tile, int64_t place) {
  int64_t group = j->split.group, lanes = j->kernels->lanes;
  Square in = {
    .row_to = j->n * m->plane, .pixel_to = m->plane, .vector_to = j->n * j->n * m->plane,
    .features = j->C,
  };
  transform_square(j, j->kernels->read[j->to.half][j->m / 4], &j->from, source_of(j, tile), j->n, 0,
                   &in, m->x + place / group * m->size_x + place % group * lanes);
}

/* The products of the matrices at one of the n * n places, for a block of tiles. */
static void multiply_tiles(const Winograd *j, const TileBlock *m, const float *weights, int64_t a,
                           int64_t count) {
  const Kernels *k = j->kernels;
  int64_t lanes = k->lanes, n2 = j->n * j->n, group = j->split.group;
  const float *x, *w;
  Sum s = {
    .x = &x, .w = &w, .rows = 1, .taps = j->C_padded / lanes, .run = lanes, .tap_x = n2 * m->plane,
    .pixel = lanes,
  };
  for (int64_t d = 0; d < j->D_padded;) {
    int vectors = vectors_of(j, j->D_padded - d);
    int64_t width = vectors * lanes;
    w = weights + (d * n2 + a * width) * j->C_padded;
    s.result = width;
    s.tap_w = lanes * width;
    for (int64_t t = 0; t < count; t += group) {
      x = m->x + t / group * m->size_x + a * m->plane;
      float *to = m->y + t / group * m->size_y + (d * n2 + a * width) * group;
      k->tiles->sum[vectors - 1][MIN(group, count - t)](&s, 0, to, width);
    }
    d += width;
  }
}

/* Transforms the products of a tile to its results. */
static void write_tile(const Winograd *j, const TileBlock *m, int64_t tile, int64_t place) {
  const Kernels *k = j->kernels;
  int64_t n2 = j->n * j->n, group = j->split.group, D = j->D;
  Place at = result_of(j, tile);
  Square out = {
    .row_to = j->to.columns * D, .pixel_to = D, .vector_to = k->lanes,
    .rows = j->to.rows - at.row, .columns = j->to.columns - at.column,
  };
  const float *products = m->y + place / group * m->size_y;
  for (int64_t d = 0; d < j->D_padded;) {
    int64_t width = vectors_of(j, j->D_padded - d) * k->lanes;
    out.features = MIN(width, D - d);
    out.pixel = group * width, out.row = j->n * out.pixel;
    k->write[j->to.half][j->m / 4](&out, products + d * n2 * group + place % group * width,
                                   pixel_of(&j->to, at, d));
    d += width;
  }
  clear_results(j, source_of(j, tile), at);
}

/* The value, or the gradient of the input, of some tiles of a net; 0 if there is no memory. */
static int transformed_sums(const Winograd *j, int64_t net, int64_t first, int64_t last) {
  int64_t n2 = j->n * j->n;
  TileBlock m = block_of(j, last - first, j->D_padded);
  float *memory[2];
  if (!allocate(2, (int64_t[]){m.groups * m.size_x, m.groups * m.size_y}, memory)) return 0;
  m.x = memory[0], m.y = memory[1];
  const float *weights = j->scratch + net * n2 * j->C_padded * j->D_padded;
  int64_t block = m.groups * j->split.group;
  for (int64_t t0 = first; t0 < last; t0 += block) {
    int64_t count = MIN(block, last - t0);
    for (int64_t t = 0; t < count; t++) read_tile(j, &m, t0 + t, t);
    for (int64_t a = 0; a < n2; a++) {
      for (int64_t t = t0 + count * a / n2; t < t0 + count * (a + 1) / n2; t++) {
        fetch_square(&j->to, result_of(j, t), j->m);
        if (t + count < last) fetch_square(&j->from, source_of(j, t + count), j->n);
      }
      multiply_tiles(j, &m, weights, a, count);
    }
    for (int64_t t = 0; t < count; t++) write_tile(j, &m, t0 + t, t);
  }
  free_vectors(m.x);
  return 1;
}

/* Transforms the gradient of the results of a tile, `wide` features from d0 on, to a place of the
 * block; zeros if the place is `past` the last tile. */
static void read_gradient(const Winograd *j, const TileBlock *m, int64_t tile, int64_t place, int past,
                          int64_t d0, int64_t wide) {
  const Kernels *k = j->kernels;
  int64_t n2 = j->n * j->n, group = j->split.group, features = MIN(wide, j->D - d0);
  Place at = result_of(j, tile);
  if (past) at.row = j->to.rows;
  for (int64_t d = 0; d < wide;) {
    int64_t width = vectors_of(j, wide - d) * k->lanes;
    Square given = {
      .row_to = j->n * group * width, .pixel_to = group * width, .vector_to = k->lanes,
      .features = MIN(width, features - d),
    };
    transform_square(j, k->back[j->to.half][j->m / 4], &j->to, at, j->m, d0 + d, &given,
                     m->y + place / group * m->size_y + d * n2 * group + place % group * width);
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

/* The gradient of the kernel from some tiles, for some features of y; 0 if there is no memory. */
static int transformed_gradient(const Winograd *j, int64_t d0, int64_t first, int64_t last,
                                float *result) {
  int64_t n2 = j->n * j->n, group = j->split.group, wide = MIN(j->split.wide, j->D_padded - d0);
  int64_t whole = j->C_padded * wide;
  TileBlock m = block_of(j, last - first, wide);
  float *memory[3];
  if (!allocate(3, (int64_t[]){m.groups * m.size_x, m.groups * m.size_y, n2 * whole}, memory)) return 0;
  m.x = memory[0], m.y = memory[1];
  float *sum = memset(memory[2], 0, n2 * whole * sizeof(float));
  int64_t block = m.groups * group;
  for (int64_t t0 = first; t0 < last; t0 += block) {
    int64_t count = MIN(block, last - t0), groups = divide_up(count, group);
    for (int64_t t = 0; t < groups * group; t++) {
      int64_t tile = MIN(t0 + t, last - 1);
      read_tile(j, &m, tile, t);
      read_gradient(j, &m, tile, t, t >= count, d0, wide);
    }
    for (int64_t a = 0; a < n2; a++) {
      for (int64_t t = t0 + count * (a + n2) / n2; t < MIN(t0 + count * (a + 1 + n2) / n2, last); t++) {
        fetch_square(&j->to, result_of(j, t), j->m);
        fetch_square(&j->from, source_of(j, t), j->n);
      }
      add_products(j, &m, a, groups, wide, sum + a * whole);
    }
  }
  write_kernel(j, sum, whole, wide, d0, result);
  free_vectors(m.x);
  return 1;
}

static int run_winograd(Work *work, int64_t chunk) {
  const Winograd *j = (Winograd *)work;
  int64_t weights = j->kind == KERNEL ? 0 : j->nets * j->split.first_chunks;
  if (chunk < weights) {
    transform_weights(j, chunk / j->split.first_chunks, chunk % j->split.first_chunks);
    return 1;
  }
  wait_for(work, weights); /* somebody computes them */
  chunk -= weights;
  int64_t net = chunk / (j->split.parts * j->split.blocks), part = chunk % j->split.parts;
  int64_t first = net * j->tiles + j->tiles * part / j->split.parts;
  int64_t last = net * j->tiles + j->tiles * (part + 1) / j->split.parts;
  if (j->kind != KERNEL) return transformed_sums(j, net, first, last);
  float *scratch = j->scratch + (net * (j->split.parts - 1) + part - 1) * 9 * j->C * j->D;
  return transformed_gradient(j, chunk / j->split.parts % j->split.blocks * j->split.wide, first, last,
                              part ? scratch : j->gradient + net * 9 * j->C * j->D);
}

/* The sum of the parts in order, so that it does not depend on the number of threads. */
static void add_tile_parts(const Winograd *j) {
  int64_t size = 9 * j->C * j->D;
  const float *from = j->scratch;
  for (int64_t net = 0; net < j->nets; net++)
    for (int64_t part = 1; part < j->split.parts; part++, from += size)
      for (int64_t i = 0; i < size; i++) j->gradient[net * size + i] += from[i];
}

static void close_winograd(Work *work) {
  free_vectors(((Winograd *)work)->zeros);
  free(work);
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
  if (j->kind == KERNEL) {
    j->split.wide = j->D_padded; /* so many that their sums stay in the second cache */
    while (j->split.wide > 4 * lanes && n2 * j->C * j->split.wide > 300000)
      j->split.wide = round_up(j->split.wide / 2, lanes);
    j->split.blocks = divide_up(j->D_padded, j->split.wide);
    j->split.parts = MAX(1, MIN(8 / (j->nets * j->split.blocks), j->tiles / j->split.block));
    j->work.chunks = j->nets * j->split.blocks * j->split.parts;
    scratch = j->nets * (j->split.parts - 1) * 9 * j->C * j->D;
  } else {
    /* weights that do not stay in the second cache are read again for each block */
    if (n2 * j->C * j->D > 750000) j->split.block = LARGE_BLOCK;
    int64_t most = threads * MAX(1, MIN(4, j->nets * j->tiles / (threads * 2 * j->split.block)));
    j->split.parts = MIN(divide_up(most, j->nets), j->tiles);
    most = threads == 1 ? 1 : divide_up(2 * threads, j->nets);
    j->split.first_chunks = MIN(most, j->C_padded / lanes);
    j->work.chunks = j->nets * (j->split.first_chunks + j->split.parts);
    scratch = j->nets * n2 * j->C_padded * j->D_padded;
  }
  float *memory[2];
  int64_t pixel = MAX(j->C_padded, j->D_padded);
  if (!allocate(2, (int64_t[]){pixel, scratch}, memory)) return 0;
  j->zeros = memset(memory[0], 0, pixel * sizeof(float));
  j->scratch = memory[1];
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
