/* Convolutions and products whose weights were packed before, with what follows them: a bias, another
 * array that is added, bounds and an activation. For answers of a trained net, in float32.
 *
 * jaxnet_pack packs finite weights as the tiles of conv.h or of winograd.h read them. jaxnet_fused reads
 * them from an array with all the constants of a program, of which a call knows the places. */

#pragma once
#include "conv.h"
#include "winograd.h"

enum {
  FUSED_TILE, FUSED_GROUPS, FUSED_STRIDE, FUSED_DILATION = 5, FUSED_LOW = 8, FUSED_WINDOW = 11,
  FUSED_INPUTS = 14, FUSED_OUTPUTS, FUSED_ACTIVATION, FUSED_PACKED, FUSED_BIAS, FUSED_KERNEL, FUSED_NUMBERS,
  ACTIVATIONS = 8
};

/* The numbers of a call; NULL if they are not as expected. */
static const int64_t *fused_form(const FfiCall *f, int64_t option) {
  if (f->options.kinds[option] != FFI_ARRAY) return NULL;
  const FfiArray *array = f->options.values[option];
  if (array->type != FFI_S64 || array->count != FUSED_NUMBERS) return NULL;
  const int64_t *form = array->data;
  for (int i = FUSED_GROUPS; i < FUSED_ACTIVATION; i++) {
    int64_t least = i >= FUSED_LOW && i < FUSED_WINDOW ? -INT32_MAX : 1;
    if (form[i] < least || form[i] > INT32_MAX) return NULL;
  }
  int64_t tile = form[FUSED_TILE], groups = form[FUSED_GROUPS];
  if (tile != 0 && tile != 2 && tile != 4) return NULL;
  if (form[FUSED_INPUTS] % groups || form[FUSED_OUTPUTS] % groups) return NULL;
  return form[FUSED_ACTIVATION] >= 0 && form[FUSED_ACTIVATION] < ACTIVATIONS ? form : NULL;
}

/* A job of conv.h, over (batch, frames, rows, columns). */
static Job *fused_job(const int64_t *form, const int64_t *in, const int64_t *out, const Finish *finish) {
  Job *j = zeros(1, sizeof(Job));
  if (!j) return NULL;
  *j = (Job){
    .work = {.holders = 1, .run = convolve, .close = free_job}, .kernels = kernels_in_use(), .kind = VALUE,
    .nets = 1, .groups = form[FUSED_GROUPS], .batch = in[0], .finish = finish,
  };
  for (int axis = 0; axis < 3; axis++)
    *(Axis *[]){&j->z, &j->h, &j->w}[axis] = (Axis){
      in[1 + axis], out[1 + axis], form[FUSED_WINDOW + axis], form[FUSED_STRIDE + axis],
      form[FUSED_DILATION + axis], -form[FUSED_LOW + axis], 1,
    };
  j->window = j->z.window * j->h.window * j->w.window;
  j->planes = j->batch * j->z.out;
  j->C = form[FUSED_INPUTS] / j->groups;
  j->D = form[FUSED_OUTPUTS] / j->groups;
  return j;
}

/* Packs (3, 3, C, D) for tiles of winograd.h; 0 if the result has another size. */
static int pack_tiles(const int64_t *form, const float *weights, float *to, int64_t size) {
  const Kernels *kernels = kernels_in_use();
  int m = (int)form[FUSED_TILE];
  Winograd j = {
    .kernels = kernels, .kind = VALUE, .m = m, .n = m + 2, .nets = 1, .C = form[FUSED_INPUTS],
    .D = form[FUSED_OUTPUTS], .split = {.first_chunks = 1}, .weights = weights, .scratch = to,
  };
  j.C_padded = round_up(j.C, kernels->lanes), j.D_padded = round_up(j.D, kernels->lanes);
  if (size != j.n * j.n * j.C_padded * j.D_padded) return 0;
  transform_weights(&j, 0, 0);
  return 1;
}

/* Packs (frames, rows, columns, inputs of a group, outputs) for conv.h; 0 if the result has another size or
 * there is no memory. */
static int pack_lines(const int64_t *form, const float *weights, float *to, int64_t size) {
  static const Finish packed = {0};
  const int64_t one[] = {1, 1, 1, 1};
  Job *j = fused_job(form, one, one, &packed);
  if (!j) return 0;
  j->b = weights, j->scratch = to;
  int ok = merge_groups(j);
  j->D_padded = round_up(j->D, j->kernels->lanes);
  ok = ok && size == j->groups * j->window * j->depth * j->D_padded;
  if (ok) pack_part(j, 0, 1);
  release(&j->work);
  return ok;
}

FfiError *jaxnet_pack(FfiCall *f) {
  if (no_run(f)) return NULL;
  REQUIRE(f->operands.count == 1 && f->results.count == 1 && f->options.count == 1);
  const int64_t *form = fused_form(f, 0);
  REQUIRE(form && kernels_in_use());
  const FfiBuffer *w = f->operands.buffers[0], *to = f->results.buffers[0];
  const int64_t *window = form + FUSED_WINDOW;
  REQUIRE(IS(w, F32, window[0], window[1], window[2], form[FUSED_INPUTS] / form[FUSED_GROUPS],
             form[FUSED_OUTPUTS]));
  REQUIRE(to->type == FFI_F32 && to->rank == 1);
  int packed = (form[FUSED_TILE] ? pack_tiles : pack_lines)(form, w->data, to->data, to->dims[0]);
  REQUIRE(packed);
  return NULL;
}

