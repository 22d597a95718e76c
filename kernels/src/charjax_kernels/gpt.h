// Interface between the FFI handlers of a GPT's products and their versions, which are compiled once
// per instruction set.
#pragma once
#include <cstdint>

namespace charjax {

// A task of a phase; `worker` is below the number of threads, and has one task at a time.
using Task = void (*)(void* data, int64_t phase, int64_t index, int64_t worker);

// The threads of a call. (No std::function: versions instantiate nothing of the standard library.)
class Team {
 public:
  // Run tasks of `phases` phases, `even` of each even phase and `odd` of each odd one; those of a
  // phase may run at the same time, after all of the phase before.
  virtual void run(int64_t phases, int64_t even, int64_t odd, Task task, void* data) const = 0;
  virtual int64_t threads() const = 0;

 protected:
  ~Team() = default;
};

// How a product ends: nothing more; GELU, with its derivative; or a factor for each element.
enum class End { kPlain, kGelu, kFactor };

// c (M, N) = a (M, K) b (K, N); a[m][k] stands at m * a_row + k * a_step, one of which is 1, and
// b[k][n] at k * b_row + n * b_step, likewise.
struct Product {
  int64_t M, K, N;
  const float* a;
  int64_t a_row, a_step;
  const float* b;
  int64_t b_row, b_step;
  float* c;
  End end;
  float* derivative;    // of GELU, (M, N)
  const float* factor;  // (M, N)
};

// Rows of a block of queries; a block's weights reach to its last key, rounded up to kPad.
constexpr int64_t kQueries = 32, kPad = 16;

// Causal attention: of `texts` texts of T positions, H heads of K numbers.
struct Attention {
  int64_t texts, T, H, K;
  const float* qkv;    // (texts, T, 3, H, K)
  float* weights;      // (texts, H, saved), by block of queries
  float* out;          // (texts, T, H, K)
  const float* g;      // as `out`: its gradient
  float* qkv_gradient;

  int64_t width(int64_t start) const {
    const int64_t end = start + kQueries < T ? start + kQueries : T;
    return (end + kPad - 1) / kPad * kPad;
  }
  int64_t saved() const {
    int64_t total = 0;
    for (int64_t start = 0; start < T; start += kQueries)
      total += (start + kQueries < T ? kQueries : T - start) * width(start);
    return total;
  }
};

struct GptVersion {
  const char* name;
  // Floats of scratch memory, aligned to 64 bytes: of a product, and of each thread of attention.
  int64_t (*product_scratch)(const Product&);
  int64_t (*attention_scratch)(const Attention&);
  void (*product)(const Product&, const Team&, float* scratch);
  // One head of one text, `index` of texts x H.
  void (*attend)(const Attention&, int64_t index, float* scratch);
  void (*attend_backward)(const Attention&, int64_t index, float* scratch);
};

GptVersion generic_gpt_version();
GptVersion avx2_gpt_version();
GptVersion avx512_gpt_version();

}  // namespace charjax
