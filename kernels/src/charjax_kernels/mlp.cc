// The handler that XLA calls, and the choice of the instruction set.
#include <cstdlib>
#include <memory>

#include "isa.h"
#include "mlp_step.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace charjax {
namespace {

Version choose() {
#if defined(__x86_64__)
  return charjax::choose<Version>({avx512_version(), avx2_version(), generic_version()});
#else
  return generic_version();
#endif
}

const Version& chosen() {
  static const Version version = choose();
  return version;
}

using F32 = ffi::Buffer<ffi::F32>;
using S32 = ffi::Buffer<ffi::S32>;

// All arrays have the runs on a leading axis, or on several.
ffi::Error train_mlp(F32 parameters, F32 mean, F32 square, S32 counters, F32 sums, F32 factors,
                     F32 numbers, F32 rates, S32 inputs, S32 targets, F32 weights, S32 count,
                     ffi::Result<F32> new_parameters, ffi::Result<F32> new_mean,
                     ffi::Result<F32> new_square, ffi::Result<S32> new_counters,
                     ffi::Result<F32> new_sums, int64_t vocabulary, int64_t embedding,
                     int64_t hidden, int64_t max_skipped) {
  const auto shape = inputs.dimensions();
  if (shape.size() < 3) return ffi::Error::InvalidArgument("inputs: (..., steps, batch, context)");
  Sizes s{};
  s.vocabulary = vocabulary;
  s.embedding = embedding;
  s.hidden = hidden;
  s.context = shape[shape.size() - 1];
  s.batch = shape[shape.size() - 2];
  s.steps = shape[shape.size() - 3];
  s.max_skipped = max_skipped;
  s.adam = mean.element_count() != 0;
  const int64_t size = s.parameters(), runs = count.element_count();
  const auto has = [runs](const auto& array, int64_t each) {
    return static_cast<int64_t>(array.element_count()) == runs * each;
  };
  const int64_t moments = s.adam ? size : 0;
  if (!has(parameters, size) || !has(mean, moments) || !has(square, moments) ||
      !has(counters, kCounters) || !has(sums, 2) || !has(factors, kFactors * kLeaves) ||
      !has(numbers, kNumbers) || !has(rates, s.steps) || !has(targets, s.steps * s.batch) ||
      !has(weights, s.steps * s.batch) || !has(inputs, s.steps * s.batch * s.context))
    return ffi::Error::InvalidArgument("train_mlp: the arrays' sizes do not fit each other");
  const int64_t rows = s.steps * s.batch;
  for (int64_t i = 0; i < runs * rows * s.context; ++i)
    if (inputs.typed_data()[i] < 0 || inputs.typed_data()[i] >= vocabulary)
      return ffi::Error::InvalidArgument("train_mlp: an input is not a symbol");
  for (int64_t i = 0; i < runs * rows; ++i)
    if (targets.typed_data()[i] < 0 || targets.typed_data()[i] >= vocabulary)
      return ffi::Error::InvalidArgument("train_mlp: a target is not a symbol");
  const Version& version = chosen();
  const std::size_t bytes = (version.scratch(s) * sizeof(float) + 63) / 64 * 64;
  std::unique_ptr<float, decltype(&std::free)> scratch(
      static_cast<float*>(std::aligned_alloc(64, bytes)), &std::free);
  if (!scratch) return ffi::Error(ffi::ErrorCode::kResourceExhausted, "train_mlp: no memory");
  for (int64_t r = 0; r < runs; ++r) {
    Run run{};
    run.parameters = parameters.typed_data() + r * size;
    run.mean = mean.typed_data() + r * moments;
    run.square = square.typed_data() + r * moments;
    run.counters = counters.typed_data() + r * kCounters;
    run.sums = sums.typed_data() + r * 2;
    run.factors = factors.typed_data() + r * kFactors * kLeaves;
    run.numbers = numbers.typed_data() + r * kNumbers;
    run.rates = rates.typed_data() + r * s.steps;
    run.inputs = inputs.typed_data() + r * rows * s.context;
    run.targets = targets.typed_data() + r * rows;
    run.weights = weights.typed_data() + r * rows;
    run.count = count.typed_data()[r];
    if (run.count < 0 || run.count > s.steps)
      return ffi::Error::InvalidArgument("train_mlp: more steps than batches");
    run.new_parameters = new_parameters->typed_data() + r * size;
    run.new_mean = new_mean->typed_data() + r * moments;
    run.new_square = new_square->typed_data() + r * moments;
    run.new_counters = new_counters->typed_data() + r * kCounters;
    run.new_sums = new_sums->typed_data() + r * 2;
    version.train(s, run, scratch.get());
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace charjax

extern "C" const char* charjax_instruction_set() { return charjax::chosen().name; }

XLA_FFI_DEFINE_HANDLER_SYMBOL(charjax_train_mlp, charjax::train_mlp,
                              ffi::Ffi::Bind()
                                  .Arg<charjax::F32>()
                                  .Arg<charjax::F32>()
                                  .Arg<charjax::F32>()
                                  .Arg<charjax::S32>()
                                  .Arg<charjax::F32>()
                                  .Arg<charjax::F32>()
                                  .Arg<charjax::F32>()
                                  .Arg<charjax::F32>()
                                  .Arg<charjax::S32>()
                                  .Arg<charjax::S32>()
                                  .Arg<charjax::F32>()
                                  .Arg<charjax::S32>()
                                  .Ret<charjax::F32>()
                                  .Ret<charjax::F32>()
                                  .Ret<charjax::F32>()
                                  .Ret<charjax::S32>()
                                  .Ret<charjax::F32>()
                                  .Attr<int64_t>("vocabulary")
                                  .Attr<int64_t>("embedding")
                                  .Attr<int64_t>("hidden")
                                  .Attr<int64_t>("max_skipped"));
