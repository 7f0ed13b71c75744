/* y = x @ w for few rows of x, as in a step of decoding, as handlers of XLA's foreign function
 * interface. w (inputs, outputs) holds float32, bfloat16, int8, or two int4 per byte: the number with
 * the even place in the low bits, as in XLA's own arrays of int4. Integers have scales (groups,
 * outputs) of float32, float16 or bfloat16, one group for some neighboring inputs. The
 * transposed product reads w (outputs, inputs) and scales (outputs, groups).
 *
 * The numbers of w become floats, four rows of x at a time. With 4 bits in groups of 32, or of whole
 * 32s, that would take longer than to read them, so x becomes integers instead: each 32 neighbors are
 * rounded to 2**21 steps up to their largest one, about as finely as floats round their sum, and
 * multiplied as three digits of 7 bits; see nibbles_tiles.h. So it does with 8 bits whose inputs share
 * a scale, by AVX-512 with products of bytes: a row is rounded to 2**28 steps, of four digits; see
 * bytes_tiles.h. NaN or infinity gives NaN. */

#pragma once
#include "levels.h"

typedef struct {
  Work work;
  const Kernels *kernels;
  Gemv s;
} Product;

static int run_gemv(Work *work, int64_t chunk) {
  const Product *p = (const Product *)work;
  p->kernels->gemv(&p->s, chunk);
  return 1;
}

static void free_gemv(Work *work) {
  free_vectors(((Product *)work)->s.sums);
  free(work);
}

/* x in the order of the fields of a vector of words, times their units; zeros fill the vectors. Also
 * the group of each word. */
static void pack_x(const Gemv *s, int fields, int lanes) {
  memset(s->sums, 0, 4 * s->padded * sizeof(float));
  for (int64_t word = 0; word < s->padded / fields; word++)
    s->places[word] = (int32_t)(MIN(word * fields, s->inputs - 1) / s->group);
  for (int64_t row = 0; row < s->rows; row++)
    for (int64_t i = 0; i < s->inputs; i++) {
      int64_t word = i / fields, field = i % fields;
      float unit = s->numbers >= INT8 ? 1 / (float)(1 << field * (32 / fields) % 16) : 1;
      s->sums[row * s->padded + (word / lanes * fields + field) * lanes + word % lanes] =
        s->x[row * s->inputs + i] * unit;
    }
}

/* Adds up the sums of all parts, in order, so that the bits are the same for any threads. Rows of sums
 * are `padded` apart, and parts `part`. */
static void add_in_order(const Gemv *s, int64_t parts, const float *sums, int64_t padded, int64_t part) {
  for (int64_t row = 0; row < s->rows; row++, sums += padded) {
    float *y = s->y + row * s->outputs;
    memcpy(y, sums, s->outputs * sizeof(float));
    for (int64_t p = 1; p < parts; p++)
      for (int64_t o = 0; o < s->outputs; o++) y[o] += sums[p * part + o];
  }
}

/* Up to four rows; returns 0 without memory. */
static int multiply_floats(FfiCall *f, const Kernels *kernels, Gemv s) {
  int fields = 1 << s.numbers;
  int64_t wide = s.transposed ? s.inputs : s.outputs, unit = 16 * fields;
  int64_t padded = (wide + unit - 1) / unit * unit;
  int64_t parts = s.transposed ? MIN(64, (s.outputs + 15) / 16) : MAX(1, MIN(16, s.inputs / 144));
  Product *p = zeros(1, sizeof(Product));
  float *sums = new_vectors((s.transposed ? 5 : 2 * parts * s.rows) * padded * 4);
  if (p) {
    *p = (Product){
      .work = {.holders = 1, .chunks = parts, .run = run_gemv, .close = free_gemv},
      .kernels = kernels, .s = s,
    };
    p->s.parts = parts, p->s.padded = padded, p->s.sums = sums;
    p->s.places = (int32_t *)(sums + 4 * padded);
  }
  if (p && sums && s.transposed) pack_x(&p->s, fields, kernels->lanes);
  int ok = p && sums && run_chunks(&p->work, f, threads_of(f));
  if (ok && !s.transposed) add_in_order(&s, parts, sums, padded, 2 * s.rows * padded);
  if (p) release(&p->work);
  else free_vectors(sums);
  return ok;
}

typedef struct {
  Work work;
  const Dots *dots;
  Nibbles s;
} Whole;

static int run_nibbles(Work *work, int64_t chunk) {
  const Whole *p = (const Whole *)work;
  (p->s.transposed ? p->dots->columns : p->dots->lines)(&p->s, chunk);
  return 1;
}

static void free_nibbles(Work *work) {
  free_vectors(((Whole *)work)->s.sums);
  free(work);
}

