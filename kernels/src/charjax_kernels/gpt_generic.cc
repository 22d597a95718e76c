// Whatever the compiler makes of vectors of 8 floats on this processor.
#include "gpt.h"

#define W 8
#define ROWS 4
#define COLUMNS 1
#define VERSION generic_gpt_version
#define VERSION_NAME "generic"

typedef float Floats __attribute__((vector_size(W * 4)));

static inline Floats reciprocal(Floats x) { return 1.0f / x; }

#include "gpt.inc"
