/* Runs the handlers of jaxnet/ops/native/kernels.c on random arrays, without JAX; see native.py.
 *
 * Each array ends where a page begins that cannot be touched, or begins where such a page ends. The
 * results are compared with plain loops in double precision, and those of several threads bit for
 * bit with those of one. A quarter of the cases are wild: some operands hold NaN and infinity, none of
 * which may be lost. Kernels may make more: they multiply zeros around an array as well. */

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../jaxnet/ops/native/kernels.c"

static uint64_t state;
static long draw(long low, long high) { /* both included */
  state = state * 6364136223846793005u + 1442695040888963407u;
  return low + (long)((state >> 33) % (uint64_t)(high - low + 1));
}
static long pick(const long *from, long n) { return from[draw(0, n - 1)]; }
#define PICK(...) pick((const long[]){__VA_ARGS__}, sizeof((long[]){__VA_ARGS__}) / sizeof(long))

/* XLA's side of the interface. */

struct FfiError {
  FfiCode code;
  char message[200];
};

static int threads;
static atomic_int running;

static FfiError *create(FfiNewError *args) {
  FfiError *made = calloc(1, sizeof(*made));
  made->code = args->code;
  snprintf(made->message, sizeof(made->message), "%s", args->message);
  return made;
}
static void destroy(FfiDropError *args) { free(args->error); }

typedef struct {
  FfiTask *task;
  void *data;
  int late;
} Call;

static void *call(void *given) {
  Call c = *(Call *)given;
  free(given);
  if (c.late) sched_yield();
  c.task(c.data);
  atomic_fetch_sub(&running, 1);
  return NULL;
}
static FfiError *schedule(FfiSchedule *args) {
  Call *c = malloc(sizeof(*c));
  *c = (Call){args->task, args->data, (int)draw(0, 1)};
  pthread_t thread;
  atomic_fetch_add(&running, 1);
  if (pthread_create(&thread, NULL, call, c)) abort();
  pthread_detach(thread);
  return NULL;
}
static FfiError *count_threads(FfiCountThreads *args) {
  if (!threads) {
    FfiNewError none = {.message = "no pool", .code = FFI_INVALID_ARGUMENT};
    return create(&none);
  }
  *args->threads = threads;
  return NULL;
}

/* Arrays beside pages that cannot be touched. */

typedef struct {
  float *data;
  char *map;
  size_t bytes;
  long n;
} Guarded;

