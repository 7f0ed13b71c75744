/* What winograd.h, winograd_far.h and winograd_direct.h share: where tiles are and what they read. */

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
  int64_t wide, blocks; /* features of `to` at once, for KERNEL or for packed weights */
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
  const Finish *finish;     /* NULL, or what follows: then the weights were transformed before */
  const float *weights;
  float *gradient;          /* of them */
  float *zeros, *scratch;   /* a pixel, and transformed weights or the sums of parts but the first */
  float far, *taps;         /* see winograd_far.h, and the sums of squares of weights by tap */
  int cell[9];              /* places of the sums of squares of cells */
} Winograd;

enum {
  BLOCK = 28, LARGE_BLOCK = 64, FEWEST_TILES = 14 /* of a part, for packed weights */, MOST_TILES = LARGE_BLOCK + 28, /* in whole groups */
  MOST_READ = 6 /* n */, TAPS = 9,
  MOST_SUMS = 16 /* of cells, in whole vectors */,
};

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

static int is_inside(const Images *a, Place at) {
  return MIN(at.row, at.column) >= 0 && at.row < a->rows && at.column < a->columns;
}

/* Whether a square is inside. */
static int is_whole(const Images *a, Place at, int size) {
  return MIN(at.row, at.column) >= 0 && at.row + size <= a->rows && at.column + size <= a->columns;
}

/* A place of a square of `size`, counted row by row. */
static Place within(Place corner, int i, int size) {
  return (Place){corner.image, corner.row + i / size, corner.column + i % size};
}

static float float_of(uint16_t half) {
  uint32_t bits = (uint32_t)half << 16;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* Where each pixel of a square is, from a feature on; zeros outside. */
static void find_square(const Winograd *j, const Images *a, Place at, int size, int64_t feature,
                        Square *s) {
  for (int i = 0; i < size * size; i++) {
    Place here = within(at, i, size);
    s->at[i] = is_inside(a, here) ? pixel_of(a, here, feature) : j->zeros;
  }
}

/* Vectors of the next tile of products. */
static int vectors_of(const Winograd *j, int64_t features) {
  return features >= 2 * j->kernels->lanes ? 2 : 1;
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
