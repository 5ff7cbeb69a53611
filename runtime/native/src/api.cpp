// The functions that Python calls. They check no arguments: wenet_fusion_kernels/fused_model.py has checked them.
#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "model.hpp"

using namespace wenet_fusion;

extern const Kernels portable_kernels;
#ifdef __x86_64__
extern const Kernels avx512_vnni_kernels, avx_vnni_kernels, avx2_kernels;
#ifdef __linux__
extern const Kernels amx_kernels;
#endif
#endif
#if defined(__aarch64__) && defined(__linux__)
extern const Kernels neon_kernels;
#endif

namespace {

// Fastest first.
const Kernels* const families[] = {
#ifdef __x86_64__
#ifdef __linux__
    &amx_kernels,
#endif
    &avx512_vnni_kernels, &avx_vnni_kernels, &avx2_kernels,
#endif
#if defined(__aarch64__) && defined(__linux__)
    &neon_kernels,
#endif
    &portable_kernels,
};

int64_t padded(int64_t n) { return (n + ALIGNED - 1) / ALIGNED * ALIGNED; }

// Zeroed memory, aligned to ALIGNED, that lives as long as the model. It is cut from blocks for which Linux may use
// pages of 2 MB, because a step reads all weights, and finding thousands of small pages takes time.
class Arena {
 public:
  template <class T>
  T* take(int64_t count) {
    const size_t bytes = size_t(padded(count * int64_t(sizeof(T)) + ALIGNED));
    if (bytes > left_) add_block((std::max(bytes, BLOCK) + PAGE - 1) / PAGE * PAGE);
    char* taken = next_;
    next_ += bytes;
    left_ -= bytes;
    return reinterpret_cast<T*>(std::memset(taken, 0, bytes));
  }

 private:
#ifdef __SANITIZE_ADDRESS__
  static constexpr size_t PAGE = ALIGNED, BLOCK = 0;  // each part alone, so that reading beyond its end is found
#else
  static constexpr size_t PAGE = size_t(2) << 20, BLOCK = size_t(16) << 20;
#endif

  void add_block(size_t bytes) {
    blocks_.emplace_back(static_cast<char*>(std::aligned_alloc(PAGE, bytes)), std::free);
    next_ = blocks_.back().get();
    if (!next_) throw std::bad_alloc();
    left_ = bytes;
#ifdef __linux__
    madvise(next_, bytes, MADV_HUGEPAGE);  // a hint, which may fail
#endif
  }

  std::vector<std::unique_ptr<char, decltype(&std::free)>> blocks_;
  char* next_ = nullptr;
  size_t left_ = 0;
};

struct Loaded {
  Model model;
  const Kernels* kernels;
  std::vector<Layer> layers;
  Arena arena;
};

// Takes tensors and ranges in the order in which Python gives them, and packs them.
class Packer {
 public:
  Packer(const void* const* tensors, const float* ranges, int panel, Arena& arena)
      : tensors_(tensors), ranges_(ranges), panel_(panel), arena_(arena) {}

  const float* floats(int64_t count) {
    float* out = arena_.take<float>(count);
    const float* in = next<float>();
    for (int64_t i = 0; i < count; ++i) out[i] = in[i];
    return out;
  }

  Range range() {
    const float scale = *ranges_++, zero_point = *ranges_++;
    return {1.0f / scale, zero_point};
  }

