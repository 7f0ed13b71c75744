/* Standardizes x (examples, pixels, groups, members) over pixels and members, and the gradient, as a
 * handler of XLA's foreign function interface. An example stays in a cache for all its passes. The
 * gradient computes the moments again, since x is read anyway. */

typedef struct {
  Work work;
  const Kernels *kernels;
  long examples;
  Norm s;
} Norms;

static int run_norm(Work *work, long chunk) {
  const Norms *all = (const Norms *)work;
  float *memory = zeros(4 * (all->s.features + 16), sizeof(float));
  long last = all->examples * (chunk + 1) / work->chunks;
  for (long i = all->examples * chunk / work->chunks; memory && i < last; i++)
    all->kernels->norm(&all->s, i, memory);
  free(memory);
  return memory != NULL;
}

static void free_norm(Work *work) { free(work); }

XLA_FFI_Error *jaxnet_norm(XLA_FFI_CallFrame *f) {
  if (no_run(f)) return NULL;
  REQUIRE((f->args.size == 1 || f->args.size == 2) && f->rets.size == 1 && f->attrs.size == 1);
  REQUIRE(f->attrs.types[0] == XLA_FFI_AttrType_SCALAR);
  const XLA_FFI_Scalar *epsilon = f->attrs.attrs[0];
  REQUIRE(epsilon->dtype == XLA_FFI_DataType_F32);
  XLA_FFI_Buffer **in = (XLA_FFI_Buffer **)f->args.args, *x = in[0], *out = f->rets.rets[0];
  XLA_FFI_Buffer *arrays[] = {x, in[f->args.size - 1], out};
  long size = 1;
  for (int i = 0; i < 3; i++) {
    REQUIRE(arrays[i]->dtype == XLA_FFI_DataType_F32 && arrays[i]->rank == 4);
    for (int axis = 0; axis < 4; axis++) REQUIRE(arrays[i]->dims[axis] == x->dims[axis]);
  }
  for (int axis = 0; axis < 4; axis++) size *= x->dims[axis];
  const Kernels *kernels = kernels_in_use();
  REQUIRE(kernels);
  if (!size) return NULL;
  Norms *all = zeros(1, sizeof(Norms));
  if (!all) return error(f->api, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED, "jaxnet: no memory");
  long threads = threads_of(f), pieces = size / 16384 + 1; /* of work that is worth a thread */
  *all = (Norms){
    .work = {.holders = 1, .run = run_norm, .close = free_norm},
    .kernels = kernels, .examples = x->dims[0],
    .s = {
      .pixels = x->dims[1], .features = x->dims[2] * x->dims[3], .inner = x->dims[3],
      .x = x->data, .given = f->args.size == 2 ? in[1]->data : NULL, .y = out->data,
    },
  };
  memcpy(&all->s.epsilon, epsilon->value, sizeof(float));
  all->work.chunks = MIN(MIN(4 * threads, pieces), all->examples);
  int ok = run_chunks(&all->work, f, threads);
  release(&all->work);
  return ok ? NULL : error(f->api, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED, "jaxnet: no memory");
}
