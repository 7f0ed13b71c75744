/* How XLA calls a kernel: what these files use of its foreign function interface, version 0.
 *
 * XLA gives one FfiCall to a handler, which returns NULL or an error. XLA's own names and all that is
 * left out here are in `jax.ffi.include_dir()`/xla/ffi/api/c_api.h of an installed JAX, with which
 * tests/ops/native/test_ffi.py compares each size, place and number. Versions of the interface only
 * add: functions at the end of FfiApi, fields at the end of what one of the two sides hands over. So
 * both say in `size` how many bytes they know, and what is added may be left out here. */

#pragma once
#include <stddef.h>
#include <stdint.h>

/* The versions 0.1, of JAX 0.7, to 0.5 have all that is here. */
enum { FFI_MAJOR = 0, FFI_OLDEST = 1, FFI_NEWEST = 5 };

/* The bytes of a structure up to the end of a field, the last one. */
#define FFI_SIZE(structure, last) (offsetof(structure, last) + sizeof((structure){0}.last))

/* Further questions that come with a call. The only kind asks which version a handler was made for. */
typedef enum { FFI_METADATA = 1 } FfiQuestion;
typedef struct FfiExtension {
  size_t size;
  FfiQuestion kind;
  struct FfiExtension *next;
} FfiExtension;

typedef struct {
  size_t size;
  FfiExtension *extensions;
  int32_t major, minor;
} FfiVersion;

typedef struct {
  size_t size;
  FfiVersion version;
  uint32_t traits; /* 0: nothing that a GPU could record */
} FfiMetadata;

typedef struct {
  FfiExtension extension; /* of kind FFI_METADATA */
  FfiMetadata *metadata;  /* to be filled */
} FfiMetadataQuestion;

/* Arrays, and options of a call. */
typedef enum {
  FFI_PRED = 1, FFI_S4 = 21, FFI_S8 = 2, FFI_S32 = 4, FFI_S64 = 5, FFI_U8 = 6, FFI_U32 = 8,
  FFI_F16 = 10, FFI_BF16 = 16, FFI_F32 = 11,
} FfiType;

typedef struct {
  size_t size;
  FfiExtension *extensions;
  FfiType type;
  void *data;
  int64_t rank, *dims;
} FfiBuffer;

typedef struct {
  FfiType type;
  size_t count;
  void *data;
} FfiArray;

typedef struct {
  FfiType type;
  void *value;
} FfiScalar;

/* What a kernel reads, what it writes, and its options in the order of their names. All operands and
 * results are buffers. */
typedef struct {
  size_t size;
  FfiExtension *extensions;
  int64_t count;
  void *kinds;
  FfiBuffer **buffers;
} FfiBuffers;

typedef enum { FFI_ARRAY = 1, FFI_SCALAR = 3 } FfiOption;
typedef struct {
  size_t size;
  FfiExtension *extensions;
  int64_t count;
  FfiOption *kinds; /* a value is a FfiArray or a FfiScalar */
  void *names, **values;
} FfiOptions;

/* Errors: XLA makes and drops them, and a handler that returns one has given it away. */
typedef struct FfiError FfiError;
typedef enum { FFI_INVALID_ARGUMENT = 3, FFI_RESOURCE_EXHAUSTED = 8 } FfiCode;

typedef struct {
  size_t size;
  FfiExtension *extensions;
  const char *message;
  FfiCode code;
} FfiNewError;

typedef struct {
  size_t size;
  FfiExtension *extensions;
  FfiError *error;
} FfiDropError;

/* Threads: XLA runs `task(data)` in one that is free. */
typedef struct FfiContext FfiContext;
typedef void FfiTask(void *data);

typedef struct {
  size_t size;
  FfiExtension *extensions;
  FfiContext *context;
  FfiTask *task;
  void *data;
} FfiSchedule;

typedef struct {
  size_t size;
  FfiExtension *extensions;
  FfiContext *context;
  int64_t *threads; /* to be filled */
} FfiCountThreads;

/* What XLA does for a handler. Those between are of GPUs, and of handlers that remember something. */
typedef struct {
  size_t size;
  FfiExtension *extensions;
  FfiVersion version;
  void *internal;
  FfiError *(*new_error)(FfiNewError *);
  void *read_error;
  void (*drop_error)(FfiDropError *);
  void *between[8];
  FfiError *(*schedule)(FfiSchedule *);
  FfiError *(*count_threads)(FfiCountThreads *);
} FfiApi;

/* A call. Handlers are called at other stages too, to prepare. */
typedef enum { FFI_EXECUTE = 3 } FfiStage;
typedef struct {
  size_t size;
  FfiExtension *extensions;
  const FfiApi *api;
  FfiContext *context;
  FfiStage stage;
  FfiBuffers operands, results;
  FfiOptions options;
} FfiCall;
