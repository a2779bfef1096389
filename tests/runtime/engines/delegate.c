/* A delegate that does what its option `mode` says, well or badly. LiteRT's C headers come in no wheel, so what
   is needed of them is declared here: the layouts are those of LiteRT 1 and 2 and of TensorFlow Lite since 2.4. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int Status; /* 0 is well */
typedef struct { int size; int data[]; } IntArray;
typedef struct {
  int type;
  void *data;
  IntArray *dims;
  struct { float scale; int32_t zero_point; } params;
  int allocation; /* 1: constant */
  size_t bytes;
  const void *mapping;
  const char *name;
  void *delegate;
  int buffer_handle;
  bool data_is_stale, is_variable;
  struct { int type; void *params; } quantization;
  void *sparsity;
  const IntArray *dims_signature;
} Tensor;
typedef struct { IntArray *inputs, *outputs; } Node;
typedef struct Context Context;
typedef struct Delegate Delegate;
typedef struct {
  void *(*init)(Context *, const char *, size_t);
  void (*free)(Context *, void *);
  Status (*prepare)(Context *, Node *);
  Status (*invoke)(Context *, Node *);
  void *profiling_string;
  int32_t builtin_code;
  const char *custom_name;
  int version;
  void *external, *async_kernel;
  uint64_t inplace_operator;
} Registration;
struct Context {
  size_t tensors_size;
  Status (*plan)(Context *, IntArray **);
  Tensor *tensors;
  void *impl, *resize_tensor, *report_error, *add_tensors, *node_and_registration;
  Status (*replace)(Context *, Registration, const IntArray *, Delegate *);
};
struct Delegate {
  void *data;
  Status (*prepare)(Context *, Delegate *);
  void *copy_from, *copy_to, *free_handle;
  int64_t flags;
  void *builder;
};

static char mode[64], flag[256];
static int calls, made;

static int is(const char *word) { return strcmp(mode, word) == 0; }

static Status ready(Context *context, Node *node) { return 0; }

/* y = w x, for one FULLY_CONNECTED without bias: x (1, n), w (m, n), y (1, m) */
static void multiply(Context *context, Node *node) {
  Tensor *x = NULL, *w = NULL, *y = &context->tensors[node->outputs->data[0]];
  for (int i = 0; i < node->inputs->size; i++) {
    Tensor *tensor = &context->tensors[node->inputs->data[i]];
    if (tensor->allocation == 1) w = tensor; else x = tensor;
  }
  int n = w->dims->data[1];
  for (int row = 0; row < w->dims->data[0]; row++) {
    float sum = 0;
    for (int i = 0; i < n; i++) sum += ((float *)w->data)[row * n + i] * ((float *)x->data)[i];
    ((float *)y->data)[row] = sum;
  }
}

static Status run(Context *context, Node *node) {
  bool late = *flag && access(flag, F_OK) == 0; /* trouble begins once somebody has made this file */
  if (is("crash-run") || (is("crash-later") && late)) abort();
  if (is("hang-run") || (is("hang-later") && late)) sleep(600);
  if (is("fail-run")) return 1;
  if (is("slow")) usleep(20000);
  if (is("zeros")) {
    Tensor *y = &context->tensors[node->outputs->data[0]];
    memset(y->data, 0, y->bytes);
  } else {
    multiply(context, node);
  }
  return 0;
}

static Status take(Context *context, Delegate *delegate) {
  if (is("crash-prepare")) *(volatile int *)8 = 1;
  IntArray *nodes;
  if (is("nothing")) return 0;
  if (is("error-prepare") || context->plan(context, &nodes)) return 1;
  Registration kernel = {.prepare = ready, .invoke = run, .custom_name = "TestDelegate", .version = 1};
  IntArray *taken = malloc(sizeof(int) * (nodes->size + 1)); /* the plan is gone once it is replaced */
  memcpy(taken, nodes, sizeof(int) * (nodes->size + 1));
  Status status = context->replace(context, kernel, taken, delegate);
  free(taken);
  return status;
}

Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*report)(const char *)) {
  char told[1024] = "";
  for (size_t i = 0; i < count; i++) {
    if (!strcmp(keys[i], "mode")) snprintf(mode, sizeof mode, "%s", values[i]);
    if (!strcmp(keys[i], "flag")) snprintf(flag, sizeof flag, "%s", values[i]);
    snprintf(told + strlen(told), sizeof told - strlen(told), "[%s=%s]", keys[i], values[i]);
  }
  puts("a delegate may print what it likes");
  fflush(stdout);
  if (is("crash-create")) abort();
  if (is("exit-create")) exit(0);
  if (is("hang-create")) sleep(600);
  if (is("eat-memory")) while (memset(malloc(1 << 24), 1, 1 << 24)) calls++;
  if (is("refuse")) { report("no accelerator was found, options were "); report(told); return NULL; }
  if (is("once") && made++) { report("the accelerator is taken"); return NULL; }
  Delegate *delegate = calloc(1, sizeof *delegate);
  delegate->prepare = take;
  return delegate;
}

void tflite_plugin_destroy_delegate(Delegate *delegate) {
  if (is("crash-destroy")) abort();
  free(delegate);
}