/* Any number of rows, of integers; returns 0 without memory. */
static int multiply_nibbles(FfiCall *f, const Dots *dots, const Gemv *g) {
  int64_t unit = 8 * dots->lanes, inputs = g->inputs, outputs = g->outputs, rows = g->rows;
  int64_t groups = (inputs + 31) / 32, vectors = (inputs + unit - 1) / unit;
  int64_t padded = (outputs + unit - 1) / unit * unit, strips = 1, parts;
  /* few parts, since a processor looks ahead within one only */
  if (g->transposed) parts = MIN(64, (outputs + 15) / 16);
  else parts = MIN(groups, 2), strips = MAX(1, MIN(MAX(outputs / 2048, threads_of(f) / 2), outputs / 256));
  int64_t each = rows * (g->transposed ? vectors * dots->lanes : groups);
  int64_t digits = rows * (g->transposed ? vectors * unit : groups * 32) * DIGITS;
  int64_t sums = g->transposed ? 0 : parts * rows * padded, places = vectors * dots->lanes;
  Whole *p = zeros(1, sizeof(Whole));
  char *memory = new_vectors(((sums + 2 * each + places) * 4 + digits + 127) / 64 * 64);
  if (p) {
    float *largest = (float *)memory + sums;
    *p = (Whole){
      .work = {.holders = 1, .chunks = parts * strips, .run = run_nibbles, .close = free_nibbles},
      .dots = dots,
      .s = {
        .transposed = g->transposed, .half = g->half, .rows = rows, .inputs = inputs,
        .outputs = outputs, .group = g->group, .groups = groups, .line = g->line, .padded = padded,
        .parts = parts, .strips = strips, .x = g->x, .scale = g->scale,
        .w = (const uint8_t *)g->w, .sums = (float *)memory, .largest = largest,
        .less = (int32_t *)(largest + each), .places = (int32_t *)(largest + 2 * each),
        .digits = (int8_t *)(largest + 2 * each + places), .y = g->y,
      },
    };
  }
  if (p && memory) {
    memset(p->s.largest, 0, (2 * each + places) * 4 + digits); /* also what fills the vectors */
    for (int64_t i = 0; g->transposed && i < places; i++)
      p->s.places[i] = (int32_t)(MIN(8 * i, inputs - 1) / g->group);
    dots->digits(&p->s);
  }
  int ok = p && memory && run_chunks(&p->work, f, threads_of(f));
  if (ok && !g->transposed) add_in_order(g, parts, p->s.sums, padded, rows * padded);
  if (p) release(&p->work);
  else free_vectors(memory);
  return ok;
}

#ifdef HAS_AVX512
typedef struct {
  Work work;
  Bytes s;
} Octets;

static int run_bytes(Work *work, int64_t chunk) {
  const Bytes *s = &((Octets *)work)->s;
  (s->transposed ? bytes_of_avx512.columns : bytes_of_avx512.lines)(s, chunk);
  return 1;
}

static void free_bytes(Work *work) {
  free_vectors(((Octets *)work)->s.largest);
  free(work);
}

/* Any number of rows, of integers, by AVX-512; returns 0 without memory. */
static int multiply_bytes(FfiCall *f, const Gemv *g) {
  int64_t rows = g->rows, padded = round_up(g->inputs, 64);
  int64_t parts = g->transposed ? MIN(64, divide_up(g->outputs, 16)) : MAX(1, MIN(threads_of(f), g->inputs / 64));
  int64_t each = round_up(rows, 16), less = rows * DIGITS_8 * 16, digits = rows * padded * DIGITS_8 / 4;
  int64_t sums = g->transposed ? 0 : parts * rows * round_up(g->outputs, 64) * DIGITS_8;
  Octets *p = zeros(1, sizeof(Octets));
  float *memory = new_vectors((each + less + digits + sums) * 4);
  if (p && memory) {
    int32_t *rest = (int32_t *)memory + each;
    *p = (Octets){
      .work = {.holders = 1, .chunks = parts, .run = run_bytes, .close = free_bytes},
      .s = {
        .transposed = g->transposed, .rows = rows, .inputs = g->inputs, .outputs = g->outputs,
        .padded = padded, .parts = parts, .x = g->x, .scale = g->scale, .w = (const uint8_t *)g->w,
        .largest = memory, .less = rest, .digits = (int8_t *)(rest + less),
        .sums = rest + less + digits, .y = g->y,
      },
    };
    for (int64_t row = 0; row < rows; row++) bytes_of_avx512.digits(&p->s, row);
  }
  int ok = p && memory && run_chunks(&p->work, f, threads_of(f));
  for (int64_t row = 0; ok && !g->transposed && row < rows; row++) bytes_of_avx512.add_up(&p->s, row);
  if (p && memory) release(&p->work);
  else free(p), free_vectors(memory);
  return ok;
}
#endif

