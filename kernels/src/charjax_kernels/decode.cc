// The handler that XLA calls to generate one text: the loop over tokens, two threads, and the draws.
#include <cmath>
#include <cstdlib>
#include <cstring>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "decode_step.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace charjax {
namespace {

const Arithmetic& arithmetic() {
  static const Arithmetic chosen = [] {
#if defined(__x86_64__)
    const Arithmetic all[] = {avx512_arithmetic(), avx2_arithmetic()};
    for (const Arithmetic& each : all)
      if (!std::strcmp(each.name, charjax_instruction_set())) return each;
#endif
    return generic_arithmetic();
  }();
  return chosen;
}

inline void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Short waits are spent spinning, as a half of a layer takes a few microseconds. Then the core is
// offered to others; a partner that has not come after kLate has lost its own core, and is slept for.
constexpr int kSpins = 400;
constexpr std::chrono::microseconds kLate{40}, kSleep{50};

// Wait until `counter` has reached `value`; return true if that took longer than kLate.
bool wait_for(const std::atomic<int64_t>& counter, int64_t value) {
  const auto has_come = [&] { return counter.load(std::memory_order_acquire) >= value; };
  for (int i = 0; i < kSpins; ++i) {
    if (has_come()) return false;
    pause_briefly();
  }
  const auto began = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - began < kLate) {
    if (has_come()) return false;
    std::this_thread::yield();
  }
  while (!has_come()) std::this_thread::sleep_for(kSleep);
  return true;
}

struct Freed {
  void operator()(float* memory) const { std::free(memory); }
};
using Floats = std::unique_ptr<float, Freed>;

Floats make_floats(int64_t count) {
  const std::size_t bytes = (count * sizeof(float) + 63) / 64 * 64;
  Floats memory(static_cast<float*>(std::aligned_alloc(64, bytes)));
  if (memory) std::memset(memory.get(), 0, bytes);
  return memory;
}

// The forward passes of one call. A second thread takes part from whichever pass on it is ready, in
// the half that would else follow the first; so the sums are the same with it and without.
class Passes {
 public:
  Passes(const Form& form, const float* weights) : form_(form), weights_(weights) {
    const int64_t wide = std::max(form.qkv_of(0), form.up_of(0));
    const int64_t scores = form.C() + form.K();
    const int64_t each = kMostRows * (2 * form.D() + wide + form.attended()) + scores;
    const int64_t sums = kMostRows * form.D();
    memory_ = make_floats(kHalves * (each + 2 * sums));
    float* next = memory_.get();
    for (int half = 0; next && half < kHalves; ++half) {
      const auto take = [&next](int64_t count) { return next += count, next - count; };
      Scratch& s = scratch_[half];
      s.x = take(kMostRows * form.D());
      s.h = take(kMostRows * form.D());
      s.wide = take(kMostRows * wide);
      s.attended = take(kMostRows * form.attended());
      s.scores = take(scores);
      attention_[half] = take(sums);
      mlp_[half] = take(sums);
    }
  }

  bool has_memory() const { return memory_ != nullptr; }
  bool was_late() const { return is_late_; }
  const Scratch& scratch() const { return scratch_[0]; }

  // Called by the first thread.
  void run(const Rows& rows) {
    rows_ = rows;
    if (!is_late_ && is_ready_.load(std::memory_order_acquire)) {
      begun_.store(begun_ + 1, std::memory_order_release);
      pass(0);
      if (is_late_) end();
    } else {
      pass_alone();
    }
  }
  void end() { begun_.store(kEnd, std::memory_order_release); }

  // What the second thread does until the end of the call.
  void help() {
    if (begun_.load(std::memory_order_acquire) == kEnd) return;
    is_ready_.store(true, std::memory_order_release);
    for (int64_t next = 1;; ++next) {
      wait_for(begun_, next);
      if (begun_.load(std::memory_order_acquire) == kEnd) return;
      pass(1);
    }
  }

