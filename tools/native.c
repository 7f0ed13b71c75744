/* Runs the handler of jaxnet/ops/native/conv.c on random convolutions, without JAX; see native.py.
 *
 * Each array ends where a page begins that cannot be touched, or begins where such a page ends. The
 * results are compared with plain loops in double precision, and those of several threads bit for
 * bit with those of one. */

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../jaxnet/ops/native/conv.c"

static uint64_t state;
static long draw(long low, long high) { /* both included */
  state = state * 6364136223846793005u + 1442695040888963407u;
  return low + (long)((state >> 33) % (uint64_t)(high - low + 1));
}
static long pick(const long *from, long n) { return from[draw(0, n - 1)]; }
#define PICK(...) pick((const long[]){__VA_ARGS__}, sizeof((long[]){__VA_ARGS__}) / sizeof(long))

/* XLA's side of the interface. */

struct XLA_FFI_Error {
  XLA_FFI_Error_Code code;
  char message[200];
};

static int threads;
static atomic_int running;

static XLA_FFI_Error *create(XLA_FFI_Error_Create_Args *args) {
  XLA_FFI_Error *made = calloc(1, sizeof(*made));
  made->code = args->errc;
  snprintf(made->message, sizeof(made->message), "%s", args->message);
  return made;
}
static void destroy(XLA_FFI_Error_Destroy_Args *args) { free(args->error); }

