/* Small steps of a program, one after another, in one call. On a few hundred numbers a step takes less
 * time than XLA needs to begin it.
 *
 * The steps are a list of numbers, which script.py writes: for each its kind, and what `script_numbers` names.
 * All arrays hold float32. A place is the number of a space and how many floats come before it there:
 * spaces are a working memory, the operands and the results. Truth values are 1 and 0. */

#pragma once
#include "levels.h"

enum {
  SCRIPT_AXES = 4,
  SCRIPT_SPACE = 40, /* bits of a place below the number of its space */
  SCRIPT_MOST = 1 << 24, /* floats of an array */
};
typedef enum { MAP, COMBINE, SELECT, MOVE, REDUCE, TIMES, SCRIPT_KINDS } StepKind;

/* How many numbers follow the kind of a step. */
static const int script_numbers[SCRIPT_KINDS] = {
  4,                   /* function, count, from, to */
  7,                   /* function, count, first, whether it is many, second, whether it is many, to */
  4,                   /* count, which, no, to, which holds what is chosen where `which` is true */
  2 + 3 * SCRIPT_AXES, /* from, to, sizes, steps of both */
  5,                   /* function, rows, count, from, to */
  9,                   /* whether w is turned, batch, rows, inner, outputs, x, w, its step by batch, to */
};

typedef struct {
  const FfiCall *call;
  float *memory;
  int64_t size; /* of the memory */
} Script;

/* Where `count` floats from a place on are; NULL if they are not all in its space. */
static float *at_place(const Script *s, int64_t place, int64_t count) {
  int64_t space = place >> SCRIPT_SPACE, before = place & (((int64_t)1 << SCRIPT_SPACE) - 1);
  int64_t operands = s->call->operands.count, size = s->size;
  float *data = s->memory;
  if (space < 0 || space > operands + s->call->results.count || count < 0) return NULL;
  if (space) {
    FfiBuffer **found = space <= operands ? s->call->operands.buffers + space - 1
                                          : s->call->results.buffers + space - 1 - operands;
    size = size_of(*found), data = (*found)->data;
  }
  return before <= size && count <= size - before ? data + before : NULL;
}

/* Whether all sizes are those of small arrays, and so is their product. */
static int are_small(const int64_t *sizes, int64_t count) {
  int64_t product = 1;
  for (int64_t i = 0; i < count; i++) {
    if (sizes[i] < 0 || sizes[i] > SCRIPT_MOST) return 0;
    product *= sizes[i];
    if (product > SCRIPT_MOST) return 0;
  }
  return 1;
}

static int run_map(const Script *s, const ScriptLoops *loops, const int64_t *n) {
  if (n[0] < 0 || n[0] >= SCRIPT_MAPS || !are_small(n + 1, 1)) return 0;
  float *from = at_place(s, n[2], n[1]), *to = at_place(s, n[3], n[1]);
  if (!from || !to) return 0;
  loops->map[n[0]](from, n[1], to);
  return 1;
}

static int run_combine(const Script *s, const ScriptLoops *loops, const int64_t *n) {
  if (n[0] < 0 || n[0] >= SCRIPT_COMBINATIONS || !are_small(n + 1, 1)) return 0;
  float *first = at_place(s, n[2], n[3] ? n[1] : 1), *second = at_place(s, n[4], n[5] ? n[1] : 1);
  float *to = at_place(s, n[6], n[1]);
  if (!first || !second || !to) return 0;
  loops->combine[n[0]](first, n[3], second, n[5], n[1], to);
  return 1;
}

static int run_select(const Script *s, const ScriptLoops *loops, const int64_t *n) {
  if (!are_small(n, 1)) return 0;
  float *which = at_place(s, n[1], n[0]), *no = at_place(s, n[2], n[0]), *to = at_place(s, n[3], n[0]);
  if (!which || !no || !to) return 0;
  loops->select(which, no, n[0], to);
  return 1;
}

/* The floats from the first to the last one that is read or written, by steps per axis. */
static int64_t extent(const int64_t *sizes, const int64_t *steps) {
  int64_t last = 0;
  for (int i = 0; i < SCRIPT_AXES; i++) {
    if (!sizes[i]) return 0;
    if (steps[i] < 0 || steps[i] > SCRIPT_MOST) return -1;
    last += (sizes[i] - 1) * steps[i];
  }
  return last + 1;
}

