// AVX2 and FMA: 8 floats, 16 registers.
#include "decode_step.h"

#define W 8
#define ROWS 4
#define MANY 3
#define TWO 6
#define ONE 8
#define ARITHMETIC avx2_arithmetic
#define ARITHMETIC_NAME "avx2"

typedef float Floats __attribute__((vector_size(W * 4)));

#include "decode_step.inc"
