// The fused int8 model: sizes, weights packed for the kernels, and the interface between the files of this library.
#pragma once

#include <cstdint>

#ifdef __i386__
#error "32-bit x86 rounds floats differently: the results would differ from those of other processors"
#endif

namespace wenet_fusion {

constexpr int GROUP = 4;     // consecutive inputs whose weights for an output are adjacent in a panel
constexpr int ALIGNED = 64;  // inputs and rows of quantised activations are padded to a multiple of this

constexpr int TOKEN_GROUP = 128;  // tokens of which only the largest logit is compared with the best ones, mostly

// Conversion of activations to uint8: round(x / scale) + zero_point, within 0 to 255.
struct Range {
  float inverse_scale;
  float zero_point;
};

// Where sums begin: those of the outputs of row r at `first` + r * `step`.
struct Start {
  const int32_t* first;
  int64_t step;  // 0: the same for all rows
};

// A linear layer: uint8 inputs, int8 weights within -64 to 64, float outputs. Arrays of outputs are padded to whole
// panels with zeros.
struct Linear {
  int inputs, outputs;
  int padded;                 // inputs, rounded up to ALIGNED
  Range range;                // of the inputs
  const int8_t* panels;       // (outputs / panel, padded / GROUP, panel, GROUP), zeros as padding
  const int32_t* start;       // (outputs,) -zero_point * sum of the weights, to which the products are added
  const float* scale;         // (outputs,) input scale * weight scale
  const float* bias;          // (outputs,)
};

// A product in float: (rows, inputs) x (inputs, outputs).
struct Product {
  int inputs, outputs;
  const float* panels;  // (outputs / panel, inputs, panel), zeros as padding
  const float* bias;    // (outputs rounded up to `panel`,)
};

// Kaldi's power spectrum of windows.
struct Spectrum {
  const float* window;         // (window,) the window function, times Kaldi's scale of samples and 1/2
  const float *cosine, *sine;  // (bins,) of the angles pi k / bins
};

struct Depthwise {
  Range range, hidden;   // of the inputs and of the outputs
  const float* taps;     // (kernel, dim), whole numbers
  const int32_t* bias;   // (dim,) with the correction for the zero point
  const float* scale;    // (dim,) input scale * weight scale / output scale
};

struct Layer {
  Linear expand_in, reduce_in, qkv, attended, pointwise_in, pointwise_out, expand_out, reduce_out;
  Depthwise depthwise;
};

struct Sizes {
  int window, hop, bins, mels, channels, dim, layers, heads, feed_forward, kernel, max_distance, vocabulary, top;

  int tail() const { return window - hop; }
  int mels_1() const { return (mels - 3) / 2 + 1; }
  int mels_2() const { return (mels_1() - 3) / 2 + 1; }
  int context() const { return kernel - 1; }
  int distances() const { return 2 * max_distance + 1; }
  int token_groups() const { return (vocabulary + TOKEN_GROUP - 1) / TOKEN_GROUP; }
  // Floats that a stream carries from step to step besides keys and values: the front-end's samples and a frame of each
  // subsampling convolution, and then for each layer the past inputs of the convolution.
  int64_t front_end_state() const { return tail() + mels + int64_t(mels_1()) * channels; }
  int64_t state() const { return front_end_state() + int64_t(layers) * context() * dim; }
};

struct Model {
  Sizes sizes;
  Spectrum spectrum;
  Product mel, conv_1, conv_2;
  const float *mean, *inverse_std;  // (mels,)
  Linear subsampled, ctc;
  const float* distances;  // (layers, heads, 2 * max_distance + 1)
  const Layer* layers;
};

// One step of `batch` streams. Arrays are contiguous; output frames after a stream's length are undefined.
//
// Each step writes a block of keys and values, (layers, heads, 2 * frames * width): for each head of width
// dim / heads, keys (width, frames) and values (frames, width). Later steps only read it: nothing copies the left context.
struct Step {
  int batch, frames, cached;   // cached: the number of past frames that a frame attends to
  int blocks;                  // the largest number of past blocks of a stream
  const float* samples;        // (batch, frames * 4 * hop)
  const int64_t* lengths;      // (batch,) valid samples
  const float* const* state;   // (batch,) Sizes::state floats each
  const float* const* past;    // (batch, blocks), oldest block first
  const int32_t* past_frames;  // (batch, blocks) frames of each block, 0 where a stream has fewer blocks
  float* const* next_state;    // (batch,)
  float* const* next_past;     // (batch,) the block of this step
  float* encoded;              // (batch, frames, dim)
  float* top_log_probs;        // (batch, frames, top)
  int64_t* top_ids;            // (batch, frames, top)
  float* blank_log_probs;      // (batch, frames)
  char* scratch;               // scratch_bytes(), aligned to ALIGNED
};

// The code for one family of processors.
struct Kernels {
  const char* name;
  int panel;  // outputs of a panel of packed weights
  bool (*is_served)();
  void (*run)(const Model&, const Step&);
  // For benchmarks: compute only a step's integer products, for `rows` frames of zeros. `memory` has products_bytes().
  void (*products)(const Model&, int64_t rows, char* memory);
  // For benchmarks: run `turns` turns of a loop of the instructions that multiply bytes, in registers if the family
  // has such instructions. Returns the number of multiply-adds in a turn.
  int64_t (*multiply)(int64_t turns);
};

int64_t scratch_bytes(const Sizes& sizes, int64_t batch, int64_t frames, int64_t cached);
int64_t products_bytes(const Sizes& sizes, int64_t rows);

}  // namespace wenet_fusion
