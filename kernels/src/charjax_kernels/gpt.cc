// The handlers of a GPT's products and attention that XLA calls.
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <thread>

#include "gpt.h"
#include "isa.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace charjax {
namespace {

const GptVersion& chosen() {
#if defined(__x86_64__)
  static const GptVersion version =
      choose<GptVersion>({avx512_gpt_version(), avx2_gpt_version(), generic_gpt_version()});
#else
  static const GptVersion version = generic_gpt_version();
#endif
  return version;
}

// The tasks of a call. Threads take them in order; a helper that comes when none is left leaves at
// once, so a call never waits for a thread that has not started.
class Tasks {
 public:
  Tasks(int64_t phases, int64_t even, int64_t odd, Task task, void* data)
      : phases_(phases), counts_{even, odd}, task_(task), data_(data),
        done_(new std::atomic<int64_t>[static_cast<std::size_t>(phases)]) {
    for (int64_t p = 0; p < phases; ++p) {
      done_[p] = 0;
      total_ += counts_[p % 2];
    }
  }

  void work(int64_t worker) {
    int64_t phase = 0, begin = 0;
    for (int64_t next = next_++; next < total_; next = next_++) {
      while (next - begin >= counts_[phase % 2]) begin += counts_[phase++ % 2];
      if (phase > 0) wait(phase - 1);
      // The phase between may be empty.
      if (phase > 1) wait(phase - 2);
      task_(data_, phase, next - begin, worker);
      done_[phase].fetch_add(1, std::memory_order_release);
    }
  }

  void wait() const { wait(phases_ - 1); }

 private:
  void wait(int64_t phase) const {
    for (int spins = 0; done_[phase].load(std::memory_order_acquire) < counts_[phase % 2]; ++spins)
      // The thread that is awaited may have lost its core.
      if (spins > 2000) std::this_thread::yield();
  }

  const int64_t phases_;
  const int64_t counts_[2];
  const Task task_;
  void* const data_;
  const std::unique_ptr<std::atomic<int64_t>[]> done_;
  std::atomic<int64_t> next_{0};
  int64_t total_ = 0;
};

// This thread alone, or with those of XLA's pool.
class Threads : public Team {
 public:
  Threads(ffi::ThreadPool& pool, bool alone)
      : pool_(pool), count_(alone ? 1 : pool.num_threads() > 1 ? pool.num_threads() : 1) {}

  void run(int64_t phases, int64_t even, int64_t odd, Task task, void* data) const override {
    const auto tasks = std::make_shared<Tasks>(phases, even, odd, task, data);
    for (int64_t helper = 1; helper < count_; ++helper)
      pool_.Schedule([tasks, helper] { tasks->work(helper); });
    tasks->work(0);
    tasks->wait();
  }
  int64_t threads() const override { return count_; }