 private:
 private:
  void pass(int half) {
    const Scratch& s = scratch_[half];
    // The first thread describes the next pass while the second returns from this one.
    const Rows rows = rows_;
    arithmetic().embed(form_, weights_, rows, s);
    for (int64_t layer = 0; layer < form_.layers; ++layer) {
      arithmetic().attend(form_, weights_, rows, s, layer, half, attention_[half]);
      const bool is_last = layer == form_.layers - 1;
      meet(half);
      if (is_last && rows.is_fill) return;
      arithmetic().add(form_, rows, s, attention_);
      arithmetic().feed(form_, weights_, rows, s, layer, half, mlp_[half]);
      meet(half);
      // The second thread is not asked for its stream.
      if (is_last && half) return;
      arithmetic().add(form_, rows, s, mlp_);
    }
  }

  void pass_alone() {
    const Scratch& s = scratch_[0];
    arithmetic().embed(form_, weights_, rows_, s);
    for (int64_t layer = 0; layer < form_.layers; ++layer) {
      for (int half = 0; half < kHalves; ++half)
        arithmetic().attend(form_, weights_, rows_, s, layer, half, attention_[half]);
      if (layer == form_.layers - 1 && rows_.is_fill) return;
      arithmetic().add(form_, rows_, s, attention_);
      for (int half = 0; half < kHalves; ++half)
        arithmetic().feed(form_, weights_, rows_, s, layer, half, mlp_[half]);
      arithmetic().add(form_, rows_, s, mlp_);
    }
  }

  void meet(int half) {
    const int64_t count = met_[half].load(std::memory_order_relaxed) + 1;
    met_[half].store(count, std::memory_order_release);
    const bool is_late = wait_for(met_[1 - half], count);
    if (!half && is_late) is_late_ = true;
  }

  static constexpr int64_t kEnd = INT64_MAX;
  const Form form_;
  const float* const weights_;
  Floats memory_;
  Scratch scratch_[kHalves];
  float *attention_[kHalves], *mlp_[kHalves];
  Rows rows_{};
  bool is_late_ = false;
  alignas(64) std::atomic<bool> is_ready_{false};
  alignas(64) std::atomic<int64_t> begun_{0};
  struct alignas(64) Count : std::atomic<int64_t> {};
  Count met_[kHalves]{};
};

// Where other processes hold the cores a partner is late again and again. After it was, some calls are
// made by one thread: twice as many each time, and half as many after a call in which it was not.
class Patience {
 public:
  bool allows() {
    if (left_.load() <= 0) return true;
    --left_;
    return false;
  }
  void report(bool was_late) {
    const int pause = pause_.load();
    if (was_late) left_ = pause;
    pause_ = was_late ? std::min(2 * pause, kMost) : std::max(pause / 2, kLeast);
  }

 private:
  static constexpr int kLeast = 2, kMost = 128;
  std::atomic<int> left_{0}, pause_{kLeast};
};

struct Draw {
  float temperature;
  double top_p, min_p;
  int64_t top_k;
  bool greedy;
};

// The first of the largest, or the first that is not a number, as XLA has it.
int32_t argmax(const float* x, int64_t count) {
  int64_t best = 0;
  for (int64_t i = 1; i < count && !std::isnan(x[best]); ++i)
    if (x[i] > x[best] || std::isnan(x[i])) best = i;
  return static_cast<int32_t>(best);
}

// generation/sampling.py: `process` with the noise added, and the likeliest. `order` and `shares` are
// for its use.
int32_t draw(const Draw& d, const float* logits, const float* noise, int64_t V, float* x,
             std::vector<int32_t>& order, std::vector<double>& shares) {
  if (d.greedy) return argmax(logits, V);
  std::memcpy(x, logits, V * sizeof(float));
  if (d.temperature != 1.0f) {
    const float most = x[argmax(x, V)];
    for (int64_t i = 0; i < V; ++i) x[i] = (x[i] - most) / d.temperature;
  }
  if (d.top_k < V || d.top_p < 1.0) {
    for (int64_t i = 0; i < V; ++i) order[i] = static_cast<int32_t>(i);
    // What is not a number comes last.
    std::stable_sort(order.begin(), order.end(), [x](int32_t a, int32_t b) {
      return x[a] > x[b] || (std::isnan(x[b]) && !std::isnan(x[a]));
    });
    int64_t left = std::min(d.top_k, V);
    if (d.top_p < 1.0) {
      double sum = 0.0, cumulative = 0.0;
      for (int64_t i = 0; i < left; ++i)
        sum += shares[i] = std::exp(static_cast<double>(x[order[i]]) - x[order[0]]);
      int64_t i = 0;
      for (; i < left; ++i) {
        cumulative += shares[i] / sum;
        if (!(cumulative - shares[i] / sum < d.top_p)) break;
      }
      left = i;
    }
    for (int64_t i = left; i < V; ++i) x[order[i]] = -INFINITY;
  }
  if (d.min_p > 0.0) {
    const double most = x[argmax(x, V)];
    for (int64_t i = 0; i < V; ++i)
      if (!(std::exp(x[i] - most) >= d.min_p)) x[i] = -INFINITY;
  }
  for (int64_t i = 0; i < V; ++i) x[i] += noise[i];
  return argmax(x, V);
}

