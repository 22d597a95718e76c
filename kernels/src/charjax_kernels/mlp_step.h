// Interface between the FFI handler and the training loop, which is compiled once per instruction set.
#pragma once
#include <cstdint>

namespace charjax {

// Leaves in the order of JAX's tree: hidden bias, hidden kernel, readout bias, readout kernel,
// embedding.
enum Leaf { kHiddenBias, kHiddenKernel, kReadoutBias, kReadoutKernel, kEmbedding, kLeaves };
// Rows of the factors, one number per leaf each.
enum Factor { kMultiplier, kRate, kEpsilon, kDecay, kFactors };
enum Number { kBeta1, kBeta2, kEps, kWeightDecay, kGradClip, kMaxLoss, kNumbers };
enum Counter { kAdamCount, kStep, kSkipped, kSkippedInARow, kDiverged, kCounters };

struct Sizes {
  int64_t vocabulary, embedding, context, hidden, batch;
  int64_t steps;        // of the batches given
  int64_t max_skipped;  // steps in a row, after which a run has diverged
  bool adam;            // AdamW, else plain SGD

  int64_t inputs() const { return context * embedding; }
  int64_t parameters() const {
    return vocabulary * embedding + (inputs() + 1 + vocabulary) * hidden + vocabulary;
  }
};

// One run's operands and results; moments are null for SGD.
struct Run {
  const float *parameters, *mean, *square;
  const int32_t* counters;  // (kCounters,)
  const float* sums;        // losses, targets
  const float* factors;     // (kFactors, kLeaves)
  const float* numbers;     // (kNumbers,)
  const float* rates;       // (steps,)
  const int32_t* inputs;    // (steps, batch, context)
  const int32_t* targets;   // (steps, batch)
  const float* weights;     // (steps, batch)
  int32_t count;            // steps to take, at most `steps`
  float *new_parameters, *new_mean, *new_square;
  int32_t* new_counters;
  float* new_sums;
};

// Floats of scratch memory that `train` needs, aligned to 64 bytes.
using Scratch = int64_t (*)(const Sizes&);
using Train = void (*)(const Sizes&, const Run&, float* scratch);

struct Version {
  const char* name;
  Scratch scratch;
  Train train;
};

Version generic_version();
Version avx2_version();
Version avx512_version();

}  // namespace charjax
