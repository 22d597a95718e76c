// AVX2 and FMA: 8 floats, 16 registers.
#include <immintrin.h>

#include "mlp_step.h"

#define W 8
#define COLUMNS 3
#define VERSION avx2_version
#define VERSION_NAME "avx2"

typedef float Floats __attribute__((vector_size(W * 4)));

// 12 bits, doubled by one step of Newton's method.
static inline Floats reciprocal(Floats x) {
  const Floats y = _mm256_rcp_ps(x);
  return y * (2.0f - x * y);
}
static inline Floats inverse_root(Floats x) {
  const Floats y = _mm256_rsqrt_ps(x);
  return y * (1.5f - 0.5f * x * y * y);
}

#include "mlp_step.inc"