// The tokens from which the next is drawn, and two caches: of the first tokens of this window, and of
// the first of those with which the next one will begin.
struct Window {
  int32_t* tokens;
  int64_t count, cached, next_cached;
  float *cache, *next_cache;

  // generation/generate.py: `window_start` with "jump".
  static int64_t newest(int64_t context) { return std::max<int64_t>(1, context / 2); }
  static int64_t stride(int64_t context) { return context + 1 - newest(context); }

  Row row(int64_t position) const { return {tokens[position], position, cache}; }
  // The next window's, from the tokens that it shares with this one.
  Row next_row(int64_t context) const {
    return {tokens[stride(context) + next_cached], next_cached, next_cache};
  }
  bool has_next_row(int64_t context) const { return stride(context) + next_cached < count; }

  void append(int32_t token, int64_t context) {
    if (count < context) {
      tokens[count++] = token;
      return;
    }
    count = newest(context);
    std::memmove(tokens, tokens + stride(context), (count - 1) * sizeof(int32_t));
    tokens[count - 1] = token;
    std::swap(cache, next_cache);
    cached = next_cached;
    next_cached = 0;
  }
};

// Read what is missing before the newest token. After a jump that is nothing, but for the first one
// after a prompt.
void fill(Passes& passes, Window& window) {
  while (window.cached < window.count - 1) {
    Rows rows{};
    rows.count = arithmetic().rows;
    rows.is_fill = true;
    while (rows.used < rows.count && window.cached < window.count - 1)
      rows.row[rows.used++] = window.row(window.cached++);
    passes.run(rows);
  }
}

// Read the newest token. A second one costs little, as the weights are read anyway: the next window is
// prepared by one token a step.
void step(Passes& passes, Window& window, int64_t context) {
  Rows rows{};
  rows.row[rows.used++] = window.row(window.cached++);
  if (window.has_next_row(context)) {
    rows.row[rows.used++] = window.next_row(context);
    ++window.next_cached;
  }
  rows.count = rows.used;
  passes.run(rows);
}

using F32 = ffi::Buffer<ffi::F32>;
using S32 = ffi::Buffer<ffi::S32>;

// Between two calls: tokens in the window, those of it and of the next one that are read, and whether
// the second cache is that of the window. Then the most tokens to generate; in the results, their number.
enum Counter { kCount, kCached, kNextCached, kSecond, kSteps, kCounters };

