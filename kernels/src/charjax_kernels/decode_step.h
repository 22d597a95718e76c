// Interface between the decode loop and its arithmetic, which is compiled once per instruction set.
//
// Letters: L layers, D width of the stream, H heads, K width of a head, F width within the MLP, V
// symbols, C positions of the cache.
#pragma once
#include <cstdint>

namespace charjax {

// The products of a layer are cut into two halves, one for each thread: heads, and units of the MLP.
constexpr int kHalves = 2;
// Rows in memory are padded with zeros to so many floats, for every instruction set.
constexpr int64_t kPad = 16;
// A matrix of weights is cut into panels of so many columns, one after the other, so that it is read from
// its beginning to its end.
constexpr int64_t kPanel = 48;
// The most tokens that are read at once.
constexpr int kMostRows = 8;

inline int64_t padded_row(int64_t n) { return (n + kPad - 1) / kPad * kPad; }

// A model of GPT-2's form, and where its weights stand in one array (generation/packing.py writes it).
struct Form {
  int64_t vocabulary, context, width, heads, layers, hidden;
  bool tanh;  // the approximation of GELU
  float epsilon;

  int64_t head() const { return width / heads; }
  int64_t D() const { return padded_row(width); }
  int64_t V() const { return padded_row(vocabulary); }
  int64_t C() const { return padded_row(context); }
  int64_t K() const { return padded_row(head()); }
  int64_t first_head(int half) const { return half ? (heads + 1) / 2 : 0; }
  int64_t heads_of(int half) const { return half ? heads / 2 : (heads + 1) / 2; }
  int64_t units_of(int half) const {
    const int64_t first = padded_row((hidden + 1) / 2);
    const int64_t most = first < hidden ? first : hidden;
    return half ? hidden - most : most;
  }
  // Outputs of a half's heads side by side.
  int64_t attended() const { return padded_row(heads_of(0) * head()); }
  // Queries, keys and values of a half's heads side by side.
  int64_t qkv_of(int half) const { return padded_row(3 * heads_of(half) * head()); }
  int64_t up_of(int half) const { return padded_row(units_of(half)); }

  // Of one layer of a half: qkv and its bias, out, up and its bias, down.
  int64_t qkv_bias(int half) const { return width * qkv_of(half); }
  int64_t out(int half) const { return qkv_bias(half) + qkv_of(half); }
  int64_t up(int half) const { return out(half) + heads_of(half) * head() * D(); }
  int64_t up_bias(int half) const { return up(half) + width * up_of(half); }
  int64_t down(int half) const { return up_bias(half) + up_of(half); }
  int64_t layer_size(int half) const { return down(half) + units_of(half) * D(); }
  int64_t layer(int64_t i, int half) const {
    return (half ? layers * layer_size(0) : 0) + i * layer_size(half);
  }
  // Of one layer: scale and bias of both norms, biases of out and down.
  int64_t vectors(int64_t i) const { return layers * (layer_size(0) + layer_size(1)) + i * 6 * D(); }
  // Scale and bias.
  int64_t final_norm() const { return vectors(layers); }
  int64_t readout() const { return final_norm() + 2 * D(); }
  int64_t embedding() const { return readout() + width * V(); }
  int64_t positions() const { return embedding() + vocabulary * D(); }
  int64_t size() const { return positions() + context * D(); }

  // The cache, of each layer and head: keys (K, C) with positions last, values (C, K).
  int64_t keys(int64_t layer, int64_t h) const {
    return (layer * heads + h) * (head() * C() + context * K());
  }
  int64_t values(int64_t layer, int64_t h) const { return keys(layer, h) + head() * C(); }
  int64_t cache_size() const { return keys(layers, 0); }
};

// The arrays of one thread, each with kMostRows rows.
struct Scratch {
  float *x, *h, *wide, *attended, *scores;
};

// A token to be read: its position, and the cache that holds those before it.
struct Row {
  int32_t token;
  int64_t position;
  float* cache;
};

// Tokens that are read at once, in this order. Arithmetic takes 1, 2 or Arithmetic::rows of them: the
// last one is repeated for those that are missing.
struct Rows {
  int used, count;
  Row row[kMostRows];
  bool is_fill;  // only the cache is wanted

  const Row& at(int r) const { return row[r < used ? r : used - 1]; }
};

// Partial sums of a sublayer's output, (kMostRows, D) of each half.
using Sums = float* const*;

struct Arithmetic {
  const char* name;
  int rows;
  void (*embed)(const Form&, const float* weights, const Rows&, const Scratch&);
  // One half of attention. Writes keys and values, and that half's sums.
  void (*attend)(const Form&, const float* weights, const Rows&, const Scratch&, int64_t layer, int half,
                 float* sums);
  void (*feed)(const Form&, const float* weights, const Rows&, const Scratch&, int64_t layer, int half,
               float* sums);
  // The stream x += the sums of both halves.
  void (*add)(const Form&, const Rows&, const Scratch&, Sums);
  // Of the first row.
  void (*read_out)(const Form&, const float* weights, const Scratch&, float* logits);
};

Arithmetic generic_arithmetic();
Arithmetic avx2_arithmetic();
Arithmetic avx512_arithmetic();

}  // namespace charjax

// The name of the one that all kernels use (mlp.cc).
extern "C" const char* charjax_instruction_set();
