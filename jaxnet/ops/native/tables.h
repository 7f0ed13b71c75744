/* What the inner loops read and write, and the tables of them: one for each instruction set, which has
 * units of compilation of its own. */

#pragma once
#include "shared.h"

/* What is done to `count` pixels of results, `row` floats apart, of which `left` features are known. */
typedef void Activation(float *y, int64_t count, int64_t row, int64_t left);

/* What follows a sum: activation(clip(sum + bias + added)). */
typedef struct {
  const float *bias;     /* of all features, and a vector more */
  const float *added;    /* NULL, or an array like the result */
  const float *result;   /* where the result begins */
  float least, most;
  Activation *activate;  /* or NULL */
} Finish;

/* What a tile of `sum` reads: a row of x and one of w per row of the kernel, in both at these
 * distances per tap; `run` neighbors in memory per tap. */
typedef struct {
  const float *const *x, *const *w;
  int64_t rows, taps, run, tap_x, tap_w, pixel, result;
  int onto; /* whether to add to the result, for whole vectors */
  const Finish *finish; /* or NULL */
  const float *bias;    /* of `finish`, from the first of these features on */
} Sum;

/* What a tile of `add` reads: rows of x and y at these distances per column, for each row of the
 * kernel `rows` of x. `kernel` and `width` are distances in the result. Tiles of bfloat16 may begin
 * at 0, and write `left` rounded numbers per row of `line`. */
typedef struct {
  const float *const *x, *const *y;
  int64_t rows, columns, step_x, step_y, step_tap, kernel, width;
  int first;
  uint16_t *rounded;
  int64_t line, left;
} Add;

/* What a step of an LSTM reads and writes, for some rows; see lstm.h. Rows are `features` apart, and
 * four times as far in `gates` and `slopes`. */
typedef struct {
  int64_t rows, features;
  const uint8_t *mask;         /* one per row, or NULL */
  const float *bias, *product; /* of a row: its four gates, a vector of each */
  const float *gates, *before;
  float *slopes, *by_old_c, *by_c, *c, *h; /* the first three may be NULL */
} Cell;

/* What a step back through an LSTM reads and writes. `slopes`, `by_old_c` and `by_c` are given. */
typedef struct {
  int64_t rows, features;
  const uint8_t *mask;
  const float *slopes, *by_old_c, *by_c, *given_h;
  float *gates, *c, *h, *kept; /* `kept` is the gradient by h, for the rows that the mask leaves */
} CellBack;

/* How inputs of some groups become vectors: `inputs` neighbors of `depth` per group, and the place of
 * the first input that each number of a vector needs. */
typedef struct {
  int64_t depth, inputs;
  int32_t first[16];
} Spread;

/* Arrays (examples, pixels, features) whose groups of `inner` features are standardized, of floats or
 * of bfloat16; see norm.h. `given` is the gradient of the result, or NULL. */
typedef struct {
  int half, centered;
  int64_t pixels, features, inner;
  float epsilon;
  const float *scale, *bias;
  const void *x, *given;
  void *y;
} Norm;

/* Windows of images x (examples, rows, columns, features) whose largest entries are taken, by axis of
 * an image; see pool.h. `given` is the gradient of the results, and `y` then that of x. */
typedef struct {
  int64_t examples, features, in[2], out[2], window[2], strides[2], apart[2], before[2];
  const float *x, *given;
  float *y;
} Pool;

/* The taps of a window that are inside along an axis: first to last, from the place of tap 0 on. */
typedef struct {
  int64_t start, first, last;
} Taps;

static Taps taps_of(const Pool *p, int axis, int64_t result) {
  int64_t apart = p->apart[axis], start = result * p->strides[axis] - p->before[axis];
  int64_t first = start < 0 ? (-start + apart - 1) / apart : 0;
  int64_t last = (p->in[axis] - start + apart - 1) / apart;
  return (Taps){start, first, MAX(first, MIN(last, p->window[axis]))};
}

/* A product of rows x (rows, inputs), one to four of them, with w; see gemv.h. */
typedef enum { F32, BF16, INT8, INT4 } Numbers; /* of which a word of 32 bits holds 1, 2, 4 or 8 */
typedef struct {
  Numbers numbers;
  int transposed, half; /* scales: 0 of float32, 1 of float16, 2 of bfloat16 */
  int64_t rows, inputs, outputs;
  int64_t group;        /* neighboring inputs that share a scale */
  int64_t parts;        /* of the inputs, or transposed of the outputs */
  int64_t line, padded; /* bytes of a line of w, and its numbers in whole vectors of words */
  const float *x;
  const void *scale; /* or NULL */
  const char *w;
  float *sums, *y; /* of each part its sums and those of a group; transposed, x for vectors of w */
  int32_t *places; /* transposed, the group of each word of a line */
} Gemv;

