// AVX-512: 16 floats, 32 registers, 24 of them sums.
#include <immintrin.h>

#include "gpt.h"

#define W 16
#define ROWS 8
#define COLUMNS 3
#define VERSION avx512_gpt_version
#define VERSION_NAME "avx512"

typedef float Floats __attribute__((vector_size(W * 4)));

// 14 bits, doubled by one step of Newton's method.
static inline Floats reciprocal(Floats x) {
  const Floats y = _mm512_rcp14_ps(x);
  return y * (2.0f - x * y);
}

#include "gpt.inc"