static Guarded guarded(long n, size_t size) {
  Guarded g = {.n = n};
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t inside = (size + page - 1) / page * page;
  g.bytes = inside + 2 * page;
  g.map = mmap(NULL, g.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  mprotect(g.map, page, PROT_NONE);
  mprotect(g.map + page + inside, page, PROT_NONE);
  g.data = (float *)(g.map + page + (draw(0, 3) ? inside - size : 0));
  return g;
}

/* T of jaxnet/ops/convolution.py: adds to the wanted array. */
static void plain(const int64_t *form, int64_t dims[3][RANK], double *a[3]) {
  const int64_t *x = dims[0], *w = dims[1], *y = dims[2];
  long groups = form[GROUPS], out = w[5] / groups;
  long pixels = y[2] * y[3] * y[4], taps = w[1] * w[2] * w[3];
  for (long n = 0; n < x[0] * x[1]; n++)
    for (long p = 0; p < pixels; p++)
      for (long k = 0; k < taps; k++) {
        long at[] = {p / y[4] / y[3], p / y[4] % y[3], p % y[4]};
        long tap[] = {k / w[3] / w[2], k / w[3] % w[2], k % w[3]}, in[3];
        int inside = 1;
        for (int i = 0; i < 3; i++) {
          long here = at[i] * form[STRIDE + i] + tap[i] * form[DILATION + i] - form[LOW + i];
          in[i] = here / form[GAPS + i];
          inside &= here >= 0 && here % form[GAPS + i] == 0 && in[i] < x[2 + i];
        }
        if (!inside) continue;
        long pixel = (((n * x[2] + in[0]) * x[3] + in[1]) * x[4] + in[2]) * x[5];
        for (long i = 0; i < w[4]; i++)
          for (long o = 0; o < w[5]; o++) {
            double *to[3] = {
              a[0] + pixel + o / out * w[4] + i,
              a[1] + ((n / x[1] * taps + k) * w[4] + i) * w[5] + o,
              a[2] + (n * pixels + p) * y[5] + o,
            };
            if (form[KIND] == VALUE) *to[2] += *to[0] * *to[1];
            else if (form[KIND] == INPUT) *to[0] += *to[1] * *to[2];
            else *to[1] += *to[0] * *to[2];
          }
      }
}

static FfiApi api = {
  .new_error = create, .drop_error = destroy, .schedule = schedule, .count_threads = count_threads,
};
static double worst;
static const double ANY = 1e300; /* stands for an exact number that is not compared */
static int wild; /* whether operands of this case may hold NaN and infinity */

/* At times a number that is not finite, else x. */
static double maybe_wild(double x) {
  const double numbers[] = {NAN, INFINITY, -INFINITY};
  return wild && !draw(0, 99) ? numbers[draw(0, 2)] : x;
}

typedef struct {
  Guarded array;
  double *exact;
  float *first; /* what one thread computed */
  int64_t dims[RANK];
  FfiBuffer buffer;
} Array;

static void make(Array *a, int rank, const int64_t *dims, int known) {
  memcpy(a->dims, dims, (size_t)rank * sizeof(*dims));
  long n = 1;
  for (int i = 0; i < rank; i++) n *= dims[i];
  a->array = guarded(n, (size_t)n * 4);
  a->exact = calloc((size_t)a->array.n + 1, sizeof(double));
  a->first = NULL;
  for (long k = 0; k < a->array.n; k++) {
    a->array.data[k] = (float)draw(-1000, 1000) / 1000;
    if (known) a->exact[k] = a->array.data[k] = (float)maybe_wild(a->array.data[k]);
  }
  a->buffer = (FfiBuffer){
    .type = FFI_F32, .data = a->array.data, .rank = rank, .dims = a->dims,
  };
}

/* Makes an array one of bfloat16, rounded towards zero. */
static void halve(Array *a, int known) {
  Guarded wide = a->array;
  a->array = guarded(wide.n, (size_t)wide.n * 2);
  for (long k = 0; k < wide.n; k++) {
    memcpy((char *)a->array.data + 2 * k, (char *)(wide.data + k) + 2, 2);
    memset(wide.data + k, 0, 2);
    if (known) a->exact[k] = wide.data[k];
  }
  munmap(wide.map, wide.bytes);
  a->buffer.type = FFI_BF16;
  a->buffer.data = a->array.data;
}

/* Makes an array one of float16, of numbers that it holds exactly. */
static void narrow(Array *a) {
  Guarded wide = a->array;
  a->array = guarded(wide.n, (size_t)wide.n * 2);
  for (long k = 0; k < wide.n; k++) {
    float drawn = (float)draw(1, 1000) / 1024;
    uint32_t bits;
    memcpy(&bits, &drawn, 4);
    uint16_t half = (uint16_t)((bits >> 13) - (112 << 10));
    memcpy((char *)a->array.data + 2 * k, &half, 2);
    a->exact[k] = drawn;
  }
  munmap(wide.map, wide.bytes);
  a->buffer.type = FFI_F16;
  a->buffer.data = a->array.data;
}

static float number(const Array *a, long k) {
  if (a->buffer.type == FFI_F32) return a->array.data[k];
  float wide = 0;
  memcpy((char *)&wide + 2, (char *)a->array.data + 2 * k, 2);
  return wide;
}

static void drop(Array *a) {
  free(a->exact);
  free(a->first);
  munmap(a->array.map, a->array.bytes);
}

/* Whether the results of another run have the same bits; any NaN is NaN. */
static int same(const Array *a, const void *other) {
  Array b = *a;
  b.array.data = (float *)other;
  if (!memcmp(a->array.data, other, (size_t)a->array.n * (a->buffer.type == FFI_BF16 ? 2 : 4))) return 1;
  for (long k = 0; k < a->array.n; k++) {
    float x = number(a, k), y = number(&b, k);
    if (memcmp(&x, &y, 4) && !(isnan(x) && isnan(y))) return 0;
  }
  return 1;
}

/* How far a number is from the exact one. */
static double off_by(double found, double exact, int half) {
  if (found == exact || exact == ANY) return 0;
  if (wild && !isfinite(exact)) return isfinite(found) ? INFINITY : 0;
  if (wild && !isfinite(found)) return 0;
  double off = fabs(found - exact);
  return half ? MAX(0, off - fabs(exact) / 256) : off; /* of rounding */
}

/* Runs a handler by several numbers of threads; whether all results are right. */
static int highest_only;    /* whether lower instruction sets do not have this */
static double largest_sum; /* of what was bounded afterwards */
static int only_level;      /* 0, or the instruction set of a case: packed weights are of one */
static int right(const char *name, long one, FfiError *handler(FfiCall *),
                 FfiCall *frame, Array **results, int count) {
  int best = only_level ? only_level : jaxnet_level(), good = 1;
  jaxnet_use(best);
  for (int run = 0; good && run < 5; run++) {
    threads = (int[]){1, 0, 2, 8, 3}[run];
    int other = run == 4; /* the lower instruction set */
    if (other && (best < 3 || highest_only)) break;
    if (other) jaxnet_use(2);
    for (int i = 0; i < count; i++) {
      int half = results[i]->buffer.type == FFI_BF16;
      memset(results[i]->array.data, 0xff, (size_t)results[i]->array.n * (half ? 2 : 4));
    }
    FfiError *failed = handler(frame);
    jaxnet_use(best);
    if (failed) return printf("%s %ld: %s\n", name, one, failed->message), 0;
    for (int i = 0; good && i < count; i++) {
      Array *a = results[i];
      int half = a->buffer.type == FFI_BF16;
      size_t bytes = (size_t)a->array.n * (half ? 2 : 4);
      if (!a->first) a->first = memcpy(malloc(bytes + 1), a->array.data, bytes);
      if (!other && !same(a, a->first))
        good = 0, printf("%s %ld: %d threads have other bits\n", name, one, threads);
      double scale = MAX(1, largest_sum), error = 0;
      for (long k = 0; k < a->array.n; k++) {
        double off = off_by(number(a, k), a->exact[k], half);
        if (!(off <= error)) error = off;
        if (isfinite(a->exact[k]) && a->exact[k] != ANY) scale = MAX(scale, fabs(a->exact[k]));
      }
      if (!(error / scale < 2e-5)) /* 4 bits multiply x in steps of 2**-22 */
        good = 0, printf("%s %ld, result %d: error %g\n", name, one, i, error / scale);
      worst = MAX(worst, error / scale);
    }
  }
  while (atomic_load(&running)) sched_yield();
  return good;
}

#define FEATURES PICK(1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 20, 24, 31, 32, 33, 40, 48, 64, 70)

/* Runs a handler of convolutions; Winograd's are of images, without frames. */
static int convolved(const char *name, long one, FfiError *handler(FfiCall *), int half,
                     const int64_t *form, int64_t dims[3][RANK], int64_t *given, size_t count) {
  Array arrays[3], *wanted = NULL;
  double *exact[3];
  FfiBuffer *operands[2], *results[1];
  for (int i = 0, operand = 0; i < 3; i++) {
    int known = i != (form[KIND] == VALUE ? 2 : form[KIND] == INPUT ? 0 : 1);
    make(arrays + i, RANK, dims[i], known);
    if (half && !(handler == jaxnet_winograd && i == 1)) halve(arrays + i, known);
    exact[i] = arrays[i].exact;
    if (known) operands[operand++] = &arrays[i].buffer;
    else results[0] = &(wanted = arrays + i)->buffer;
  }
  plain(form, dims, exact);
  for (int i = 0; i < 3 && handler == jaxnet_winograd; i++) {
    int frames = i == 1 ? 1 : 2;
    size_t after = (size_t)(RANK - 1 - frames) * sizeof(int64_t);
    memmove(arrays[i].dims + frames, arrays[i].dims + frames + 1, after);
    arrays[i].buffer.rank = RANK - 1;
  }
  FfiArray numbers = {FFI_S64, count, given};
  FfiOption types[] = {FFI_ARRAY};
  void *attributes[] = {&numbers};
  FfiCall frame = {
    .api = &api, .stage = FFI_EXECUTE,
    .operands = {.count = 2, .buffers = operands}, .results = {.count = 1, .buffers = results},
    .options = {.count = 1, .kinds = types, .values = attributes},
  };
  highest_only = half && handler != jaxnet_winograd;
  int good = right(name, one, handler, &frame, &wanted, 1);
  highest_only = 0;
  for (int i = 0; i < 3; i++) drop(arrays + i);
  return good;
}

static int convolution_case(long one) {
  int64_t form[NUMBERS], dims[3][RANK], flat = draw(0, 1), one_tap = !draw(0, 5);
  long groups = form[GROUPS] = PICK(1, 1, 1, 1, 2, 3, 5, 16, 21, 40);
  long e = PICK(1, 1, 1, 2), n = draw(1, 4), in = groups > 3 ? PICK(1, 1, 2, 3, 4, 8) : FEATURES;
  long out = groups * (groups > 3 ? PICK(1, 1, 2, 3, 4, 8) : FEATURES);
  form[KIND] = draw(0, 2);
  for (int i = 0; i < 3; i++) {
    long size, window, room;
    do {
      size = i == 2 ? draw(1, 40) : i ? PICK(1, 2, 3, 5, 9) : flat ? 1 : draw(1, 5);
      window = one_tap ? 1 : i == 2 ? draw(1, 7) : i ? draw(1, 6) : flat ? 1 : draw(1, 3);
      form[STRIDE + i] = PICK(1, 1, 2, 3);
      form[DILATION + i] = PICK(1, 1, 1, 2, 3);
      form[GAPS + i] = form[KIND] == KERNEL ? 1 : PICK(1, 1, 1, 2, 3, 4);
      form[LOW + i] = draw(-2, 5);
      room = (size - 1) * form[GAPS + i] + 1 + form[LOW + i] + draw(-2, 5);
      room -= (window - 1) * form[DILATION + i];
    } while (room < 1);
    dims[0][2 + i] = size;
    dims[1][1 + i] = window;
    dims[2][2 + i] = (room - 1) / form[STRIDE + i] + 1;
  }
  dims[0][0] = dims[1][0] = dims[2][0] = e;
  dims[0][1] = dims[2][1] = n;
  dims[0][5] = in * groups;
  dims[1][4] = in;
  dims[1][5] = dims[2][5] = out;
  int half = groups == 1 && multiplies_halves() && draw(0, 1);
  return convolved("convolution", one, jaxnet_conv, half, form, dims, form, NUMBERS);
}

/* Matrices of bfloat16: a convolution with one tap. */
static int product_case(long one) {
  int64_t form[NUMBERS] = {draw(0, 2), 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1};
  int64_t e = PICK(1, 1, 2), rows, in, out;
  do {
    rows = PICK(1, 2, 5, 14, 15, 30, 70, 260, 515, 2100);
    in = PICK(1, 2, 3, 16, 31, 256, 300, 515, 2100);
    out = PICK(1, 2, 3, 15, 16, 17, 33, 64, 270);
  } while (rows * in * out > 1000000);
  int64_t dims[3][RANK] = {{e, 1, 1, 1, rows, in}, {e, 1, 1, 1, in, out}, {e, 1, 1, 1, rows, out}};
  if (!multiplies_halves()) return 1;
  return convolved("product", one, jaxnet_conv, 1, form, dims, form, NUMBERS);
}

static int winograd_case(long one) {
  int64_t form[NUMBERS] = {draw(0, 2), 1, 1, 1, 1, 1, 1, 1, 0, draw(0, 2), draw(0, 2), 1, 1, 1};
  int64_t numbers[] = {form[KIND], PICK(2, 4), form[LOW + 1], form[LOW + 2]};
  int64_t e = PICK(1, 1, 2, 3), n = PICK(1, 2, 3, 9), in = FEATURES, out = FEATURES;
  int64_t dims[3][RANK] = {{e, n, 1, 0, 0, in}, {e, 1, 3, 3, in, out}, {e, n, 1, 0, 0, out}};
  for (int i = 1; i < 3; i++)
    do {
      dims[0][2 + i] = PICK(1, draw(1, 20));
      dims[2][2 + i] = dims[0][2 + i] + form[LOW + i] + draw(0, 2) - 2;
    } while (dims[2][2 + i] < 1);
  return convolved("winograd", one, jaxnet_winograd, (int)draw(0, 1), form, dims, numbers, WINOGRAD_NUMBERS);
}

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

/* Activations by their numbers in fused.py. */
static double activated(long which, double x) {
  double six = fmin(fmax(x + 3, 0), 6) / 6;
  switch (which) {
    case 1: return x * sigmoid(x);
    case 2: return x * six;
    case 3: return x * erfc(-x / sqrt(2)) / 2;
    case 4: return x * (1 + tanh(0.7978845608 * (x + 0.044715 * x * x * x))) / 2;
    case 5: return sigmoid(x);
    case 6: return six;
    case 7: return tanh(x);
    default: return x;
  }
}

/* An array as it is, without the axis of nets. */
static void drop_nets(Array *a) {
  memmove(a->dims, a->dims + 1, (RANK - 1) * sizeof(int64_t));
  a->buffer.rank = RANK - 1;
}

/* The number of packed weights. */
static int64_t packed_size(const int64_t *form) {
  int64_t lanes = kernels_in_use()->lanes, m = form[FUSED_TILE];
  int64_t inputs = round_up(form[FUSED_INPUTS], lanes), outputs = round_up(form[FUSED_OUTPUTS], lanes);
  if (m) return (m + 2) * (m + 2) * inputs * outputs;
  const int64_t one[] = {1, 1, 1, 1};
  Job *j = fused_job(form, one, one, NULL);
  merge_groups(j);
  int64_t size = j->groups * j->window * j->depth * round_up(j->D, lanes);
  release(&j->work);
  return size;
}

/* Packed weights, their bias and the weights themselves, in one array; `form` gets their places. */
static int pack_constants(int64_t *form, Array *w, Array *bias, Array *constants) {
  int64_t lanes = kernels_in_use()->lanes, out = form[FUSED_OUTPUTS], size = packed_size(form);
  int64_t with_zeros = round_up(out, lanes) + lanes, all;
  Array packed;
  make(&packed, 1, &size, 0);
  FfiArray numbers = {FFI_S64, FUSED_NUMBERS, form};
  FfiOption types[] = {FFI_ARRAY};
  void *attributes[] = {&numbers};
  FfiBuffer *operands[] = {&w->buffer}, *results[] = {&packed.buffer};
  FfiCall frame = {
    .api = &api, .stage = FFI_EXECUTE,
    .operands = {.count = 1, .buffers = operands}, .results = {.count = 1, .buffers = results},
    .options = {.count = 1, .kinds = types, .values = attributes},
  };
  FfiError *failed = jaxnet_pack(&frame);
  if (failed) return printf("pack: %s\n", failed->message), 0;
  form[FUSED_PACKED] = 0;
  form[FUSED_BIAS] = round_up(size, 16);
  form[FUSED_KERNEL] = form[FUSED_BIAS] + with_zeros;
  all = form[FUSED_KERNEL] + w->array.n;
  make(constants, 1, &all, 0);
  float *to = constants->array.data;
  memcpy(to, packed.array.data, (size_t)size * 4);
  memset(to + form[FUSED_BIAS], 0, (size_t)with_zeros * 4);
  memcpy(to + form[FUSED_BIAS], bias->array.data, (size_t)out * 4);
  memcpy(to + form[FUSED_KERNEL], w->array.data, (size_t)w->array.n * 4);
  drop(&packed);
  return 1;
}

/* One axis of a fused call: its size, window and the rest. */
static void draw_axis(int i, int winograd, int flat, int one_tap, int64_t *form, int64_t *of_plain,
                      int64_t dims[3][RANK]) {
  int64_t size, window, step, apart, low, high, room;
  do {
    size = i == 2 ? draw(1, 40) : PICK(1, 2, 5, 9, 20), window = i == 2 ? draw(1, 7) : draw(1, 5);
    step = PICK(1, 1, 2, 3), apart = PICK(1, 1, 1, 2, 3), low = draw(-1, 4), high = draw(-1, 4);
    if (winograd) window = 3, step = apart = 1, low = draw(0, 2), high = draw(0, 2);
    if (one_tap) window = 1;
    if (!i) size = draw(1, 4), window = draw(1, 3);
    if (!i && flat) size = window = step = 1, low = high = 0;
    room = size + low + high - (window - 1) * apart;
  } while (room < 1);
  form[FUSED_STRIDE + i] = of_plain[STRIDE + i] = step;
  form[FUSED_DILATION + i] = of_plain[DILATION + i] = apart;
  form[FUSED_LOW + i] = of_plain[LOW + i] = low;
  form[FUSED_WINDOW + i] = window;
  of_plain[GAPS + i] = 1;
  dims[0][2 + i] = size, dims[1][1 + i] = window, dims[2][2 + i] = (room - 1) / step + 1;
}

/* What a fused call is to compute; dims are those of x, w and y with an axis of nets. */
static void draw_fused(int64_t *form, int64_t *of_plain, int64_t dims[3][RANK]) {
  int winograd = !draw(0, 2), flat = winograd || draw(0, 1), one_tap = !winograd && !draw(0, 3);
  long groups = winograd ? 1 : PICK(1, 1, 1, 2, 3, 16, 32, 48);
  long in = groups > 3 ? PICK(1, 1, 1, 2) : FEATURES, out = groups > 3 ? PICK(1, 1, 1, 3) : FEATURES;
  form[FUSED_TILE] = winograd ? PICK(2, 4) : 0;
  form[FUSED_GROUPS] = of_plain[GROUPS] = groups;
  form[FUSED_ACTIVATION] = draw(0, ACTIVATIONS - 1);
  for (int i = 0; i < 3; i++) draw_axis(i, winograd, flat, one_tap, form, of_plain, dims);
  of_plain[KIND] = VALUE;
  dims[0][0] = dims[1][0] = dims[2][0] = 1;
  dims[0][1] = dims[2][1] = PICK(1, 1, 2, 3, 9);
  dims[0][5] = form[FUSED_INPUTS] = in * groups, dims[1][4] = in;
  dims[1][5] = dims[2][5] = form[FUSED_OUTPUTS] = out * groups;
}

/* The exact results of a convolution, with what follows it. */
static void follow(const int64_t *form, float least, float most, const Array *bias, const Array *added, Array *y) {
  for (long i = 0; i < y->array.n; i++) {
    double sum = y->exact[i] + bias->exact[i % form[FUSED_OUTPUTS]] + (added ? added->exact[i] : 0);
    if (isfinite(sum)) largest_sum = MAX(largest_sum, fabs(sum));
    double bounded = sum < least ? least : sum > most ? most : sum;
    y->exact[i] = activated(form[FUSED_ACTIVATION], bounded);
  }
}

static int fused_case(long one) {
  int64_t form[FUSED_NUMBERS] = {0}, of_plain[NUMBERS], dims[3][RANK];
  int was_wild = wild, adds = (int)draw(0, 1);
  float least = draw(0, 1) ? -INFINITY : (float)draw(-2, 0), most = draw(0, 1) ? INFINITY : (float)draw(1, 6);
  Array x, w, y, bias, added, constants;
  draw_fused(form, of_plain, dims);
  make(&x, RANK, dims[0], 1);
  make(&added, RANK, dims[2], 1);
  make(&y, RANK, dims[2], 0);
  wild = 0; /* weights are finite */
  make(&w, RANK, dims[1], 1);
  make(&bias, 1, dims[2] + 5, 1);
  wild = was_wild;
  plain(of_plain, dims, (double *[]){x.exact, w.exact, y.exact});
  follow(form, least, most, &bias, adds ? &added : NULL, &y);
  drop_nets(&x), drop_nets(&w), drop_nets(&added), drop_nets(&y);
  only_level = jaxnet_level() > 2 && draw(0, 1) ? 2 : 0;
  if (only_level) jaxnet_use(only_level);
  int good = pack_constants(form, &w, &bias, &constants);
  FfiArray numbers = {FFI_S64, FUSED_NUMBERS, form};
  FfiScalar low = {FFI_F32, &least}, high = {FFI_F32, &most};
  FfiOption types[] = {FFI_ARRAY, FFI_SCALAR, FFI_SCALAR};
  void *attributes[] = {&numbers, &low, &high};
  FfiBuffer *operands[] = {&x.buffer, &constants.buffer, &added.buffer}, *results[] = {&y.buffer};
  Array *made[] = {&y};
  FfiCall frame = {
    .api = &api, .stage = FFI_EXECUTE,
    .operands = {.count = 2 + adds, .buffers = operands}, .results = {.count = 1, .buffers = results},
    .options = {.count = 3, .kinds = types, .values = attributes},
  };
  highest_only = 1;
  good = good && right("fused", one, jaxnet_fused, &frame, made, 1);
  highest_only = only_level = 0, largest_sum = 0;
  jaxnet_use(jaxnet_level());
  drop(&x), drop(&w), drop(&y), drop(&bias), drop(&added), drop(&constants);
  return good;
}

static int lstm_case(long one) {
  int back = (int)draw(0, 1), masked = (int)draw(0, 1), slopes = back || draw(0, 1);
  int64_t T = draw(1, 5), B = PICK(1, 2, 3, 7, 14, 16, 29, 33, 70), F = FEATURES;
  const int64_t wide[] = {T, B, 4 * F}, each[] = {T, B, F}, row[] = {B, F}, weights[] = {F, 4 * F};
  enum { BY_GATES, BY_OLD_C, BY_C, U, BIAS, H, C, LAST, PRE, MADE, C0, H0, ARRAYS };
  Array a[ARRAYS];
  make(a + BY_GATES, 3, wide, back);
  make(a + BY_OLD_C, 3, each, back);
  make(a + BY_C, 3, each, back);
  make(a + U, 2, weights, 1);
  make(a + BIAS, 1, weights + 1, 1);
  make(a + H, 3, each, back);
  make(a + C, 2, row, back);
  make(a + LAST, 2, row, 1);
  make(a + PRE, 3, wide, !back);
  make(a + MADE, 3, wide, 0);
  make(a + C0, 2, row, !back);
  make(a + H0, 2, row, !back);
  int64_t flags[] = {(T * B + 3) / 4};
  Array mask;
  make(&mask, 1, flags, 1);
  uint8_t *keep = (uint8_t *)mask.array.data + flags[0] * 4 - T * B;
  for (long k = 0; k < T * B; k++) keep[k] = !masked || draw(0, 2);
  const int64_t mask_dims[] = {T, B};
  mask.buffer = (FfiBuffer){
    .type = FFI_PRED, .data = keep, .rank = 2, .dims = (int64_t *)mask_dims,
  };
  double h[70], c[70], gates[4][70];
  for (long b = 0; b < B; b++) {
    for (long u = 0; u < F; u++) {
      h[u] = a[back ? LAST : H0].exact[b * F + u];
      c[u] = a[back ? C : C0].exact[b * F + u];
    }
    for (long step = 0; step < T; step++) {
      long t = back ? T - 1 - step : step, at = (t * B + b) * F, kept = keep[t * B + b];
      if (back) {
        for (long u = 0; u < F; u++) {
          h[u] += a[H].exact[at + u];
          double by_c = c[u] + a[BY_C].exact[at + u] * h[u];
          for (int g = 0; g < 4; g++)
            gates[g][u] = kept ? a[BY_GATES].exact[4 * at + g * F + u] * (g < 3 ? by_c : h[u]) : 0;
          if (kept) c[u] = a[BY_OLD_C].exact[at + u] * by_c;
        }
        for (long u = 0; u < F; u++) {
          double sum = 0;
          for (int g = 0; g < 4; g++)
            for (long v = 0; v < F; v++) {
              sum += gates[g][v] * a[U].exact[(u * 4 + g) * F + v];
              a[MADE].exact[4 * at + g * F + v] = gates[g][v];
            }
          if (kept) h[u] = sum;
        }
        continue;
      }
      for (int g = 0; g < 4; g++)
        for (long u = 0; u < F; u++) {
          double sum = a[PRE].exact[4 * at + g * F + u] + a[BIAS].exact[g * F + u];
          for (long v = 0; v < F; v++) sum += h[v] * a[U].exact[(v * 4 + g) * F + u];
          gates[g][u] = g == 2 ? tanh(sum) : sigmoid(sum);
        }
      for (long u = 0; u < F; u++) {
        double i = gates[0][u], f = gates[1][u], g = gates[2][u], o = gates[3][u];
        double new = f * c[u] + i * g, squashed = tanh(new);
        double *to = a[BY_GATES].exact + 4 * at + u;
        to[0] = g * i * (1 - i);
        to[F] = c[u] * f * (1 - f);
        to[2 * F] = i * (1 - g * g);
        to[3 * F] = squashed * o * (1 - o);
        a[BY_OLD_C].exact[at + u] = f;
        a[BY_C].exact[at + u] = o * (1 - squashed * squashed);
        if (kept) c[u] = new, h[u] = o * squashed;
        a[H].exact[at + u] = h[u];
      }
    }
    for (long u = 0; u < F; u++) {
      a[back ? C0 : C].exact[b * F + u] = c[u];
      if (back) a[H0].exact[b * F + u] = h[u];
    }
  }
  const int forward_in[] = {PRE, U, BIAS, C0, H0}, forward_out[] = {H, C, BY_GATES, BY_OLD_C, BY_C};
  const int back_in[] = {BY_GATES, BY_OLD_C, BY_C, U, H, C, LAST}, back_out[] = {MADE, C0, H0};
  int ins = back ? 7 : 5, outs = back ? 3 : slopes ? 5 : 2;
  FfiBuffer *operands[8], *results[5];
  Array *made[5];
  for (int i = 0; i < ins; i++) operands[i] = &a[(back ? back_in : forward_in)[i]].buffer;
  for (int i = 0; i < outs; i++)
    results[i] = &(made[i] = a + (back ? back_out : forward_out)[i])->buffer;
  operands[ins] = &mask.buffer;
  FfiCall frame = {
    .api = &api, .stage = FFI_EXECUTE,
    .operands = {.count = ins + masked, .buffers = operands}, .results = {.count = outs, .buffers = results},
  };
  int good = right("lstm", one, back ? jaxnet_lstm_back : jaxnet_lstm, &frame, made, outs);
  for (int i = 0; i < ARRAYS; i++) drop(a + i);
  drop(&mask);
  return good;
}

static int rnn_case(long one) {
  int back = (int)draw(0, 1), masked = (int)draw(0, 1), slopes = back || draw(0, 1);
  int64_t T = draw(1, 5), B = PICK(1, 2, 3, 7, 14, 16, 29, 33, 70), F = FEATURES;
  const int64_t each[] = {T, B, F}, row[] = {B, F}, weights[] = {F, F};
  enum { PRE, U, BIAS, H0, H, SLOPES, D_PRE, D_H0, ARRAYS };
  Array a[ARRAYS], mask;
  make(a + PRE, 3, each, 1);
  make(a + U, 2, weights, 1);
  for (long k = 0; k < F * F; k++) a[U].exact[k] = a[U].array.data[k] /= 4; /* errors stay small */
  make(a + BIAS, 1, weights, 1);
  make(a + H0, 2, row, 1);
  make(a + H, 3, each, back);
  make(a + SLOPES, 3, each, back);
  make(a + D_PRE, 3, each, 0);
  make(a + D_H0, 2, row, 0);
  int64_t flags[] = {(T * B + 3) / 4}, mask_dims[] = {T, B};
  make(&mask, 1, flags, 1);
  uint8_t *keep = (uint8_t *)mask.array.data + flags[0] * 4 - T * B;
  for (long k = 0; k < T * B; k++) keep[k] = !masked || draw(0, 2);
  mask.buffer = (FfiBuffer){
    .type = FFI_PRED, .data = keep, .rank = 2, .dims = mask_dims,
  };
  for (long b = 0; b < B; b++) {
    double h[70], d[70];
    for (long u = 0; u < F; u++) h[u] = a[H0].exact[b * F + u];
    for (long step = 0; step < T; step++) {
      long t = back ? T - 1 - step : step, at = (t * B + b) * F, kept = keep[t * B + b];
      for (long u = 0; u < F; u++) {
        d[u] = a[PRE].exact[at + u] + a[BIAS].exact[u];
        if (back) {
          h[u] += a[H].exact[at + u];
          a[D_PRE].exact[at + u] = d[u] = kept ? a[SLOPES].exact[at + u] * h[u] : 0;
        } else
          for (long v = 0; v < F; v++) d[u] += h[v] * a[U].exact[v * F + u];
      }
      for (long u = 0; u < F; u++) {
        double sum = 0;
        for (long v = 0; back && v < F; v++) sum += d[v] * a[U].exact[u * F + v];
        if (kept) h[u] = back ? sum : tanh(d[u]);
        if (back) continue;
        a[H].exact[at + u] = h[u];
        a[SLOPES].exact[at + u] = 1 - tanh(d[u]) * tanh(d[u]);
      }
    }
    for (long u = 0; u < F; u++) a[D_H0].exact[b * F + u] = h[u];
  }
  const int ins[2][4] = {{PRE, U, BIAS, H0}, {SLOPES, U, H, H0}}, outs[2][2] = {{H, SLOPES}, {D_PRE, D_H0}};
  FfiBuffer *operands[5], *results[2];
  Array *made[2];
  for (int i = 0; i < 4; i++) operands[i] = &a[ins[back][i]].buffer;
  operands[4] = &mask.buffer;
  for (int i = 0; i < 2; i++) results[i] = &(made[i] = a + outs[back][i])->buffer;
  FfiCall frame = {
    .api = &api, .stage = FFI_EXECUTE,
    .operands = {.count = 4 + masked, .buffers = operands}, .results = {.count = 1 + slopes, .buffers = results},
  };
  int good = right("rnn", one, jaxnet_rnn, &frame, made, 1 + slopes);
  for (int i = 0; i < ARRAYS; i++) drop(a + i);
  drop(&mask);
  return good;
}

static int gemv_case(long one) {
  Numbers numbers = (Numbers)draw(F32, INT4);
  int transposed = (int)draw(0, 1), s4 = (int)draw(0, 1), fields = 1 << numbers;
  int64_t rows = draw(1, 9), inputs = PICK(1, 2, 3, 7, 8, 16, 33, 64, 100, 129, 200, 256, 500);
  int64_t outputs = PICK(1, 2, 3, 5, 8, 15, 16, 17, 31, 40, 64, 70, 130, 200, 300, 4100);
  int64_t size = PICK(8, 16, 32, 64, 1000), groups = numbers < INT8 ? 1 : (inputs + size - 1) / size;
  if (groups == 1) size = inputs;
  int64_t wide[] = {transposed ? outputs : inputs, transposed ? inputs : outputs};
  if (numbers == INT4 && wide[1] % 2) s4 = 0;
  int64_t in[] = {rows, inputs}, out[] = {rows, outputs};
  int64_t grid[] = {transposed ? outputs : groups, transposed ? groups : outputs};
  int64_t dims[] = {wide[0], numbers == INT4 && !s4 ? (wide[1] + 1) / 2 : wide[1]};
  size_t bytes = (size_t)(wide[0] * ((wide[1] * (32 / fields) + 7) / 8));
  if ((inputs + groups - 1) / groups != size && groups > 1) return 1; /* other groups fit better */
  Array x, y, scale;
  make(&x, 2, in, 1);
  make(&y, 2, out, 0);
  make(&scale, 2, grid, 1);
  int short_one = (int)draw(0, 2);
  if (short_one == 1) narrow(&scale);
  if (short_one == 2) halve(&scale, 1);
  Guarded w = guarded(0, bytes);
  const FfiType types[] = {
    FFI_F32, FFI_BF16, FFI_S8,
    s4 ? FFI_S4 : FFI_U8,
  };
  uint8_t *byte = (uint8_t *)w.data;
  for (size_t i = 0; i < bytes; i++) byte[i] = (uint8_t)draw(0, 255);
  for (long i = 0; numbers < INT8 && i < wide[0] * wide[1]; i++) {
    float drawn = (float)maybe_wild((double)draw(-1000, 1000) / 1000);
    if (numbers == F32) w.data[i] = drawn;
    else memcpy(byte + 2 * i, (char *)&drawn + 2, 2);
  }
  for (long i = 0; i < inputs; i++)
    for (long o = 0; o < outputs; o++) {
      long first = transposed ? o : i, last = transposed ? i : o, at = first * wide[1] + last;
      double number;
      if (numbers == F32) number = w.data[at];
      else if (numbers == BF16) {
        float wider = 0;
        memcpy((char *)&wider + 2, byte + 2 * at, 2);
        number = wider;
      } else if (numbers == INT8) number = (int8_t)byte[at];
      else {
        int bits = byte[first * ((wide[1] + 1) / 2) + last / 2] >> last % 2 * 4 & 15;
        number = bits > 7 ? bits - 16 : bits;
      }
      long group = i / size;
      if (numbers >= INT8) number *= scale.exact[transposed ? o * groups + group : group * outputs + o];
      for (long r = 0; r < rows; r++) y.exact[r * outputs + o] += x.exact[r * inputs + i] * number;
    }
  FfiBuffer kernel = {.type = types[numbers], .data = w.data, .rank = 2, .dims = dims};
  FfiBuffer *operands[] = {&x.buffer, &kernel, &scale.buffer}, *results[] = {&y.buffer};
  Array *made[] = {&y};
  FfiCall frame = {
    .api = &api, .stage = FFI_EXECUTE,
    .operands = {.count = numbers < INT8 ? 2 : 3, .buffers = operands}, .results = {.count = 1, .buffers = results},
  };
  int good = right("gemv", one, transposed ? jaxnet_gemv_transposed : jaxnet_gemv, &frame, made, 1);
  drop(&x), drop(&y), drop(&scale);
  munmap(w.map, w.bytes);
  return good;
}

/* Each query's weights of the places in its range, their values, and all gradients. */
static int attention_case(long one) {
  int back = (int)draw(0, 1), causal = (int)draw(0, 1);
  int64_t B = draw(1, 3), T = draw(1, 150), P = PICK(T, draw(1, 150)), G = draw(1, 3);
  int64_t H = G * draw(1, 3), N = FEATURES, W = FEATURES;
  float form[] = {(float)draw(1, 100) / 100, draw(0, 2) ? 0 : (float)draw(1, 4)};
  const int64_t queries[] = {B, T, H, N}, keys[] = {B, P, G, N}, values[] = {B, P, G, W};
  const int64_t results[] = {B, T, H, W}, rows[] = {B, H, T}, edges[] = {B, T};
  enum { Q, K, V, FIRST, LAST, Y, TOTAL, D_Y, D_TOTAL, TOP, SUMS, D_Q, D_K, D_V, ARRAYS };
  Array a[ARRAYS];
  make(a + Q, 4, queries, 1);
  make(a + K, 4, keys, 1);
  make(a + V, 4, values, 1);
  make(a + FIRST, 2, edges, 0);
  make(a + LAST, 2, edges, 0);
  make(a + Y, 4, results, 0);
  make(a + TOTAL, 3, rows, 0);
  make(a + D_Y, 4, results, 1);
  make(a + D_TOTAL, 3, rows, 1);
  make(a + TOP, 3, rows, 0);
  make(a + SUMS, 3, rows, 0);
  make(a + D_Q, 4, queries, 0);
  make(a + D_K, 4, keys, 0);
  make(a + D_V, 4, values, 0);
  int32_t *first = (int32_t *)a[FIRST].array.data, *last = (int32_t *)a[LAST].array.data;
  for (long i = 0; i < B * T; i++) {
    first[i] = (int32_t)(draw(0, 1) ? 0 : draw(-9, P + 9));
    last[i] = (int32_t)(causal ? i % T + 1 : draw(-9, P + 9));
  }
  a[FIRST].buffer.type = a[LAST].buffer.type = FFI_S32;
  double scores[150], slopes[150];
  for (long i = 0; i < B * H * T; i++) {
    long b = i / (H * T), h = i / T % H, t = i % T, g = h / (H / G), n = (b * T + t) * H + h;
    double *q = a[Q].exact + n * N, *y = a[Y].exact + n * W, *dy = a[D_Y].exact + n * W;
    double top = -1e300, sum = 0, mean = -a[D_TOTAL].exact[i];
    long low = MAX(first[b * T + t], 0), high = MIN(last[b * T + t], P);
    for (long p = low; p < high; p++) {
      scores[p] = 0, slopes[p] = 1;
      for (long d = 0; d < N; d++) scores[p] += q[d] * a[K].exact[((b * P + p) * G + g) * N + d];
      scores[p] *= form[0];
      if (form[1] != 0) {
        double bent = tanh(scores[p] / form[1]);
        scores[p] = form[1] * bent, slopes[p] = 1 - bent * bent;
      }
      top = MAX(top, scores[p]);
    }
    for (long p = low; p < high; p++) sum += scores[p] = exp(scores[p] - top);
    for (long p = low; p < high; p++) { /* such a place counts, whatever its weight */
      long at = (b * P + p) * G + g;
      for (long d = 0; d < N; d++) sum += isfinite(a[K].exact[at * N + d]) ? 0 : NAN;
      for (long d = 0; d < W; d++) sum += isfinite(a[V].exact[at * W + d]) ? 0 : NAN;
    }
    for (long p = low; p < high; p++) scores[p] /= sum == 0 ? 1 : sum; /* 0 if all were -inf */
    for (long p = low; p < high; p++)
      for (long d = 0; d < W; d++)
        y[d] += scores[p] * a[V].exact[((b * P + p) * G + g) * W + d];
    for (long d = 0; d < W; d++) {
      mean += y[d] * dy[d];
      a[Y].array.data[n * W + d] = (float)y[d];
    }
    a[TOP].exact[i] = wild ? ANY : low < high ? top / log(2) : -__FLT_MAX__;
    a[SUMS].exact[i] = sum;
    a[TOTAL].array.data[i] = low < high ? (float)(top + log(sum)) : -__builtin_inff();
    for (long p = low; p < high; p++) {
      long at = (b * P + p) * G + g;
      double by_weight = 0, weight = scores[p];
      for (long d = 0; d < W; d++) {
        by_weight += dy[d] * a[V].exact[at * W + d];
        a[D_V].exact[at * W + d] += weight * dy[d];
      }
      double by_product = weight * (by_weight - mean) * slopes[p] * form[0];
      for (long d = 0; d < N; d++) {
        a[D_Q].exact[n * N + d] += by_product * a[K].exact[at * N + d];
        a[D_K].exact[at * N + d] += by_product * q[d];
      }
    }
  }
  FfiBuffer *operands[9], *made[3];
  Array *results_of[3];
  const int outs[2][3] = {{Y, TOP, SUMS}, {D_Q, D_K, D_V}};
  for (int i = 0; i < 9; i++) operands[i] = &a[i].buffer; /* in the order of the names */
  for (int i = 0; i < 3; i++) made[i] = &(results_of[i] = a + outs[back][i])->buffer;
  FfiArray numbers = {FFI_F32, 2, form};
  FfiOption types[] = {FFI_ARRAY};
  void *attributes[] = {&numbers};
  FfiCall frame = {
    .api = &api, .stage = FFI_EXECUTE,
    .operands = {.count = back ? 9 : 5, .buffers = operands}, .results = {.count = 3, .buffers = made},
    .options = {.count = 1, .kinds = types, .values = attributes},
  };
  int good = right("attention", one, back ? jaxnet_attention_back : jaxnet_attention, &frame,
                   results_of, 3);
  for (int i = 0; i < ARRAYS; i++) drop(a + i);
  return good;
}

static int norm_case(long one) {
  int back = (int)draw(0, 1), centered = (int)draw(0, 1);
  int64_t dims[] = {draw(1, 9), PICK(1, 1, 2, 5, 20, 100), PICK(1, 1, 2, 3, 8), FEATURES};
  long n = dims[2] * dims[3], group = dims[3];
  int64_t features[] = {n};
  float epsilon = 0.1f;
  Array x, given, y, scale, bias, by_scale, by_bias;
  make(&x, 4, dims, 1);
  make(&given, 4, dims, 1);
  make(&y, 4, dims, 0);
  make(&scale, 1, features, 1);
  make(&bias, 1, features, 1);
  make(&by_scale, 1, features, 0);
  make(&by_bias, 1, features, 0);
  if (draw(0, 1)) halve(&x, 1), halve(&given, 1), halve(&y, 0);
  for (long e = 0; e < dims[0]; e++)
    for (long g = 0; g < dims[2]; g++) {
      double mean = 0, variance = 0, by = 0, along = 0, count = (double)(dims[1] * group);
      long start = e * dims[1] * n + g * group;
#define MEMBERS                               \
  for (long p = 0; p < dims[1]; p++)          \
    for (long i = start + p * n, f = g * group; i < start + p * n + group; i++, f++)
      MEMBERS if (centered) mean += x.exact[i] / count, by += given.exact[i] * scale.exact[f] / count;
      MEMBERS variance += pow(x.exact[i] - mean, 2) / count;
      double root = 1 / sqrt(variance + epsilon);
      MEMBERS along += (x.exact[i] - mean) * root * given.exact[i] * scale.exact[f] / count;
      MEMBERS {
        double unit = (x.exact[i] - mean) * root;
        by_scale.exact[f] += unit * given.exact[i];
        by_bias.exact[f] += given.exact[i];
        y.exact[i] = back ? (given.exact[i] * scale.exact[f] - by - unit * along) * root
                          : unit * scale.exact[f] + bias.exact[f];
      }
#undef MEMBERS
    }
  FfiScalar options[] = {{FFI_S32, &centered}, {FFI_F32, &epsilon}};
  FfiOption types[] = {FFI_SCALAR, FFI_SCALAR};
  void *attributes[] = {options, options + 1};
  FfiBuffer *operands[] = {&x.buffer, &scale.buffer, back ? &given.buffer : &bias.buffer};
  FfiBuffer *results[] = {&y.buffer, &by_scale.buffer, &by_bias.buffer};
  Array *made[] = {&y, &by_scale, &by_bias};
  FfiCall frame = {
    .api = &api, .stage = FFI_EXECUTE,
    .operands = {.count = 3, .buffers = operands}, .results = {.count = 1 + 2 * back, .buffers = results},
    .options = {.count = 2, .kinds = types, .values = attributes},
  };
  int good = right("norm", one, jaxnet_norm, &frame, made, 1 + 2 * back);
  for (int i = 0; i < 3; i++) drop(made[i]);
  drop(&x), drop(&given), drop(&scale), drop(&bias);
  return good;
}

static int attention_one_case(long one) {
  int added = (int)draw(0, 1), half = (int)draw(0, 1), rarely = (int)draw(0, 9);
  int64_t B = draw(1, 3), P = draw(1, 150), G = draw(1, 3), H = G * draw(1, 4), N = FEATURES, W = FEATURES;
  float form[] = {(float)draw(1, 100) / 100, draw(0, 2) ? 0 : (float)draw(1, 4)};
  const int64_t queries[] = {B, H, N}, keys[] = {B, G, P, N}, values[] = {B, G, P, W};
  const int64_t results[] = {B, H, W}, scores[] = {B, H, P};
  enum { Q, K, V, BIAS, Y, WEIGHTS, ARRAYS };
  Array a[ARRAYS];
  make(a + Q, 3, queries, 1);
  make(a + K, 4, keys, 1);
  make(a + V, 4, values, 1);
  make(a + BIAS, 3, scores, 1);
  make(a + Y, 3, results, 0);
  make(a + WEIGHTS, 3, scores, 0);
  if (half) halve(a + K, 1), halve(a + V, 1);
  int64_t flags[] = {(B * H * P + 3) / 4};
  Array mask;
  make(&mask, 1, flags, 1);
  uint8_t *seen = (uint8_t *)mask.array.data + flags[0] * 4 - B * H * P;
  for (long i = 0; i < B * H * P; i++) seen[i] = draw(0, rarely) < 5;
  if (draw(0, 3) == 0) memset(seen, 0, (size_t)P); /* a head that sees nothing */
  mask.buffer = (FfiBuffer){
    .type = FFI_PRED, .data = seen, .rank = 3, .dims = a[BIAS].dims,
  };
  for (long i = 0; i < B * H; i++) {
    long g = i / (H / G);
    double *weights = a[WEIGHTS].exact + i * P, sum = 0;
    for (long p = 0; p < P; p++) {
      for (long d = 0; d < N; d++) weights[p] += a[Q].exact[i * N + d] * a[K].exact[(g * P + p) * N + d];
      weights[p] *= form[0];
      if (form[1] != 0) weights[p] = form[1] * tanh(weights[p] / form[1]);
      weights[p] = seen[i * P + p] ? exp(weights[p] + (added ? a[BIAS].exact[i * P + p] : 0)) : 0;
      sum += weights[p];
    }
    for (long p = 0; p < P; p++) {
      if (sum > 0) weights[p] /= sum;
      if (!seen[i * P + p]) continue;
      for (long d = 0; d < W; d++) a[Y].exact[i * W + d] += weights[p] * a[V].exact[(g * P + p) * W + d];
    }
  }
  FfiArray numbers = {.type = FFI_F32, .count = 2, .data = form};
  FfiOption type = FFI_ARRAY;
  void *attribute = &numbers;
  FfiBuffer *operands[] = {&a[Q].buffer, &a[K].buffer, &a[V].buffer, &mask.buffer, &a[BIAS].buffer};
  FfiBuffer *made[] = {&a[Y].buffer, &a[WEIGHTS].buffer};
  Array *arrays[] = {a + Y, a + WEIGHTS};
  FfiCall frame = {
    .api = &api, .stage = FFI_EXECUTE,
    .operands = {.count = 4 + added, .buffers = operands}, .results = {.count = 2, .buffers = made},
    .options = {.count = 1, .kinds = &type, .values = &attribute},
  };
  int good = right("attention of one", one, jaxnet_attention_one, &frame, arrays, 2);
  for (int i = 0; i < ARRAYS; i++) drop(a + i);
  drop(&mask);
  return good;
}

static int moments_case(long one) {
  int back = (int)draw(0, 1);
  int64_t rows = PICK(1, 2, 7, 9, 100, 3000), n = FEATURES, size[] = {rows * n}, features[] = {n};
  Array x, given, mean, first, second, power;
  make(&power, 1, features, 0);
  make(&x, 1, size, 1);
  make(&given, 1, size, 1);
  make(&mean, 1, features, 1);
  make(&first, 1, features, 0);
  make(&second, 1, features, 0);
  if (draw(0, 1)) halve(&x, 1), halve(&given, 1);
  for (long f = 0; f < n; f++) {
    double middle = 0;
    power.exact[f] = wild ? ANY : 1;
    for (long i = f; i < rows * n; i += n) middle += x.exact[i] / (double)rows;
    first.exact[f] = back ? 0 : middle;
    for (long i = f; i < rows * n; i += n) {
      if (back) first.exact[f] += given.exact[i];
      second.exact[f] += back ? given.exact[i] * (x.exact[i] - mean.exact[f])
                              : pow(x.exact[i] - middle, 2) / (double)rows;
    }
  }
  FfiBuffer *operands[] = {&x.buffer, &given.buffer, &mean.buffer}, *made[] = {&first.buffer, &second.buffer, &power.buffer};
  Array *arrays[] = {&first, &second, &power};
  int results = back ? 2 : 3;
  FfiCall frame = {
    .api = &api, .stage = FFI_EXECUTE,
    .operands = {.count = back ? 3 : 1, .buffers = operands}, .results = {.count = results, .buffers = made},
  };
  int good = right("moments", one, jaxnet_moments, &frame, arrays, results);
  drop(&x), drop(&given), drop(&mean), drop(&first), drop(&second), drop(&power);
  return good;
}

static int pool_case(long one) {
  int back = (int)draw(0, 1);
  int64_t form[8], in[4] = {draw(1, 9), draw(1, 9), draw(1, 20), FEATURES}, out[4];
  out[0] = in[0], out[3] = in[3];
  for (int i = 0; i < 2; i++) {
    long window = form[i] = draw(1, 4), apart = form[4 + i] = PICK(1, 1, 2, 3);
    long span = (window - 1) * apart + 1, before = draw(-1, span), whole;
    form[2 + i] = draw(1, 4), form[6 + i] = before;
    whole = in[1 + i] + before + draw(0, span) - span; /* windows may be wholly outside */
    out[1 + i] = whole < 0 ? 0 : whole / form[2 + i] + 1;
  }
  Array x, given, y;
  make(&x, 4, in, 1);
  make(&given, 4, out, 1);
  make(&y, 4, back ? in : out, 0);
  for (long i = 0; i < x.array.n; i++) { /* many equal ones */
    x.exact[i] = x.array.data[i] = (float)draw(-2, 2);
    if (!draw(0, 30)) x.exact[i] = x.array.data[i] = -INFINITY;
    x.exact[i] = x.array.data[i] = (float)maybe_wild(x.exact[i]);
  }
  for (long i = 0; i < given.array.n; i++) {
    long f = i % in[3], column = i / in[3] % out[2], row = i / in[3] / out[2] % out[1];
    long example = i / in[3] / out[2] / out[1], first = -1;
    for (long k = 0; k < form[0] * form[1]; k++) {
      long r = row * form[2] - form[6] + k / form[1] * form[4];
      long c = column * form[3] - form[7] + k % form[1] * form[5];
      if (r < 0 || r >= in[1] || c < 0 || c >= in[2]) continue;
      long here = ((example * in[1] + r) * in[2] + c) * in[3] + f;
      if (first < 0 || x.exact[here] > x.exact[first]) first = here;
      if (isnan(x.exact[here]) && !isnan(x.exact[first])) first = here;
    }
    double best = first < 0 ? -INFINITY : x.exact[first];
    if (back && first >= 0) y.exact[first] += given.exact[i];
    if (!back) y.exact[i] = best;
  }
  FfiArray numbers = {FFI_S64, 8, form};
  FfiOption types[] = {FFI_ARRAY};
  void *attributes[] = {&numbers};
  FfiBuffer *operands[] = {&x.buffer, &given.buffer};
  FfiBuffer *results[] = {&y.buffer};
  Array *made[] = {&y};
  FfiCall frame = {
    .api = &api, .stage = FFI_EXECUTE,
    .operands = {.count = 1 + back, .buffers = operands}, .results = {.count = 1, .buffers = results},
    .options = {.count = 1, .kinds = types, .values = attributes},
  };
  int good = right("pool", one, jaxnet_max_pool, &frame, made, 1);
  drop(&x), drop(&given), drop(&y);
  return good;
}

/* Threefry of two words, as plainly as its paper has it. */
static uint32_t threefry(const uint32_t *key, uint32_t high, uint32_t low) {
  const int turns[] = {13, 15, 26, 6, 17, 29, 16, 24};
  uint32_t keys[] = {key[0], key[1], key[0] ^ key[1] ^ 0x1bd11bda};
  high += keys[0], low += keys[1];
  for (int i = 0; i < 20; i++) {
    high += low;
    low = (low << turns[i % 8] | low >> (32 - turns[i % 8])) ^ high;
    if (i % 4 == 3) high += keys[(i / 4 + 1) % 3], low += keys[(i / 4 + 2) % 3] + (uint32_t)i / 4 + 1;
  }
  return high ^ low;
}

static int keep_case(long one) {
  long n = PICK(0, 1, 2, 31, 32, 33, 63, 64, 65, 255, KEPT - 1, KEPT, KEPT + 1, 3 * KEPT + 77);
  int64_t dims[] = {n}, two[] = {2};
  uint32_t key[] = {(uint32_t)draw(0, INT32_MAX) * 2, (uint32_t)draw(0, INT32_MAX)};
  int32_t below = (int32_t)draw(0, 1 << 23);
  Guarded made = guarded(n, (size_t)n);
  FfiBuffer in = {.type = FFI_U32, .data = key, .rank = 1, .dims = two};
  FfiBuffer out = {.type = FFI_PRED, .data = made.data, .rank = 1, .dims = dims};
  FfiScalar option = {FFI_S32, &below};
  FfiOption types[] = {FFI_SCALAR};
  FfiBuffer *operands[] = {&in}, *results[] = {&out};
  void *attributes[] = {&option};
  FfiCall frame = {
    .api = &api, .stage = FFI_EXECUTE,
    .operands = {.count = 1, .buffers = operands}, .results = {.count = 1, .buffers = results},
    .options = {.count = 1, .kinds = types, .values = attributes},
  };
  int best = jaxnet_level(), good = 1;
  for (int run = 0; good && run < 3; run++) {
    threads = (int[]){1, 3, 2}[run];
    if (run == 2 && best >= 3) jaxnet_use(2);
    FfiError *failed = jaxnet_keep(&frame);
    jaxnet_use(best);
    if (failed) return printf("keep %ld: %s\n", one, failed->message), 0;
    for (long i = 0; i < n; i++)
      good &= ((uint8_t *)made.data)[i] == (threefry(key, 0, (uint32_t)i) >> 9 < (uint32_t)below);
  }
  if (!good) printf("keep %ld: other bits\n", one);
  while (atomic_load(&running)) sched_yield();
  munmap(made.map, made.bytes);
  return good;
}

/* Functions of script.h by their numbers, of one number and of two. */
static double mapped(long which, double x) {
  switch (which) {
    case 0: return -x;
    case 1: return fabs(x);
    case 2: return exp(x);
    case 3: return tanh(x);
    case 4: return sigmoid(x);
    case 5: return sqrt(x);
    case 6: return 1 / sqrt(x);
    default: return erf(x);
  }
}
static double combined(long which, double a, double b) {
  switch (which) {
    case 0: return a + b;
    case 1: return a - b;
    case 2: return a * b;
    case 3: return a / b;
    case 4: return a > b || isnan(a) ? a : b;
    case 5: return a < b || isnan(a) ? a : b;
    case 6: return a > b;
    case 7: return a >= b;
    case 8: return a < b;
    case 9: return a <= b;
    case 10: return a == b;
    default: return a != b;
  }
}

/* A step of a script, on arrays that end where it must not read: its numbers, the sizes of its operands
 * and of its result. */
typedef struct {
  int64_t numbers[2 + 2 + 3 * SCRIPT_AXES], count, sizes[3], result;
  int operands;
} Scripted;

static const int64_t FIRST = (int64_t)1 << SCRIPT_SPACE;

static Scripted draw_step(void) {
  int64_t n = draw(1, 150), many = draw(0, 1), rows = draw(1, 9), inner = FEATURES, outputs = FEATURES;
  int64_t batch = draw(1, 3), a[SCRIPT_AXES], steps[SCRIPT_AXES], size = 1, space = 1;
  switch (draw(0, SCRIPT_KINDS - 1)) {
    case MAP: return (Scripted){{0, MAP, draw(0, SCRIPT_MAPS - 1), n, FIRST, 2 * FIRST}, 6, {n}, n, 1};
    case COMBINE:
      return (Scripted){{0, COMBINE, draw(0, SCRIPT_COMBINATIONS - 1), n, FIRST, many, 2 * FIRST, 1, 3 * FIRST},
                        9, {many ? n : 1, n}, n, 2};
    case SELECT: /* what is chosen is the result of a copy before */
      return (Scripted){{0, SELECT, n, FIRST, 2 * FIRST, 3 * FIRST}, 6, {n, n}, n, 2};
    case REDUCE:
      return (Scripted){{0, REDUCE, draw(0, SCRIPT_REDUCTIONS - 1), rows, n, FIRST, 2 * FIRST}, 7, {rows * n}, rows, 1};
    case TIMES:
      return (Scripted){{0, TIMES, draw(0, 1), batch, rows, inner, outputs, FIRST, 2 * FIRST,
                         many ? inner * outputs : 0, 3 * FIRST},
                        11, {batch * rows * inner, (many ? batch : 1) * inner * outputs}, batch * rows * outputs, 2};
    default: break;
  }
  Scripted s = {{0, MOVE, FIRST, 2 * FIRST}, 4 + 3 * SCRIPT_AXES, {1}, 1, 1};
  for (int i = SCRIPT_AXES - 1; i >= 0; i--) {
    a[i] = draw(1, 6), steps[i] = draw(0, 2) ? space * draw(1, 2) : 0;
    space = MAX(space, a[i] * steps[i]);
    s.sizes[0] += (a[i] - 1) * steps[i];
    s.numbers[4 + i] = a[i], s.numbers[4 + SCRIPT_AXES + i] = steps[i], s.numbers[4 + 2 * SCRIPT_AXES + i] = size;
    size *= a[i];
  }
  s.result = size;
  return s;
}

/* The exact results of a step. */
static void follow_step(const Scripted *s, double *const *x, double *y) {
  const int64_t *n = s->numbers + 2;
  for (long i = 0; i < s->result; i++)
    switch (s->numbers[1]) {
      case MAP: y[i] = mapped(n[0], x[0][i]); break;
      case COMBINE: y[i] = combined(n[0], x[0][n[3] ? i : 0], x[1][i]); break;
      case SELECT: y[i] = x[0][i] ? 0 : x[1][i]; break;
      case REDUCE:
        y[i] = x[0][i * n[2]];
        for (long k = 1; k < n[2]; k++) y[i] = combined((long[]){0, 4, 5}[n[0]], y[i], x[0][i * n[2] + k]);
        break;
      case TIMES:
        for (long k = 0, o = i % n[4], row = i / n[4]; k < n[3]; k++)
          y[i] += x[0][row * n[3] + k] * x[1][row / n[2] * n[7] + (n[0] ? o * n[3] + k : k * n[4] + o)];
        break;
      default: {
        long at = 0, rest = i;
        for (int axis = SCRIPT_AXES - 1; axis >= 0; axis--) {
          at += rest % n[2 + axis] * n[2 + SCRIPT_AXES + axis];
          rest /= n[2 + axis];
        }
        y[i] = x[0][at];
      }
    }
}

/* Makes the operands ones of which a function has no pole and no root of less than 0. */
static void keep_in_domain(const Scripted *s, Array *operands) {
  int root = s->numbers[1] == MAP && (s->numbers[2] == 5 || s->numbers[2] == 6);
  int quotient = s->numbers[1] == COMBINE && s->numbers[2] == 3, choice = s->numbers[1] == SELECT;
  Array *a = operands + (quotient ? 1 : 0);
  for (long k = 0; (root || quotient || choice) && k < a->array.n; k++) {
    float drawn = a->array.data[k];
    a->exact[k] = a->array.data[k] = choice ? (drawn > 0) : fabsf(drawn) + 0.1f;
  }
}

static int script_case(long one) {
  Scripted s = draw_step();
  Array operands[2], y;
  FfiBuffer *buffers[2], *results[] = {&y.buffer};
  double *exact[2];
  for (int i = 0; i < s.operands; i++) {
    make(operands + i, 1, s.sizes + i, 1);
    buffers[i] = &operands[i].buffer;
    exact[i] = operands[i].exact;
  }
  make(&y, 1, &s.result, 0);
  keep_in_domain(&s, operands);
  follow_step(&s, exact, y.exact);
  /* what a choice finds in its result is written by a step before: x - x */
  int64_t numbers[9 + 20] = {0}, before = s.numbers[1] == SELECT ? 8 : 0;
  const int64_t zeros_first[] = {COMBINE, 1, s.result, FIRST, 1, FIRST, 1, 3 * FIRST};
  memcpy(numbers + 1, zeros_first, (size_t)before * sizeof(int64_t));
  memcpy(numbers + 1 + before, s.numbers + 1, (size_t)(s.count - 1) * sizeof(int64_t));
  FfiArray array = {FFI_S64, (size_t)(s.count + before), numbers};
  FfiOption types[] = {FFI_ARRAY};
  void *attributes[] = {&array};
  Array *made[] = {&y};
  FfiCall frame = {
    .api = &api, .stage = FFI_EXECUTE,
    .operands = {.count = s.operands, .buffers = buffers}, .results = {.count = 1, .buffers = results},
    .options = {.count = 1, .kinds = types, .values = attributes},
  };
  int good = right("script", one, jaxnet_script, &frame, made, 1);
  for (int i = 0; i < s.operands; i++) drop(operands + i);
  drop(&y);
  return good;
}

static const struct {
  const char *name;
  int (*run)(long one);
} CASES[] = {
  {"convolution", convolution_case}, {"product", product_case}, {"winograd", winograd_case},
  {"fused", fused_case},
  {"lstm", lstm_case}, {"rnn", rnn_case}, {"gemv", gemv_case}, {"attention", attention_case},
  {"attention_one", attention_one_case}, {"norm", norm_case}, {"moments", moments_case},
  {"pool", pool_case}, {"keep", keep_case},
  {"script", script_case},
};
enum { CASES_COUNT = sizeof(CASES) / sizeof(*CASES) };

/* The number of cases, their seed, and the names of the kernels or nothing for all. */
int main(int count, char **words) {
  long cases = count > 1 ? atol(words[1]) : 100, seed = count > 2 ? atol(words[2]) : 0;
  for (long one = 0; one < cases; one++)
    for (long kernel = 0; kernel < CASES_COUNT; kernel++) {
      int wanted = count <= 3;
      for (int i = 3; i < count; i++) wanted |= !strcmp(words[i], CASES[kernel].name);
      if (!wanted) continue;
      state = (uint64_t)((seed * 1000003 + one) * CASES_COUNT + kernel);
      draw(0, 1);
      wild = !draw(0, 3);
      if (!CASES[kernel].run(one)) return 1;
    }
  printf("%ld cases of each, largest error %.1e\n", cases, worst);
  return 0;
}