  // Weights (inputs, outputs). If `blocks` > 1, inputs in the order (blocks, inputs / blocks) are packed transposed.
  Linear linear(int inputs, int outputs, int blocks = 1) {
    Linear layer;
    layer.inputs = inputs;
    layer.outputs = outputs;
    layer.padded = int(padded(inputs));
    const float input_scale = ranges_[0];
    layer.range = range();
    const int8_t* weight = next<int8_t>();
    const float* scale = next<float>();
    const int whole = whole_panels(outputs), each = inputs / blocks;
    int8_t* packed = arena_.take<int8_t>(int64_t(whole) * layer.padded);
    int32_t* start = arena_.take<int32_t>(whole);
    float* scales = arena_.take<float>(whole);
    const int32_t zero_point = int32_t(layer.range.zero_point);
    for (int i = 0; i < inputs; ++i) {  // reads the weights row by row, because most of the loading time is spent here
      const int8_t* row = weight + int64_t((i % blocks) * each + i / blocks) * outputs;
      for (int output = 0; output < outputs; ++output) {
        int8_t* panel = packed + int64_t(output / panel_) * layer.padded * panel_;
        panel[(i / GROUP * panel_ + output % panel_) * GROUP + i % GROUP] = row[output];
        start[output] -= zero_point * row[output];
      }
    }
    for (int output = 0; output < outputs; ++output) scales[output] = input_scale * scale[output];
    const float* bias = next<float>();
    float* biases = arena_.take<float>(whole);
    for (int output = 0; output < outputs; ++output) biases[output] = bias[output];
    layer.panels = packed;
    layer.start = start;
    layer.scale = scales;
    layer.bias = biases;
    return layer;
  }

  // Weights (outputs, inner, outer), used as (outer, inner) inputs. Without a bias, zeros are added.
  Product product(int outputs, int inner, int outer, bool has_bias) {
    Product layer;
    layer.inputs = inner * outer;
    layer.outputs = outputs;
    const float* weight = next<float>();
    const int whole = whole_panels(outputs);
    float* packed = arena_.take<float>(int64_t(whole) * layer.inputs);
    float* biases = arena_.take<float>(whole);
    for (int output = 0; output < outputs; ++output) {
      for (int i = 0; i < layer.inputs; ++i) {
        const int source = (i % inner) * outer + i / inner;
        packed[(int64_t(output / panel_) * layer.inputs + i) * panel_ + output % panel_] =
            weight[int64_t(output) * layer.inputs + source];
      }
    }
    if (has_bias) {
      const float* bias = next<float>();
      for (int output = 0; output < outputs; ++output) biases[output] = bias[output];
    }
    layer.panels = packed;
    layer.bias = biases;
    return layer;
  }

  // The constants of Kaldi's power spectrum with the window function "povey"; takes no tensor.
  Spectrum spectrum(int window, int bins) {
    constexpr double TURN = 6.283185307179586, SAMPLE_SCALE = 32768.0;  // Kaldi's samples have 16 bits
    float* weights = arena_.take<float>(window);
    float* cosine = arena_.take<float>(bins);
    float* sine = arena_.take<float>(bins);
    for (int i = 0; i < window; ++i)
      weights[i] = float(0.5 * SAMPLE_SCALE * std::pow(0.5 - 0.5 * std::cos(TURN * i / (window - 1)), 0.85));
    for (int k = 0; k < bins; ++k) {
      cosine[k] = float(std::cos(TURN * k / (2 * bins)));
      sine[k] = float(std::sin(TURN * k / (2 * bins)));
    }
    return {weights, cosine, sine};
  }

  // Taps (dim, kernel), scales and biases; `hidden` is the range of the next layer's input.
  Depthwise depthwise(int dim, int kernel, Range range, float input_scale, Range hidden) {
    Depthwise layer{range, hidden, nullptr, nullptr, nullptr};
    const int8_t* taps = next<int8_t>();
    const float* scale = next<float>();
    const int32_t* bias = next<int32_t>();
    float* packed = arena_.take<float>(int64_t(dim) * kernel);
    int32_t* biases = arena_.take<int32_t>(dim);
    float* scales = arena_.take<float>(dim);
    for (int d = 0; d < dim; ++d) {
      int32_t total = 0;
      for (int k = 0; k < kernel; ++k) {
        packed[int64_t(k) * dim + d] = taps[int64_t(d) * kernel + k];
        total += taps[int64_t(d) * kernel + k];
      }
      biases[d] = bias[d] - int32_t(range.zero_point) * total;
      scales[d] = input_scale * scale[d] * hidden.inverse_scale;
    }
    layer.taps = packed;
    layer.bias = biases;
    layer.scale = scales;
    return layer;
  }