/* Reads how w stores its numbers; returns an error if w does not fit. */
static FfiError *read_numbers(FfiCall *f, Gemv *s) {
  const FfiBuffer *w = f->operands.buffers[1];
  int64_t lines = s->transposed ? s->outputs : s->inputs;
  int64_t wide = s->transposed ? s->inputs : s->outputs; /* numbers of a line of w */
  int packed = w->type == FFI_U8;
  REQUIRE(w->dims[0] == lines && w->dims[1] == (packed ? (wide + 1) / 2 : wide));
  REQUIRE(s->inputs <= INT32_MAX && s->outputs <= INT32_MAX);
  if (w->type == FFI_F32) s->numbers = F32;
  else if (w->type == FFI_BF16) s->numbers = BF16;
  else if (w->type == FFI_S8) s->numbers = INT8;
  else s->numbers = INT4;
  REQUIRE(s->numbers != INT4 || packed || (w->type == FFI_S4 && wide % 2 == 0));
  int fields = 1 << s->numbers; /* of a word */
  s->line = (wide * (32 / fields) + 7) / 8;
  s->w = w->data;
  return NULL;
}

/* Reads the scales and how many neighboring inputs share one; returns an error if they do not
 * fit. */
static FfiError *read_scales(FfiCall *f, Gemv *s) {
  s->group = MAX(s->inputs, 1);
  if (f->operands.count == 2) return NULL;
  const FfiBuffer *scale = f->operands.buffers[2];
  s->half = scale->type == FFI_F16 ? 1 : scale->type == FFI_BF16 ? 2 : 0;
  REQUIRE(s->half || scale->type == FFI_F32);
  REQUIRE(scale->rank == 2 && scale->dims[!s->transposed] == s->outputs);
  int64_t groups = scale->dims[s->transposed], fields = 1 << s->numbers;
  REQUIRE(groups > 0);
  s->group = MAX((s->inputs + groups - 1) / groups, 1);
  REQUIRE((s->inputs + s->group - 1) / s->group == groups || !s->inputs);
  REQUIRE(!s->transposed || groups == 1 || s->group % fields == 0);
  s->scale = scale->data;
  return NULL;
}

static FfiError *read_gemv(FfiCall *f, int transposed, Gemv *s) {
  REQUIRE((f->operands.count == 2 || f->operands.count == 3) && f->results.count == 1);
  const FfiBuffer *x = f->operands.buffers[0], *w = f->operands.buffers[1];
  const FfiBuffer *out = f->results.buffers[0];
  REQUIRE(x->type == FFI_F32 && x->rank == 2 && w->rank == 2);
  REQUIRE(out->type == FFI_F32 && out->rank == 2 && out->dims[0] == x->dims[0]);
  *s = (Gemv){
    .transposed = transposed, .rows = x->dims[0], .inputs = x->dims[1], .outputs = out->dims[1],
    .x = x->data, .y = out->data,
  };
  FfiError *wrong = read_numbers(f, s);
  return wrong ? wrong : read_scales(f, s);
}

/* Multiplies any number of rows by the fastest kernel for the type of w; returns 0 if memory runs
 * out. */
static int multiply_any(FfiCall *f, const Kernels *kernels, Gemv s) {
  int alone = s.group >= s.inputs; /* one scale for all inputs */
  int64_t rows = s.rows;
#ifdef HAS_AVX512
  if (s.numbers == INT8 && s.scale && !s.half && alone && s.inputs <= 1 << 16 &&
      dots_of(kernels)->lanes == 16)
    return multiply_bytes(f, &s);
#endif
  if (s.numbers == INT4 && s.scale && (s.group % 32 == 0 || alone))
    return multiply_nibbles(f, dots_of(kernels), &s);
  int ok = 1;
  for (int64_t row = 0; ok && row < rows; row += 4) {
    s.rows = MIN(4, rows - row);
    ok = multiply_floats(f, kernels, s);
    s.x += 4 * s.inputs, s.y += 4 * s.outputs;
  }
  return ok;
}

static FfiError *gemv(FfiCall *f, int transposed) {
  if (no_run(f)) return NULL;
  Gemv s = {0};
  FfiError *wrong = read_gemv(f, transposed, &s);
  if (wrong) return wrong;
  const Kernels *kernels = kernels_in_use();
  REQUIRE(kernels);
  if (!s.rows || !s.inputs || !s.outputs) {
    memset(s.y, 0, s.rows * s.outputs * sizeof(float));
    return NULL;
  }
  return multiply_any(f, kernels, s) ? NULL : no_memory(f);
}

FfiError *jaxnet_gemv(FfiCall *f) { return gemv(f, 0); }
FfiError *jaxnet_gemv_transposed(FfiCall *f) { return gemv(f, 1); }
