// AVX-512: 16 floats, 32 registers.
#include "decode_step.h"

#define W 16
#define ROWS 8
#define MANY 3
#define TWO 8
#define ONE 8
#define ARITHMETIC avx512_arithmetic
#define ARITHMETIC_NAME "avx512"

typedef float Floats __attribute__((vector_size(W * 4)));

#include "decode_step.inc"