  float input_scale() const { return *ranges_; }

 private:
  // The number of outputs, rounded up to whole panels.
  int whole_panels(int outputs) const { return (outputs + panel_ - 1) / panel_ * panel_; }

  template <class T>
  const T* next() {
    return static_cast<const T*>(*tensors_++);
  }

  const void* const* tensors_;
  const float* ranges_;
  const int panel_;
  Arena& arena_;
};

void pack(Loaded& loaded, Packer packer) {
  Model& model = loaded.model;
  const Sizes& n = model.sizes;
  model.spectrum = packer.spectrum(n.window, n.bins);
  model.mel = packer.product(n.mels, n.bins, 1, false);
  model.mean = packer.floats(n.mels);
  model.inverse_std = packer.floats(n.mels);
  model.conv_1 = packer.product(n.channels, 1, 9, true);
  model.conv_2 = packer.product(n.channels, n.channels, 9, true);
  model.subsampled = packer.linear(n.channels * n.mels_2(), n.dim, n.channels);
  for (int i = 0; i < n.layers; ++i) {
    Layer layer;
    layer.expand_in = packer.linear(n.dim, n.feed_forward);
    layer.reduce_in = packer.linear(n.feed_forward, n.dim);
    layer.qkv = packer.linear(n.dim, 3 * n.dim);
    layer.attended = packer.linear(n.dim, n.dim);
    layer.pointwise_in = packer.linear(n.dim, n.dim);
    const float scale = packer.input_scale();
    const Range range = packer.range();
    layer.pointwise_out = packer.linear(n.dim, n.dim);
    layer.depthwise = packer.depthwise(n.dim, n.kernel, range, scale, layer.pointwise_out.range);
    layer.expand_out = packer.linear(n.dim, n.feed_forward);
    layer.reduce_out = packer.linear(n.feed_forward, n.dim);
    loaded.layers.push_back(layer);
  }
  model.layers = loaded.layers.data();
  // The table is (distance, layer, head).
  const float* table = packer.floats(int64_t(n.distances()) * n.layers * n.heads);
  float* distances = loaded.arena.take<float>(int64_t(n.distances()) * n.layers * n.heads);
  for (int d = 0; d < n.distances(); ++d)
    for (int head = 0; head < n.layers * n.heads; ++head)
      distances[int64_t(head) * n.distances() + d] = table[int64_t(d) * n.layers * n.heads + head];
  model.distances = distances;
  model.ctc = packer.linear(n.dim, n.vocabulary);
}

}  // namespace

namespace wenet_fusion {

int64_t scratch_bytes(const Sizes& n, int64_t batch, int64_t frames, int64_t cached) {
  const int64_t rows = batch * frames, subsampled = int64_t(n.mels_2()) * n.channels;
  const int64_t widest = padded(n.dim > subsampled ? n.dim : subsampled) + padded(n.feed_forward);
  const int64_t shared = 4 * rows * 5 * n.dim + rows * widest + 4 * batch;
  const int64_t windows = 4 * frames, samples = n.tail() + windows * n.hop;
  const int64_t most_lanes = 16, spectra = windows * n.bins + most_lanes * (n.window + 2 * int64_t(n.bins));
  const int64_t front = 4 * ((windows + 1) * n.mels + frames * subsampled + samples + spectra +
                             (2 * frames + 1) * int64_t(n.mels_1()) * n.channels);
  const int64_t keys = cached + frames + 16, most_queries = 4;
  const int64_t attention = keys * (8 + 4 * (n.dim / n.heads + most_queries + 1)) + 4 * frames;
  const int64_t inner = attention + 4 * (n.context() + frames) * n.dim;
  const int64_t scores = 4 * (frames * n.vocabulary + n.token_groups());
  return shared + front + inner + scores + 20 * ALIGNED;
}

int64_t products_bytes(const Sizes& n, int64_t rows) {
  const int64_t bytes = padded(n.dim) + padded(int64_t(n.mels_2()) * n.channels) + padded(n.feed_forward);
  return rows * (bytes + 4 * (3 * n.dim + n.vocabulary)) + 4 * ALIGNED;
}

}  // namespace wenet_fusion

