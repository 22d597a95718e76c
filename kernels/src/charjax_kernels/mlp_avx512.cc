// AVX-512: 16 floats, 32 registers.
#include <immintrin.h>

#include "mlp_step.h"

#define W 16
#define COLUMNS 5
#define VERSION avx512_version
#define VERSION_NAME "avx512"

typedef float Floats __attribute__((vector_size(W * 4)));

// 14 bits, doubled by one step of Newton's method.
static inline Floats reciprocal(Floats x) {
  const Floats y = _mm512_rcp14_ps(x);
  return y * (2.0f - x * y);
}
static inline Floats inverse_root(Floats x) {
  const Floats y = _mm512_rsqrt14_ps(x);
  return y * (1.5f - 0.5f * x * y * y);
}

#include "mlp_step.inc"
