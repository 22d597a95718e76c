// Whatever the compiler makes of vectors of 8 floats on this processor.
#include "decode_step.h"

#define W 8
#define ROWS 4
#define MANY 2
#define TWO 2
#define ONE 4
#define ARITHMETIC generic_arithmetic
#define ARITHMETIC_NAME "generic"

typedef float Floats __attribute__((vector_size(W * 4)));

#include "decode_step.inc"