typedef struct {
  XLA_FFI_Task *task;
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
static XLA_FFI_Error *schedule(XLA_FFI_ThreadPool_Schedule_Args *args) {
  Call *c = malloc(sizeof(*c));
  *c = (Call){args->task, args->data, (int)draw(0, 1)};
  pthread_t thread;
  atomic_fetch_add(&running, 1);
  if (pthread_create(&thread, NULL, call, c)) abort();
  pthread_detach(thread);
  return NULL;
}
static XLA_FFI_Error *count_threads(XLA_FFI_ThreadPool_NumThreads_Args *args) {
  if (!threads) {
    XLA_FFI_Error_Create_Args none = {.message = "no pool", .errc = XLA_FFI_Error_Code_INTERNAL};
    return create(&none);
  }
  *args->num_threads = threads;
  return NULL;
}

/* Arrays beside pages that cannot be touched. */

typedef struct {
  float *data;
  char *map;
  size_t bytes;
  long n;
} Guarded;

static Guarded guarded(const int64_t *dims) {
  Guarded g = {.n = 1};
  for (int i = 0; i < 5; i++) g.n *= dims[i];
  size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (size_t)g.n * 4;
  size_t inside = (size + page - 1) / page * page;
  g.bytes = inside + 2 * page;
  g.map = mmap(NULL, g.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  mprotect(g.map, page, PROT_NONE);
  mprotect(g.map + page + inside, page, PROT_NONE);
  g.data = (float *)(g.map + page + (draw(0, 3) ? inside - size : 0));
  return g;
}

/* T of jaxnet/ops/convolution.py: adds to the wanted array. */
static void plain(const int64_t *form, int64_t dims[3][5], double *a[3]) {
  const int64_t *x = dims[0], *w = dims[1], *y = dims[2];
  long groups = form[GROUPS], out = w[4] / groups;
  for (long n = 0; n < x[0] * x[1]; n++)
    for (long p = 0; p < y[2] * y[3]; p++)
      for (long k = 0; k < w[1] * w[2]; k++) {
        long at[2] = {p / y[3], p % y[3]}, tap[2] = {k / w[2], k % w[2]}, in[2];
        int inside = 1;
        for (int i = 0; i < 2; i++) {
          long here = at[i] * form[STRIDE + i] + tap[i] * form[DILATION + i] - form[LOW + i];
          in[i] = here / form[GAPS + i];
          inside &= here >= 0 && here % form[GAPS + i] == 0 && in[i] < x[2 + i];
        }
        if (!inside) continue;
        long pixel = ((n * x[2] + in[0]) * x[3] + in[1]) * x[4];
        for (long i = 0; i < w[3]; i++)
          for (long o = 0; o < w[4]; o++) {
            double *to[3] = {
              a[0] + pixel + o / out * w[3] + i,
              a[1] + ((n / x[1] * w[1] * w[2] + k) * w[3] + i) * w[4] + o,
              a[2] + (n * y[2] * y[3] + p) * y[4] + o,
            };
            if (form[KIND] == VALUE) *to[2] += *to[0] * *to[1];
            else if (form[KIND] == INPUT) *to[0] += *to[1] * *to[2];
            else *to[1] += *to[0] * *to[2];
          }
      }
}

int main(int count, char **words) {
  long cases = count > 1 ? atol(words[1]) : 100, seed = count > 2 ? atol(words[2]) : 0;
  double worst = 0;
  XLA_FFI_Api api = {
    .XLA_FFI_Error_Create = create, .XLA_FFI_Error_Destroy = destroy,
    .XLA_FFI_ThreadPool_Schedule = schedule, .XLA_FFI_ThreadPool_NumThreads = count_threads,
  };
  for (long one = 0; one < cases; one++) {
    state = (uint64_t)(seed * 1000003 + one);
    draw(0, 1);
    int64_t form[NUMBERS], dims[3][5];
    long groups = form[GROUPS] = PICK(1, 1, 1, 1, 2, 3, 5, 16, 21, 40);
#define FEATURES PICK(1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 20, 24, 31, 32, 33, 40, 48, 64, 70)
    long e = PICK(1, 1, 1, 2), n = draw(1, 4), in = groups > 3 ? 1 : FEATURES;
    long out = groups * (groups > 3 ? 1 : FEATURES);
    form[KIND] = draw(0, 2);
    for (int i = 0; i < 2; i++) {
      long size, window, room;
      do {
        size = i ? draw(1, 40) : PICK(1, 2, 3, 5, 9);
        window = draw(1, i ? 7 : 6);
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
    dims[0][4] = in * groups;
    dims[1][3] = in;
    dims[1][4] = dims[2][4] = out;

    Guarded arrays[3];
    double *exact[3];
    int wanted = form[KIND] == VALUE ? 2 : form[KIND] == INPUT ? 0 : 1;
    for (int i = 0; i < 3; i++) {
      arrays[i] = guarded(dims[i]);
      exact[i] = calloc((size_t)arrays[i].n + 1, sizeof(double));
      for (long k = 0; k < arrays[i].n; k++) {
        arrays[i].data[k] = (float)draw(-1000, 1000) / 1000;
        if (i != wanted) exact[i][k] = arrays[i].data[k];
      }
    }
    plain(form, dims, exact);

    XLA_FFI_Buffer buffers[3];
    void *operands[2], *results[1];
    for (int i = 0, given = 0; i < 3; i++) {
      buffers[i] = (XLA_FFI_Buffer){
        .dtype = XLA_FFI_DataType_F32, .data = arrays[i].data, .rank = 5, .dims = dims[i],
      };
      if (i == wanted) results[0] = buffers + i;
      else operands[given++] = buffers + i;
    }
    XLA_FFI_Array numbers = {XLA_FFI_DataType_S64, NUMBERS, form};
    XLA_FFI_AttrType types[] = {XLA_FFI_AttrType_ARRAY};
    void *attributes[] = {&numbers};
    XLA_FFI_CallFrame frame = {
      .api = &api, .stage = XLA_FFI_ExecutionStage_EXECUTE,
      .args = {.size = 2, .args = operands}, .rets = {.size = 1, .rets = results},
      .attrs = {.size = 1, .types = types, .attrs = attributes},
    };
    float *first = NULL;
    long size = arrays[wanted].n, best = jaxnet_conv_level();
    for (int run = 0; run < 5; run++) {
      threads = (int[]){1, 0, 2, 8, 3}[run];
      int other = run == 4; /* the lower instruction set */
      if (other && best != 3) break;
      if (other) jaxnet_conv_use(2);
      memset(arrays[wanted].data, 0xff, (size_t)size * 4);
      XLA_FFI_Error *failed = jaxnet_conv(&frame);
      jaxnet_conv_use((int)best);
      if (failed) return printf("case %ld: %s\n", one, failed->message), 1;
      size_t bytes = (size_t)size * 4;
      if (!first) first = memcpy(malloc(bytes + 1), arrays[wanted].data, bytes);
      if (!other && memcmp(first, arrays[wanted].data, bytes))
        return printf("case %ld: %d threads have other bits\n", one, threads), 1;
      double scale = 1, error = 0;
      for (long k = 0; k < size; k++) {
        double off = fabs(arrays[wanted].data[k] - exact[wanted][k]);
        if (!(off <= error)) error = off;
        scale = MAX(scale, fabs(exact[wanted][k]));
      }
      if (!(error / scale < 1e-5))
        return printf("case %ld, kind %ld: error %g\n", one, (long)form[KIND], error / scale), 1;
      worst = MAX(worst, error / scale);
    }
    while (atomic_load(&running)) sched_yield();
    free(first);
    for (int i = 0; i < 3; i++) {
      free(exact[i]);
      munmap(arrays[i].map, arrays[i].bytes);
    }
  }
  printf("%ld cases, largest error %.1e\n", cases, worst);
  return 0;
}
