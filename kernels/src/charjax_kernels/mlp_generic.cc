// Whatever the compiler makes of vectors of 8 floats on this processor.
#include "mlp_step.h"

#define W 8
#define COLUMNS 2
#define VERSION generic_version
#define VERSION_NAME "generic"

typedef float Floats __attribute__((vector_size(W * 4)));

static inline Floats reciprocal(Floats x) { return 1.0f / x; }
static inline Floats inverse_root(Floats x) {
  for (int i = 0; i < W; ++i) x[i] = 1.0f / __builtin_sqrtf(x[i]);
  return x;
}

#include "mlp_step.inc"