/* A product of rows x, as integers, with two numbers of 4 bits per byte; see nibbles_tiles.h. */
#define DIGITS 3
#define STEPS 2080768.0f /* 127 * 2**14 */
typedef struct {
  int transposed, half;
  int64_t rows, inputs, outputs, group, line;
  int64_t groups;               /* of 32 inputs */
  int64_t parts, strips, padded; /* of the inputs, or transposed of the outputs; of the outputs */
  const float *x;
  const void *scale;
  const uint8_t *w;
  int8_t *digits;
  float *largest, *sums, *y; /* of each 32 numbers of x */
  int32_t *less, *places;    /* what the 8 in each number adds; transposed, the group of each word */
} Nibbles;
typedef struct {
  int lanes;
  void (*digits)(const Nibbles *);
  void (*lines)(const Nibbles *, int64_t chunk);
  void (*columns)(const Nibbles *, int64_t chunk);
} Dots;

/* How floats become integers of at most so many steps: x * up * inverse, from the bits of the largest
 * absolute value. `largest` is NaN if a number is not finite; then, and of zeros, `inverse` is 0. */
typedef struct {
  int fine;
  float largest, up, inverse;
} Rounding;

static inline Rounding rounding_of(int32_t top, float steps) {
  float largest;
  memcpy(&largest, &top, sizeof largest);
  int fine = top > 0 && top < 0x7f800000;
  float up = largest < 1e-18f ? 1e18f : 1;
  return (Rounding){
    fine, fine || !top ? largest : __builtin_nanf(""), up, fine ? steps / (largest * up) : 0,
  };
}

/* A product of rows x, as integers, with numbers of 8 bits; see bytes_tiles.h. */
#define DIGITS_8 4
#define STEPS_8 266338304.0f /* 127 * 2**21 */
typedef struct {
  int transposed;
  int64_t rows, inputs, outputs, padded; /* inputs in whole vectors of w */
  int64_t parts;                         /* of the inputs, or transposed of the outputs */
  const float *x, *scale;
  const uint8_t *w;
  int8_t *digits;
  float *largest, *y; /* of each row of x */
  int32_t *less, *sums;
} Bytes;
typedef struct {
  void (*digits)(const Bytes *, int64_t row);
  void (*lines)(const Bytes *, int64_t part);
  void (*add_up)(const Bytes *, int64_t row);
  void (*columns)(const Bytes *, int64_t part);
} ByteLoops;

/* The places that each query of a panel sees, first <= place < last. All are in [low, high), and
 * every query sees all of [all_low, all_high). */
typedef struct {
  int32_t first[32], last[32];
  int64_t low, high, all_low, all_high;
} Ranges;

/* What a panel of queries and a block of places need for their weights; see attention_tiles.h. */
typedef struct {
  const Ranges *ranges;
  int64_t place, count;
  int masked;    /* whether some query does not see all of these places */
  float softcap; /* or 0 */
} Panel;

/* Attention of one query per head, in groups of heads that share keys and values, floats or bfloat16;
 * see attention.h. `seen` and `bias`, or NULL, are of (batch, heads, places), as the weights. */
typedef struct {
  int half;
  int64_t heads, groups, size, places, width;
  float scale, softcap;
  const float *q, *bias;
  const void *k, *v;
  const uint8_t *seen;
  float *y, *weights;
} One;

/* How a square of Winograd's convolution is transformed, for all features: distances of what is read,
 * or where each of it is, and of what is written, at most `rows` by `columns`; see winograd_tiles.h.
 * `sums` gets the squares of what is read, by its cells; unlike the rest, it is written. */
typedef struct {
  int64_t row, pixel, row_to, pixel_to, vector_to, features, rows, columns;
  const float *at[36];
  float *sums;
  const Finish *finish; /* of what is written, or NULL */
  const float *bias;
} Square;

#define LOG2_E 1.44269504f

typedef void SumTile(const Sum *, int64_t start, float *result, int64_t left);
typedef void AddTile(const Add *, int64_t start, int64_t feature, float *result);
typedef void CellTile(const Cell *, int64_t feature);
typedef void CellBackTile(const CellBack *);
typedef void SquareTile(const Square *, const float *from, float *to);
typedef void SquareSums(const Square *, float scale, float *to);

