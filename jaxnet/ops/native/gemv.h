/* y = x @ w for one to four rows of x, as in a step of decoding, as handlers of XLA's foreign
 * function interface. w (inputs, outputs) holds float32, bfloat16, int8, or two int4 per byte: the
 * number with the even place in the low bits, as in XLA's own arrays of int4. Integers have scales
 * (groups, outputs), one group for some neighboring inputs. The transposed product reads w (outputs,
 * inputs) and scales (outputs, groups). */

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

static XLA_FFI_Error *gemv(XLA_FFI_CallFrame *f, int transposed) {
  if (no_run(f)) return NULL;
  REQUIRE((f->args.size == 2 || f->args.size == 3) && f->rets.size == 1);
  XLA_FFI_Buffer **in = (XLA_FFI_Buffer **)f->args.args, *out = f->rets.rets[0];
  const XLA_FFI_Buffer *x = in[0], *w = in[1], *scale = f->args.size == 3 ? in[2] : NULL;
  const XLA_FFI_DataType F = XLA_FFI_DataType_F32, dtype = w->dtype;
  REQUIRE(x->dtype == F && x->rank == 2 && w->rank == 2 && out->dtype == F && out->rank == 2);
  int64_t rows = x->dims[0], inputs = x->dims[1], outputs = out->dims[1];
  REQUIRE(out->dims[0] == rows && rows <= 4);
  int packed = dtype == XLA_FFI_DataType_U8;
  int64_t wide[] = {transposed ? outputs : inputs, transposed ? inputs : outputs};
  REQUIRE(w->dims[0] == wide[0] && w->dims[1] == (packed ? (wide[1] + 1) / 2 : wide[1]));
  REQUIRE(inputs <= INT32_MAX && outputs <= INT32_MAX);
  Numbers numbers;
  if (dtype == F) numbers = F32;
  else if (dtype == XLA_FFI_DataType_BF16) numbers = BF16;
  else if (dtype == XLA_FFI_DataType_S8) numbers = INT8;
  else numbers = INT4;
  REQUIRE(numbers != INT4 || packed || (dtype == XLA_FFI_DataType_S4 && wide[1] % 2 == 0));
  int fields = 1 << numbers;
  int64_t group = MAX(inputs, 1);
  if (scale) {
    REQUIRE(scale->dtype == F && scale->rank == 2 && scale->dims[!transposed] == outputs);
    int64_t groups = scale->dims[transposed];
    REQUIRE(groups > 0);
    group = MAX((inputs + groups - 1) / groups, 1);
    REQUIRE((inputs + group - 1) / group == groups || !inputs);
    REQUIRE(!transposed || groups == 1 || group % fields == 0);
  }
  const Kernels *kernels = kernels_in_use();
  REQUIRE(kernels);
  if (!rows || !inputs || !outputs) {
    memset(out->data, 0, rows * outputs * sizeof(float));
    return NULL;
  }
  int64_t unit = 16 * fields, padded = (wide[1] + unit - 1) / unit * unit;
  int64_t parts = transposed ? MIN(64, (outputs + 15) / 16) : MAX(1, MIN(16, inputs / 48));
  Product *p = zeros(1, sizeof(Product));
  float *sums = new_vectors((transposed ? 5 : 2 * parts * rows) * padded * 4);
  if (p)
    *p = (Product){
      .work = {.holders = 1, .chunks = parts, .run = run_gemv, .close = free_gemv},
      .kernels = kernels,
      .s = {
        .numbers = numbers, .transposed = transposed, .rows = rows, .inputs = inputs,
        .outputs = outputs, .group = group, .parts = parts, .padded = padded,
        .line = (wide[1] * (32 / fields) + 7) / 8, .x = x->data, .scale = scale ? scale->data : NULL,
        .w = w->data, .sums = sums, .y = out->data, .places = (int32_t *)(sums + 4 * padded),
      },
    };
  if (p && sums && transposed) pack_x(&p->s, fields, kernels->lanes);
  int ok = p && sums && run_chunks(&p->work, f, threads_of(f));
  for (int64_t row = 0; ok && !transposed && row < rows; row++) { /* in order, for any threads */
    float *y = p->s.y + row * outputs, *from = sums + row * padded;
    memcpy(y, from, outputs * sizeof(float));
    for (int64_t part = 1; part < parts; part++)
      for (int64_t o = 0; o < outputs; o++) y[o] += from[2 * part * rows * padded + o];
  }
  if (p) release(&p->work);
  else free_vectors(sums);
  return ok ? NULL : error(f->api, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED, "jaxnet: no memory");
}

XLA_FFI_Error *jaxnet_gemv(XLA_FFI_CallFrame *f) { return gemv(f, 0); }
XLA_FFI_Error *jaxnet_gemv_transposed(XLA_FFI_CallFrame *f) { return gemv(f, 1); }