/* What a call reads and writes; `all` are the constants of a program. */
typedef struct {
  const int64_t *form;
  const FfiBuffer *x, *all, *added, *y;
  Finish finish;
} Fused;

/* Whether `count` constants from a place on exist. */
static int has_constants(const Fused *c, int64_t place, int64_t count) {
  return place >= 0 && count >= 0 && place <= c->all->dims[0] && count <= c->all->dims[0] - place;
}

static FfiError *read_fused(FfiCall *f, Fused *c) {
  REQUIRE((f->operands.count == 2 || f->operands.count == 3) && f->results.count == 1);
  REQUIRE(f->options.count == 3); /* in the order of their names: form, least, most */
  const int64_t *form = c->form = fused_form(f, 0);
  REQUIRE(form && f->options.kinds[1] == FFI_SCALAR && f->options.kinds[2] == FFI_SCALAR);
  const FfiScalar *least = f->options.values[1], *most = f->options.values[2];
  REQUIRE(least->type == FFI_F32 && most->type == FFI_F32);
  c->x = f->operands.buffers[0], c->all = f->operands.buffers[1], c->y = f->results.buffers[0];
  c->added = f->operands.count == 3 ? f->operands.buffers[2] : NULL;
  REQUIRE(is(c->x, FFI_F32, 5, c->x->dims) && is(c->y, FFI_F32, 5, c->y->dims));
  REQUIRE(c->all->type == FFI_F32 && c->all->rank == 1);
  REQUIRE(c->x->dims[4] == form[FUSED_INPUTS] && c->y->dims[4] == form[FUSED_OUTPUTS]);
  REQUIRE(c->x->dims[0] == c->y->dims[0]);
  REQUIRE(!c->added || is(c->added, FFI_F32, 5, c->y->dims));
  const Kernels *kernels = kernels_in_use();
  REQUIRE(kernels);
  REQUIRE(has_constants(c, form[FUSED_BIAS], round_up(c->y->dims[4], kernels->lanes) + kernels->lanes));
  REQUIRE(has_constants(c, form[FUSED_PACKED], 1));
  c->finish = (Finish){
    .bias = (float *)c->all->data + form[FUSED_BIAS], .added = c->added ? c->added->data : NULL,
    .result = c->y->data, .least = *(const float *)least->value, .most = *(const float *)most->value,
    .activate = kernels->activations[form[FUSED_ACTIVATION]],
  };
  return NULL;
}

static FfiError *run_fused_tiles(FfiCall *f, const Fused *c) {
  const int64_t *form = c->form, *in = c->x->dims, *out = c->y->dims;
  for (int axis = 1; axis < 3; axis++) {
    int64_t before = form[FUSED_LOW + axis], after = out[1 + axis] + 2 - in[1 + axis] - before;
    REQUIRE(MIN(before, after) >= 0 && MAX(before, after) <= 2 && form[FUSED_WINDOW + axis] == 3);
  }
  REQUIRE(in[1] == 1 && out[1] == 1 && form[FUSED_GROUPS] == 1);
  REQUIRE(has_constants(c, form[FUSED_KERNEL], TAPS * in[4] * out[4]));
  Winograd *j = zeros(1, sizeof(Winograd));
  if (!j) return no_memory(f);
  *j = (Winograd){
    .work = {.holders = 1, .run = run_winograd, .close = close_winograd}, .kernels = kernels_in_use(),
    .kind = VALUE, .m = (int)form[FUSED_TILE], .nets = 1, .finish = &c->finish,
    .from = {c->x->data, in[2], in[3], in[4], 0}, .to = {c->y->data, out[2], out[3], out[4], 0},
    .before = {form[FUSED_LOW + 1], form[FUSED_LOW + 2]}, .C = in[4], .D = out[4],
    .weights = (float *)c->all->data + form[FUSED_KERNEL],
    .scratch = (float *)c->all->data + form[FUSED_PACKED],
  };
  j->across = divide_up(j->to.columns, j->m);
  j->each = j->across * divide_up(j->to.rows, j->m);
  j->tiles = in[0] * j->each;
  int64_t threads = threads_of(f);
  int ok = prepare_winograd(j, threads);
  int64_t size = j->n * j->n * j->C_padded * j->D_padded;
  int known = has_constants(c, form[FUSED_PACKED], size);
  ok = ok && known && run_chunks(&j->work, f, threads);
  release(&j->work);
  REQUIRE(known);
  return ok ? NULL : no_memory(f);
}

static FfiError *run_fused_lines(FfiCall *f, const Fused *c) {
  Job *j = fused_job(c->form, c->x->dims, c->y->dims, &c->finish);
  if (!j) return no_memory(f);
  j->a = c->x->data, j->scratch = (float *)c->all->data + c->form[FUSED_PACKED], j->out = c->y->data;
  int64_t threads = threads_of(f);
  int ok = prepare(j, threads);
  int known = has_constants(c, c->form[FUSED_PACKED], j->groups * j->window * j->depth * j->D_padded);
  ok = ok && known && run_chunks(&j->work, f, threads);
  release(&j->work);
  REQUIRE(known);
  return ok ? NULL : no_memory(f);
}

FfiError *jaxnet_fused(FfiCall *f) {
  if (no_run(f)) return NULL;
  Fused c = {0};
  FfiError *wrong = read_fused(f, &c);
  if (wrong || !size_of(c.y)) return wrong;
  return c.form[FUSED_TILE] ? run_fused_tiles(f, &c) : run_fused_lines(f, &c);
}