#define EXPORTED __attribute__((visibility("default")))

extern "C" {

// The number of processor families; a family's name, empty if it does not run here. For AMX, this asks Linux first.
EXPORTED int wenet_fusion_families() { return int(sizeof families / sizeof *families); }
EXPORTED const char* wenet_fusion_family(int index) { return families[index]->is_served() ? families[index]->name : ""; }

// Whether the step was measured to be faster than onnxruntime on processors like this one: AMX, AVX-512 VNNI, or
// AVX2 without VNNI.
EXPORTED int wenet_fusion_is_measured() {
#ifdef __x86_64__
  const Kernels* fastest = families[0];
  for (int i = 0; !fastest->is_served(); ++i) fastest = families[i];
  return fastest == &amx_kernels || fastest == &avx512_vnni_kernels || fastest == &avx2_kernels;
#else
  return 0;
#endif
}

// Return a model, or null if memory runs out.
EXPORTED void* wenet_fusion_load(const int32_t* sizes, const void* const* tensors, const float* ranges, int family) {
  try {
    std::unique_ptr<Loaded> loaded(new Loaded());
    Sizes& n = loaded->model.sizes;
    int* const fields[] = {&n.window, &n.hop, &n.bins, &n.mels, &n.channels, &n.dim, &n.layers, &n.heads,
                           &n.feed_forward, &n.kernel, &n.max_distance, &n.vocabulary, &n.top};
    for (int* field : fields) *field = *sizes++;
    loaded->kernels = families[family];
    pack(*loaded, Packer(tensors, ranges, loaded->kernels->panel, loaded->arena));
    return loaded.release();
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

EXPORTED void wenet_fusion_free(void* model) { delete static_cast<Loaded*>(model); }

EXPORTED int64_t wenet_fusion_state_floats(const void* model) {
  return static_cast<const Loaded*>(model)->model.sizes.state();
}

// Run a step; return 0, or 1 if memory runs out. `step.scratch` is set here.
EXPORTED int wenet_fusion_step(const void* model, const Step* given) {
  const Loaded* loaded = static_cast<const Loaded*>(model);
  Step step = *given;
  const int64_t bytes = scratch_bytes(loaded->model.sizes, step.batch, step.frames, step.cached);
  std::unique_ptr<char, decltype(&std::free)> memory(
      static_cast<char*>(std::aligned_alloc(ALIGNED, size_t(padded(bytes)))), std::free);
  if (!memory) return 1;
  step.scratch = memory.get();
  loaded->kernels->run(loaded->model, step);
  return 0;
}

// For benchmarks: compute the integer products of a step of `rows` frames; return 0, or 1 if memory runs out.
EXPORTED int wenet_fusion_products(const void* model, int64_t rows) {
  const Loaded* loaded = static_cast<const Loaded*>(model);
  const size_t bytes = size_t(padded(products_bytes(loaded->model.sizes, rows)));
  std::unique_ptr<char, decltype(&std::free)> memory(static_cast<char*>(std::aligned_alloc(ALIGNED, bytes)), std::free);
  if (!memory) return 1;
  std::memset(memory.get(), 0, bytes);
  loaded->kernels->products(loaded->model, rows, memory.get());
  return 0;
}

// For benchmarks: see Kernels::multiply.
EXPORTED int64_t wenet_fusion_multiply(int family, int64_t turns) { return families[family]->multiply(turns); }

}  // extern "C"