 private:
  ffi::ThreadPool& pool_;
  const int64_t count_;
};

using Memory = std::unique_ptr<float, decltype(&std::free)>;

Memory allocate(int64_t floats) {
  const std::size_t bytes = (static_cast<std::size_t>(floats) * sizeof(float) + 63) / 64 * 64;
  return Memory(static_cast<float*>(std::aligned_alloc(64, bytes)), &std::free);
}

ffi::Error no_memory() { return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory"); }

using F32 = ffi::Buffer<ffi::F32>;
using Out = ffi::Result<ffi::Buffer<ffi::F32>>;
using Dimensions = ffi::Span<const int64_t>;

// The size of the last axis but `back`; the product of those before the last `kept`.
int64_t axis(const Dimensions& shape, std::size_t back) { return shape[shape.size() - 1 - back]; }
int64_t leading(const Dimensions& shape, std::size_t kept) {
  int64_t count = 1;
  for (std::size_t i = 0; i + kept < shape.size(); ++i) count *= shape[i];
  return count;
}

// a (.., M, K), or (.., K, M) if `left`; b (.., K, N), or (.., N, K) if `right`; c (.., M, N).
ffi::Error multiply(ffi::ThreadPool pool, F32& a, F32& b, Out& c, End end, float* derivative,
                    const float* factor, bool left, bool right, bool alone) {
  const auto of_a = a.dimensions(), of_b = b.dimensions();
  if (of_a.size() < 2 || of_b.size() < 2)
    return ffi::Error::InvalidArgument("a product of arrays of less than two axes");
  Product x{};
  x.M = axis(of_a, left ? 0 : 1);
  x.K = axis(of_a, left ? 1 : 0);
  x.N = axis(of_b, right ? 1 : 0);
  const int64_t count = leading(of_a, 2), size = x.M * x.N;
  if (axis(of_b, right ? 0 : 1) != x.K || leading(of_b, 2) != count ||
      static_cast<int64_t>(c->element_count()) != count * size)
    return ffi::Error::InvalidArgument("the arrays of a product do not fit each other");
  x.a_row = left ? 1 : x.K;
  x.a_step = left ? x.M : 1;
  x.b_row = right ? 1 : x.N;
  x.b_step = right ? x.K : 1;
  x.end = end;
  const Memory scratch = allocate(chosen().product_scratch(x));
  if (!scratch) return no_memory();
  const Threads threads(pool, alone);
  for (int64_t i = 0; i < count; ++i) {
    x.a = a.typed_data() + i * x.M * x.K;
    x.b = b.typed_data() + i * x.K * x.N;
    x.c = c->typed_data() + i * size;
    x.derivative = derivative ? derivative + i * size : nullptr;
    x.factor = factor ? factor + i * size : nullptr;
    chosen().product(x, threads, scratch.get());
  }
  return ffi::Error::Success();
}

ffi::Error product(ffi::ThreadPool pool, F32 a, F32 b, Out c, bool left, bool right, bool alone) {
  return multiply(pool, a, b, c, End::kPlain, nullptr, nullptr, left, right, alone);
}

ffi::Error product_gelu(ffi::ThreadPool pool, F32 a, F32 b, Out c, Out derivative, bool left,
                        bool right, bool alone) {
  if (derivative->element_count() != c->element_count())
    return ffi::Error::InvalidArgument("the derivative has another size than the product");
  float* to = derivative->typed_data();
  return multiply(pool, a, b, c, End::kGelu, to, nullptr, left, right, alone);
}

ffi::Error product_factor(ffi::ThreadPool pool, F32 a, F32 b, F32 factor, Out c, bool left,
                          bool right, bool alone) {
  if (factor.element_count() != c->element_count())
    return ffi::Error::InvalidArgument("the factor has another size than the product");
  const float* from = factor.typed_data();
  return multiply(pool, a, b, c, End::kFactor, nullptr, from, left, right, alone);
}

// Set the sizes of an attention with qkv (.., T, 3 H K).
ffi::Error describe(const F32& qkv, std::size_t weights, std::size_t out, int64_t heads,
                    Attention* x) {
  const auto shape = qkv.dimensions();
  if (shape.size() < 2 || heads < 1 || axis(shape, 0) % (3 * heads))
    return ffi::Error::InvalidArgument("attention: queries, keys and values of all heads");
  x->texts = leading(shape, 2);
  x->T = axis(shape, 1);
  x->H = heads;
  x->K = axis(shape, 0) / (3 * heads);
  x->qkv = qkv.typed_data();
  if (static_cast<int64_t>(weights) != x->texts * heads * x->saved() ||
      3 * out != qkv.element_count())
    return ffi::Error::InvalidArgument("attention: the arrays do not fit each other");
  return ffi::Error::Success();
}

using Attend = void (*)(const Attention&, int64_t, float*);

struct AttentionWork {
  const Attention& x;
  const Attend attend;
  float* scratch;
  int64_t each;
};

ffi::Error attend_all(ffi::ThreadPool& pool, const Attention& x, Attend attend, bool alone) {
  const Threads threads(pool, alone);
  const int64_t each = (chosen().attention_scratch(x) + 15) / 16 * 16;
  const Memory scratch = allocate(each * threads.threads());
  if (!scratch) return no_memory();
  AttentionWork work{x, attend, scratch.get(), each};
  const Task task = [](void* data, int64_t, int64_t index, int64_t worker) {
    const auto& work = *static_cast<const AttentionWork*>(data);
    work.attend(work.x, index, work.scratch + worker * work.each);
  };
  threads.run(1, x.texts * x.H, 0, task, &work);
  return ffi::Error::Success();
}

ffi::Error attention(ffi::ThreadPool pool, F32 qkv, Out out, Out weights, int64_t heads,
                     bool alone) {
  Attention x{};
  const ffi::Error error =
      describe(qkv, weights->element_count(), out->element_count(), heads, &x);
  if (error.failure()) return error;
  x.weights = weights->typed_data();
  x.out = out->typed_data();
  return attend_all(pool, x, chosen().attend, alone);
}

ffi::Error attention_gradient(ffi::ThreadPool pool, F32 qkv, F32 weights, F32 g, Out gradient,
                              int64_t heads, bool alone) {
  Attention x{};
  const ffi::Error error = describe(qkv, weights.element_count(), g.element_count(), heads, &x);
  if (error.failure()) return error;
  if (gradient->element_count() != qkv.element_count())
    return ffi::Error::InvalidArgument("attention: a gradient of another size");
  // It is only read there.
  x.weights = weights.typed_data();
  x.g = g.typed_data();
  x.qkv_gradient = gradient->typed_data();
  return attend_all(pool, x, chosen().attend_backward, alone);
}

}  // namespace
}  // namespace charjax

XLA_FFI_DEFINE_HANDLER_SYMBOL(charjax_product, charjax::product,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<charjax::F32>()
                                  .Arg<charjax::F32>()
                                  .Ret<charjax::F32>()
                                  .Attr<bool>("left")
                                  .Attr<bool>("right")
                                  .Attr<bool>("alone"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(charjax_product_gelu, charjax::product_gelu,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<charjax::F32>()
                                  .Arg<charjax::F32>()
                                  .Ret<charjax::F32>()
                                  .Ret<charjax::F32>()
                                  .Attr<bool>("left")
                                  .Attr<bool>("right")
                                  .Attr<bool>("alone"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(charjax_product_factor, charjax::product_factor,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<charjax::F32>()
                                  .Arg<charjax::F32>()
                                  .Arg<charjax::F32>()
                                  .Ret<charjax::F32>()
                                  .Attr<bool>("left")
                                  .Attr<bool>("right")
                                  .Attr<bool>("alone"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(charjax_attention, charjax::attention,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<charjax::F32>()
                                  .Ret<charjax::F32>()
                                  .Ret<charjax::F32>()
                                  .Attr<int64_t>("heads")
                                  .Attr<bool>("alone"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(charjax_attention_gradient, charjax::attention_gradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<charjax::F32>()
                                  .Arg<charjax::F32>()
                                  .Arg<charjax::F32>()
                                  .Ret<charjax::F32>()
                                  .Attr<int64_t>("heads")
                                  .Attr<bool>("alone"));
