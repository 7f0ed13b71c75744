/* Norms of x (examples, pixels, groups, members) and their gradients, as a handler of XLA's foreign
 * function interface. x is standardized over pixels and members, or only divided by the root of its
 * mean square; then it is multiplied by a scale, and a bias is added, both of (groups * members). An
 * example stays in a cache for all its passes. The gradient computes the moments again, since x is
 * read anyway. */

typedef struct {
  Work work;
  const Kernels *kernels;
  int64_t examples;
  float *sums; /* of each chunk the gradients of scale and bias, or NULL */
  Norm s;
} Norms;

static int run_norm(Work *work, int64_t chunk) {
  const Norms *all = (const Norms *)work;
  int64_t room = all->s.features + 16;
  float *memory = zeros(7 * room, sizeof(float));
  float *sums = all->sums ? all->sums + 2 * room * chunk : NULL;
  int64_t last = all->examples * (chunk + 1) / work->chunks;
  for (int64_t i = all->examples * chunk / work->chunks; memory && i < last; i++)
    all->kernels->norm(&all->s, i, memory, sums);
  free(memory);
  return memory != NULL;
}

static void free_norm(Work *work) {
  free(((Norms *)work)->sums);
  free(work);
}

XLA_FFI_Error *jaxnet_norm(XLA_FFI_CallFrame *f) {
  if (no_run(f)) return NULL;
  int back = f->rets.size == 3;
  REQUIRE(f->args.size == 3 && (back || f->rets.size == 1) && f->attrs.size == 2);
  const XLA_FFI_Scalar **options = (const XLA_FFI_Scalar **)f->attrs.attrs; /* sorted by name */
  for (int i = 0; i < 2; i++) REQUIRE(f->attrs.types[i] == XLA_FFI_AttrType_SCALAR);
  REQUIRE(options[0]->dtype == XLA_FFI_DataType_S32);
  REQUIRE(options[1]->dtype == XLA_FFI_DataType_F32);
  XLA_FFI_Buffer **in = (XLA_FFI_Buffer **)f->args.args, **out = (XLA_FFI_Buffer **)f->rets.rets;
  XLA_FFI_Buffer *x = in[0], *wide[] = {x, out[0], in[2]};
  XLA_FFI_Buffer *narrow[] = {in[1], back ? out[1] : in[2], back ? out[2] : in[2]};
  REQUIRE(x->dtype == XLA_FFI_DataType_F32 || x->dtype == XLA_FFI_DataType_BF16);
  REQUIRE(x->rank == 4);
  int64_t features = x->dims[2] * x->dims[3], size = x->dims[0] * x->dims[1] * features;
  for (int i = 0; i < 2 + back; i++) REQUIRE(is(wide[i], x->dtype, 4, x->dims));
  for (int i = 0; i < 3; i++) REQUIRE(IS(narrow[i], F32, features));
  const Kernels *kernels = kernels_in_use();
  REQUIRE(kernels);
  if (!size) return NULL;
  Norms *all = zeros(1, sizeof(Norms));
  if (!all) return error(f->api, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED, "jaxnet: no memory");
  *all = (Norms){
    .work = {.holders = 1, .run = run_norm, .close = free_norm},
    .kernels = kernels, .examples = x->dims[0],
    .s = {
      .half = x->dtype == XLA_FFI_DataType_BF16, .pixels = x->dims[1], .features = features,
      .inner = x->dims[3], .x = x->data, .scale = in[1]->data, .y = out[0]->data,
    },
  };
  *(back ? &all->s.given : (const void **)&all->s.bias) = in[2]->data;
  memcpy(&all->s.centered, options[0]->value, sizeof(int));
  memcpy(&all->s.epsilon, options[1]->value, sizeof(float));
  /* The sums of chunks are added in their order, so their number may not depend on the threads. */
  int64_t pieces = size / 16384 + 1, room = features + 16; /* of work that is worth a thread */
  all->work.chunks = MIN(MIN(32, pieces), all->examples);
  if (back) all->sums = zeros(2 * room * all->work.chunks, sizeof(float));
  int ok = (!back || all->sums) && run_chunks(&all->work, f, threads_of(f));
  for (int i = 0; ok && i < 2 * back; i++) {
    float *to = memcpy(out[1 + i]->data, all->sums + i * room, features * sizeof(float));
    for (int64_t chunk = 1; chunk < all->work.chunks; chunk++)
      for (int64_t n = 0; n < features; n++) to[n] += all->sums[(2 * chunk + i) * room + n];
  }
  release(&all->work);
  return ok ? NULL : error(f->api, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED, "jaxnet: no memory");
}