/* Tiles of sums and products; see tiles.h. */
typedef struct {
  SumTile *sum[2][29]; /* by vectors - 1 and count */
  AddTile *add[2][29];
  AddTile *add_rows[3][10]; /* three or five rows of the kernel at once: by half of it and count */
  SumTile *sum_each[13];    /* by count */
  AddTile *add_each[3][10]; /* as add_rows, and one row */
  /* of words of two bfloat16, where the processor multiplies them */
  SumTile *sum_half[2][29];
  AddTile *add_half[2][29], *add_rows_half[3][10];
} Tiles;

/* Loops over small arrays; see script_tiles.h. */
enum { SCRIPT_MAPS = 8, SCRIPT_COMBINATIONS = 12, SCRIPT_REDUCTIONS = 3 };
typedef struct {
  void (*map[SCRIPT_MAPS])(const float *from, int64_t n, float *to);
  void (*combine[SCRIPT_COMBINATIONS])(const float *first, int64_t many_first, const float *second,
                                       int64_t many_second, int64_t n, float *to);
  void (*select)(const float *which, const float *no, int64_t n, float *to);
  void (*reduce[SCRIPT_REDUCTIONS])(const float *from, int64_t rows, int64_t n, float *to);
  void (*times[2])(const float *x, const float *w, int64_t rows, int64_t inner, int64_t outputs, float *to);
} ScriptLoops;

/* All loops for one width of vectors; see loops.h. */
typedef struct {
  int lanes, most;
  const Tiles *tiles;
  void (*spread)(const Spread *, const float *x, int64_t left, float *to);
  CellTile *cell;
  CellBackTile *cell_back;
  void (*plain)(const Cell *);
  CellBackTile *plain_back;
  void (*keep)(const uint32_t *key, uint32_t below, int64_t first, int64_t count, uint8_t *to);
  void (*gemv)(const Gemv *, int64_t chunk);
  void (*pack)(const float *, int64_t row, int64_t count, int64_t n, float factor, float *to);
  void (*unpack)(const float *, const float *factor, int64_t row, int64_t count, int64_t n,
                 float *to);
  void (*gather)(const float *, int64_t row, int64_t count, int64_t n, int64_t wide, float factor,
                 float *to);
  int (*finite)(const float *, int64_t n);
  float (*dot)(const float *, const float *, int64_t n);
  void (*softmax)(const Panel *, float *scores, float *top, float *sums, float *y, int64_t width);
  void (*slopes)(const Panel *, float *weights, float *slopes, int64_t row, const float *totals,
                 const float *means);
  void (*one)(const One *, int64_t group);
  void (*norm)(const Norm *, int64_t example, float *memory, float *sums);
  void (*moments)(int half, int64_t rows, int64_t features, const void *x, const void *given,
                  const float *shift, float *sums, int64_t space);
  void (*pool)(const Pool *, const float *x, const float *given, float *y, Taps, int64_t features);
  /* for float32 and bfloat16, tiles of 2 and 4 results: of x and of y's gradient, inside and over the
   * border; of products to y; of weights, and of products to their gradient, in float32 */
  SquareTile *read[2][2][2], *back[2][2][2], *write[2][2], *weights[2], *kernel[2];
  SquareSums *squares[2][2]; /* of what a tile reads */
  Activation *const *activations; /* by number; see activation_tiles.h */
  const ScriptLoops *script;
  void (*panels)(const float *, int64_t n, int64_t width, int64_t panel, float *to);
  /* of words of two bfloat16, where the processor multiplies them; see half_tiles.h */
  void (*turn)(const uint16_t *, int64_t row, int64_t count, int64_t n, int64_t wide, float *to);
  void (*pair)(const uint16_t *a, const uint16_t *b, int64_t count, int64_t wide, float *to);
  void (*round)(const float *, int64_t n, uint16_t *to);
} Kernels;

/* What the units of all instruction sets have. Only those exist that are compiled for a processor. */
#ifdef __ELF__
#pragma GCC visibility push(hidden)
#endif
extern const Tiles tiles_avx512, tiles_avx2, tiles_neon;
extern const Kernels kernels_avx512, kernels_avx2, kernels_neon;
extern const Dots dots_of_avx512, dots_of_avx2, dots_of_neon;
extern const ByteLoops bytes_of_avx512;
void gemv_avx512(const Gemv *, int64_t chunk);
void gemv_avx2(const Gemv *, int64_t chunk);
void gemv_neon(const Gemv *, int64_t chunk);
#ifdef __ELF__
#pragma GCC visibility pop
#endif
