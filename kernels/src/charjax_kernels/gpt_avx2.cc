// AVX2 and FMA: 8 floats, 16 registers, 12 of them sums.
#include <immintrin.h>

#include "gpt.h"

#define W 8
#define ROWS 4
#define COLUMNS 3
#define VERSION avx2_gpt_version
#define VERSION_NAME "avx2"

typedef float Floats __attribute__((vector_size(W * 4)));

// 12 bits, doubled by one step of Newton's method.
static inline Floats reciprocal(Floats x) {
  const Floats y = _mm256_rcp_ps(x);
  return y * (2.0f - x * y);
}

#include "gpt.inc"