static void move_line(const float *from, int64_t step_from, int64_t count, float *to, int64_t step_to) {
  if (step_from == 1 && step_to == 1) memcpy(to, from, (size_t)count * sizeof(float));
  else
    for (int64_t i = 0; i < count; i++) to[i * step_to] = from[i * step_from];
}

static int run_move(const Script *s, const ScriptLoops *loops, const int64_t *n) {
  (void)loops;
  const int64_t *sizes = n + 2, *a = sizes + SCRIPT_AXES, *b = a + SCRIPT_AXES;
  if (!are_small(sizes, SCRIPT_AXES)) return 0;
  float *from = at_place(s, n[0], extent(sizes, a)), *to = at_place(s, n[1], extent(sizes, b));
  if (!from || !to) return 0;
  for (int64_t i = 0; i < sizes[0]; i++)
    for (int64_t j = 0; j < sizes[1]; j++)
      for (int64_t k = 0; k < sizes[2]; k++)
        move_line(from + i * a[0] + j * a[1] + k * a[2], a[3], sizes[3],
                  to + i * b[0] + j * b[1] + k * b[2], b[3]);
  return 1;
}

static int run_reduce(const Script *s, const ScriptLoops *loops, const int64_t *n) {
  if (n[0] < 0 || n[0] >= SCRIPT_REDUCTIONS || !are_small(n + 1, 2)) return 0;
  float *from = at_place(s, n[3], n[1] * n[2]), *to = at_place(s, n[4], n[1]);
  if (!from || !to) return 0;
  loops->reduce[n[0]](from, n[1], n[2], to);
  return 1;
}

static int run_times(const Script *s, const ScriptLoops *loops, const int64_t *n) {
  int64_t batch = n[1], rows = n[2], inner = n[3], outputs = n[4], weights = inner * outputs, step = n[7];
  if (n[0] < 0 || n[0] > 1 || !are_small(n + 1, 3) || !are_small(n + 3, 2)) return 0;
  if ((step && step != weights) || !are_small((int64_t[]){batch, rows, outputs}, 3)) return 0;
  if (!are_small((int64_t[]){batch, weights}, 2)) return 0;
  float *x = at_place(s, n[5], batch * rows * inner), *w = at_place(s, n[6], step ? batch * weights : weights);
  float *to = at_place(s, n[8], batch * rows * outputs);
  if (!x || !w || !to) return 0;
  for (int64_t b = 0; b < batch; b++)
    loops->times[n[0]](x + b * rows * inner, w + b * step, rows, inner, outputs, to + b * rows * outputs);
  return 1;
}

typedef int RunStep(const Script *, const ScriptLoops *, const int64_t *numbers);
static RunStep *const script_steps[SCRIPT_KINDS] = {
  run_map, run_combine, run_select, run_move, run_reduce, run_times,
};

/* Runs all steps; 0 if one of them is not as expected. */
static int run_script(const Script *s, const int64_t *numbers, int64_t count) {
  const ScriptLoops *loops = kernels_in_use()->script;
  for (const int64_t *end = numbers + count; numbers < end;) {
    int64_t kind = *numbers++;
    if (kind < 0 || kind >= SCRIPT_KINDS || end - numbers < script_numbers[kind]) return 0;
    if (!script_steps[kind](s, loops, numbers)) return 0;
    numbers += script_numbers[kind];
  }
  return 1;
}

static int all_float32(const FfiBuffers *arrays) {
  for (int64_t i = 0; i < arrays->count; i++)
    if (arrays->buffers[i]->type != FFI_F32) return 0;
  return 1;
}

FfiError *jaxnet_script(FfiCall *f) {
  if (no_run(f)) return NULL;
  REQUIRE(f->options.count == 1 && f->options.kinds[0] == FFI_ARRAY && kernels_in_use());
  const FfiArray *array = f->options.values[0];
  REQUIRE(array->type == FFI_S64 && array->count > 0); /* the floats of the memory, and the steps */
  const int64_t *numbers = array->data;
  REQUIRE(numbers[0] >= 0 && numbers[0] <= SCRIPT_MOST);
  REQUIRE(all_float32(&f->operands) && all_float32(&f->results));
  Script s = {f, new_vectors(round_up(numbers[0] + 1, 16) * 4), numbers[0]};
  if (!s.memory) return no_memory(f);
  int good = run_script(&s, numbers + 1, (int64_t)array->count - 1);
  free_vectors(s.memory);
  REQUIRE(good);
  return NULL;
}