// weights (Form::size), cache (2, Form::cache_size), window (C), counts (kCounters), noise (N, V), or none
// of it if greedy. The results are cache, window and counts, tokens (N) and their logits (N, V).
ffi::Error decode(ffi::ThreadPool pool, F32 weights, F32 cache, S32 window, S32 counts, F32 noise,
                  ffi::Result<F32> new_cache, ffi::Result<S32> new_window,
                  ffi::Result<S32> new_counts, ffi::Result<S32> tokens, ffi::Result<F32> logits,
                  int64_t vocabulary, int64_t width, int64_t heads, int64_t layers, int64_t hidden,
                  bool tanh, float epsilon, float temperature, int64_t top_k, double top_p,
                  double min_p, bool greedy, int64_t stop, int64_t threads) {
  const auto size_of = [](const auto& array) { return static_cast<int64_t>(array.element_count()); };
  const int64_t V = vocabulary, C = size_of(window), most = size_of(*tokens);
  const Form form{V, C, width, heads, layers, hidden, tanh, epsilon};
  const int64_t caches = 2 * form.cache_size();
  if (size_of(weights) != form.size() || size_of(cache) != caches || size_of(counts) != kCounters ||
      size_of(noise) != (greedy ? 0 : most * V) || size_of(*new_cache) != caches ||
      size_of(*new_window) != C || size_of(*new_counts) != kCounters || size_of(*logits) != most * V)
    return ffi::Error::InvalidArgument("decode: the arrays' sizes do not fit each other");
  if (new_cache->typed_data() != cache.typed_data())
    std::memcpy(new_cache->typed_data(), cache.typed_data(), cache.size_bytes());
  std::memmove(new_window->typed_data(), window.typed_data(), window.size_bytes());
  const int32_t* given = counts.typed_data();
  Window text{new_window->typed_data(), given[kCount],           given[kCached],
              given[kNextCached],       new_cache->typed_data(), new_cache->typed_data() + caches / 2};
  if (given[kSecond]) std::swap(text.cache, text.next_cache);
  const int64_t steps = given[kSteps];
  if (text.count < 1 || text.count > C || text.cached < 0 || text.cached >= text.count ||
      text.next_cached < 0 || text.next_cached > Window::newest(C) || steps < 0 || steps > most)
    return ffi::Error::InvalidArgument("decode: a count is out of its bounds");
  for (int64_t i = 0; i < text.count; ++i)
    if (text.tokens[i] < 0 || text.tokens[i] >= V)
      return ffi::Error::InvalidArgument("decode: a token is not a symbol");

  auto passes = std::make_shared<Passes>(form, weights.typed_data());
  Floats row = make_floats(form.V()), shifted = make_floats(form.V());
  if (!passes->has_memory() || !row || !shifted)
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "decode: no memory");
  static Patience patience;
  const bool is_shared = threads > 1 && steps && patience.allows();
  // A thread of XLA's own, which sleeps between its tasks. If it comes too late it finds the end.
  if (is_shared) pool.Schedule([passes] { passes->help(); });
  const Draw settings{temperature, top_p, min_p, top_k, greedy};
  std::vector<int32_t> order(V);
  std::vector<double> shares(V);
  int64_t made = 0;
  for (bool has_ended = false; made < steps && !has_ended; ++made) {
    fill(*passes, text);
    step(*passes, text, C);
    arithmetic().read_out(form, weights.typed_data(), passes->scratch(), row.get());
    std::memcpy(logits->typed_data() + made * V, row.get(), V * sizeof(float));
    const float* drawn = greedy ? nullptr : noise.typed_data() + made * V;
    const int32_t token = draw(settings, row.get(), drawn, V, shifted.get(), order, shares);
    tokens->typed_data()[made] = token;
    text.append(token, C);
    has_ended = token == stop;
  }
  passes->end();
  if (is_shared) patience.report(passes->was_late());
  std::fill(tokens->typed_data() + made, tokens->typed_data() + most, 0);
  std::fill(logits->typed_data() + made * V, logits->typed_data() + most * V, 0.0f);
  int32_t* left = new_counts->typed_data();
  left[kCount] = static_cast<int32_t>(text.count);
  left[kCached] = static_cast<int32_t>(text.cached);
  left[kNextCached] = static_cast<int32_t>(text.next_cached);
  left[kSecond] = text.cache != new_cache->typed_data();
  left[kSteps] = static_cast<int32_t>(made);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace charjax

XLA_FFI_DEFINE_HANDLER_SYMBOL(charjax_decode, charjax::decode,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<charjax::F32>()
                                  .Arg<charjax::F32>()
                                  .Arg<charjax::S32>()
                                  .Arg<charjax::S32>()
                                  .Arg<charjax::F32>()
                                  .Ret<charjax::F32>()
                                  .Ret<charjax::S32>()
                                  .Ret<charjax::S32>()
                                  .Ret<charjax::S32>()
                                  .Ret<charjax::F32>()
                                  .Attr<int64_t>("vocabulary")
                                  .Attr<int64_t>("width")
                                  .Attr<int64_t>("heads")
                                  .Attr<int64_t>("layers")
                                  .Attr<int64_t>("hidden")
                                  .Attr<bool>("tanh")
                                  .Attr<float>("epsilon")
                                  .Attr<float>("temperature")
                                  .Attr<int64_t>("top_k")
                                  .Attr<double>("top_p")
                                  .Attr<double>("min_p")
                                  .Attr<bool>("greedy")
                                  .Attr<int64_t>("stop")
                                  .Attr<int64_t>("threads"));
