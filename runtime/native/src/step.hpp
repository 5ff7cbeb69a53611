// One step of the whole model, compiled once for each family of processors: a file of this folder defines PANEL,
// CHUNK_ROWS and `Dots` (see rows.hpp), and perhaps the macros MULTIPLY_ADD and AVX512, and then includes this one.
// Everything else is shared.
#pragma once

#include <cstring>

#include "attention.hpp"
#include "front_end.hpp"
#include "lanes.hpp"
#include "linear.hpp"
#include "model.hpp"

namespace {

using wenet_fusion::Depthwise;
using wenet_fusion::Layer;
using wenet_fusion::TOKEN_GROUP;

// Causal depthwise convolution and ReLU of (context + frames, dim) quantised inputs, written as rows of the next
// layer's input. The sums of products are integers below 2^24, which floats hold exactly.
inline void depthwise(const Depthwise& layer, const Sizes& n, const float* in, int frames, uint8_t* out,
                      int64_t stride) {
  for (int d = 0; d < n.dim; d += WIDE) {
    const int part = n.dim - d < WIDE ? n.dim - d : WIDE;
    const WideInts bias = load_ints<Wide>(layer.bias + d, part);
    const Wide scale = load_part<Wide>(layer.scale + d, part);
    for (int t = 0; t < frames; ++t) {
      Wide total = {};
      for (int k = 0; k < n.kernel; ++k)
        total = multiply_add(load_part<Wide>(in + int64_t(t + k) * n.dim + d, part),
                             load_part<Wide>(layer.taps + int64_t(k) * n.dim + d, part), total);
      const Wide y = to_floats(to_ints(total) + bias) * scale;
      store_bytes(out + t * stride + d, within_bytes(maximum(y, Wide{}), layer.hidden.zero_point), part);
    }
  }
}

// The largest of the `count` logits from `first` on.
inline float largest_of(const float* logits, int count) {
  float found = logits[0];
  int i = 0;
  if (count >= WIDE) {
    Wide most = load<Wide>(logits);
    for (i = WIDE; i + WIDE <= count; i += WIDE) most = maximum(most, load<Wide>(logits + i));
    found = largest(most);
  }
  for (; i < count; ++i) found = logits[i] > found ? logits[i] : found;
  return found;
}

// The largest values so far, in descending order, with their ids; of two equal values, the first one comes first.
struct Best {
  float* values;
  int64_t* ids;
  const int size;
  int found = 0;

  // Whether a value is among the largest.
  bool takes(float value) const { return found < size || value > values[size - 1]; }

  void insert(float value, int64_t id) {
    if (!takes(value)) return;
    int place = found < size ? found++ : size - 1;
    for (; place > 0 && value > values[place - 1]; --place) {
      values[place] = values[place - 1];
      ids[place] = ids[place - 1];
    }
    values[place] = value;
    ids[place] = id;
  }
};

// The most probable tokens of a frame; of two equally probable ones, the one with the lower id comes first. `most` has
// room for the largest logit of each TOKEN_GROUP tokens.
inline void best_tokens(const Sizes& n, const float* logits, float* log_probs, int64_t* ids, float* blank,
                        float* most) {
  Best best{log_probs, ids, n.top};
  const int groups = n.token_groups();
  for (int group = 0; group < groups; ++group) {
    const int first = group * TOKEN_GROUP, end = group < groups - 1 ? first + TOKEN_GROUP : n.vocabulary;
    most[group] = largest_of(logits + first, end - first);
    best.insert(most[group], 0);
  }
  const float top = log_probs[0];
  // At least `top` tokens have this logit or a larger one.
  const float least = best.found == n.top ? log_probs[n.top - 1] : -__builtin_inff();

  const int whole = n.vocabulary / WIDE * WIDE;
  Floats total = {};
  for (int token = 0; token < whole; token += WIDE)
    total = add(total, exponential(load<Wide>(logits + token) - all<Wide>(top)));
  if (whole < n.vocabulary) {
    Wide last = all<Wide>(-__builtin_inff());
    std::memcpy(&last, logits + whole, sizeof(float) * (n.vocabulary - whole));
    total = add(total, exponential(last - all<Wide>(top)));
  }
  const float norm = top + logarithm(all(sum(total)))[0];

  best.found = 0;
  for (int group = 0; group < groups; ++group) {
    if (most[group] < least || !best.takes(most[group])) continue;
    const int first = group * TOKEN_GROUP, end = group < groups - 1 ? first + TOKEN_GROUP : n.vocabulary;
    for (int start = first; start < end; start += WIDE) {
      const int count = end - start < WIDE ? end - start : WIDE;
      if (!best.takes(largest_of(logits + start, count))) continue;
      for (int token = start; token < start + count; ++token) best.insert(logits[token], token);
    }
  }
  for (int i = 0; i < n.top; ++i) log_probs[i] -= norm;
  *blank = logits[0] - norm;
}

// Buffers that hold the rows of all streams.
struct Buffers {
  float *x, *wide, *attended;  // (rows, dim), (rows, 3 * dim), (rows, dim)
  uint8_t *narrow_u8, *wide_u8;
  int* frames;  // (batch,) valid frames
};

inline void attention(const Model& model, int index, const Step& step, const Buffers& all_rows, Scratch scratch) {
  const Sizes& n = model.sizes;
  const Layer& layer = model.layers[index];
  const int64_t rows = int64_t(step.batch) * step.frames;
  const int width = n.dim / n.heads;
  quantise_rows(all_rows.x, rows, layer.qkv, all_rows.narrow_u8);
  linear(layer.qkv, all_rows.narrow_u8, rows, all_rows.wide);
  std::memset(all_rows.attended, 0, sizeof(float) * rows * n.dim);
  for (int b = 0; b < step.batch; ++b) {
    const float* qkv = all_rows.wide + int64_t(b) * step.frames * 3 * n.dim;
    float* block = step.next_past[b] + int64_t(index) * 2 * step.frames * n.dim;
    for (int h = 0; h < n.heads; ++h, block += 2 * int64_t(step.frames) * width) {
      const float* keys = qkv + n.dim + h * width;
      for (int v = 0; v < width; ++v)
        for (int t = 0; t < step.frames; ++t) block[int64_t(v) * step.frames + t] = keys[int64_t(t) * 3 * n.dim + v];
      for (int t = 0; t < step.frames; ++t)
        std::memcpy(block + int64_t(step.frames + t) * width, keys + (int64_t(t) * 3 + 1) * n.dim,
                    sizeof(float) * width);
    }
    attend(model, step, index, b, all_rows.frames[b], qkv, all_rows.attended + int64_t(b) * step.frames * n.dim,
           scratch);
  }
  quantise_rows(all_rows.attended, rows, layer.attended, all_rows.narrow_u8);
  linear_residual(layer.attended, all_rows.narrow_u8, rows, all_rows.x);
}

inline void convolution(const Model& model, int index, const Step& step, const Buffers& all_rows, Scratch scratch) {
  const Sizes& n = model.sizes;
  const Layer& layer = model.layers[index];
  const int64_t rows = int64_t(step.batch) * step.frames, context = n.context();
  const int64_t offset = n.front_end_state() + index * context * n.dim;
  quantise_rows(all_rows.x, rows, layer.pointwise_in, all_rows.narrow_u8);
  linear(layer.pointwise_in, all_rows.narrow_u8, rows, all_rows.wide);
  float* in = scratch.take<float>((context + step.frames) * n.dim);
  const int64_t stride = layer.pointwise_out.padded;
  std::memset(all_rows.narrow_u8, 0, rows * stride);
  for (int b = 0; b < step.batch; ++b) {
    const float* past = step.state[b] + offset;
    const float* now = all_rows.wide + int64_t(b) * step.frames * n.dim;
    quantise_floats(past, context * n.dim, layer.depthwise.range, in);
    quantise_floats(now, int64_t(step.frames) * n.dim, layer.depthwise.range, in + context * n.dim);
    depthwise(layer.depthwise, n, in, step.frames, all_rows.narrow_u8 + b * step.frames * stride, stride);
    float* next = step.next_state[b] + offset;
    for (int64_t s = 0; s < context; ++s) {
      const int64_t from = s + step.frames;
      std::memcpy(next + s * n.dim, from < context ? past + from * n.dim : now + (from - context) * n.dim,
                  sizeof(float) * n.dim);
    }
  }
  linear_residual(layer.pointwise_out, all_rows.narrow_u8, rows, all_rows.x);
}

inline void feed_forward(const Linear& expand, const Linear& reduce, int64_t rows, const Buffers& all_rows) {
  quantise_rows(all_rows.x, rows, expand, all_rows.narrow_u8);
  linear_relu(expand, all_rows.narrow_u8, rows, reduce, all_rows.wide_u8);
  linear_residual(reduce, all_rows.wide_u8, rows, all_rows.x);
}

void run_step(const Model& model, const Step& step) {
  const Sizes& n = model.sizes;
  const int64_t rows = int64_t(step.batch) * step.frames;
  const int subsampled = n.mels_2() * n.channels;
  Scratch scratch{step.scratch};
  Buffers buffers;
  buffers.x = scratch.take<float>(rows * n.dim);
  buffers.wide = scratch.take<float>(rows * 3 * n.dim);
  buffers.attended = scratch.take<float>(rows * n.dim);
  buffers.narrow_u8 = scratch.take<uint8_t>(rows * padded(n.dim > subsampled ? n.dim : subsampled));
  buffers.wide_u8 = scratch.take<uint8_t>(rows * padded(n.feed_forward));
  buffers.frames = scratch.take<int>(step.batch);

  for (int b = 0; b < step.batch; ++b) {
    Scratch own = scratch;
    float* fbank = own.take<float>((4 * step.frames + 1) * int64_t(n.mels));
    float* frames = own.take<float>(int64_t(step.frames) * subsampled);
    const int samples = step.frames * 4 * n.hop;
    const float* before = step.state[b];
    float* next = step.next_state[b];
    features(model, step.samples + int64_t(b) * samples, step.lengths[b], step.frames, before, next, fbank + n.mels,
             own);
    subsample(model, step.frames, fbank, before + n.tail(), next + n.tail(), frames, own);
    quantise_rows(frames, step.frames, model.subsampled,
                  buffers.narrow_u8 + int64_t(b) * step.frames * model.subsampled.padded);
    buffers.frames[b] = int((step.lengths[b] + 4 * n.hop - 1) / (4 * n.hop));
  }
  linear(model.subsampled, buffers.narrow_u8, rows, buffers.x);

  for (int i = 0; i < n.layers; ++i) {
    const Layer& layer = model.layers[i];
    feed_forward(layer.expand_in, layer.reduce_in, rows, buffers);
    attention(model, i, step, buffers, scratch);
    convolution(model, i, step, buffers, scratch);
    feed_forward(layer.expand_out, layer.reduce_out, rows, buffers);
  }

  std::memcpy(step.encoded, buffers.x, sizeof(float) * rows * n.dim);
  float* logits = scratch.take<float>(int64_t(step.frames) * n.vocabulary);
  float* most = scratch.take<float>(n.token_groups());
  for (int b = 0; b < step.batch; ++b) {
    const int64_t first = int64_t(b) * step.frames;
    quantise_rows(buffers.x + first * n.dim, step.frames, model.ctc, buffers.narrow_u8);
    linear(model.ctc, buffers.narrow_u8, step.frames, logits);
    for (int t = 0; t < step.frames; ++t)
      best_tokens(n, logits + int64_t(t) * n.vocabulary, step.top_log_probs + (first + t) * n.top,
                  step.top_ids + (first + t) * n.top, step.blank_log_probs + first + t, most);
  }
}

// The integer products of a step alone, for benchmarks.
void run_products(const Model& model, int64_t rows, char* memory) {
  const Sizes& n = model.sizes;
  Scratch scratch{memory};
  const int subsampled = n.mels_2() * n.channels;
  uint8_t* in = scratch.take<uint8_t>(rows * padded(n.dim > subsampled ? n.dim : subsampled));
  uint8_t* hidden = scratch.take<uint8_t>(rows * padded(n.feed_forward));
  float* out = scratch.take<float>(rows * 3 * n.dim);
  float* logits = scratch.take<float>(rows * n.vocabulary);
  linear(model.subsampled, in, rows, out);
  for (int i = 0; i < n.layers; ++i) {
    const Layer& layer = model.layers[i];
    linear_relu(layer.expand_in, in, rows, layer.reduce_in, hidden);
    linear_residual(layer.reduce_in, hidden, rows, out);
    linear(layer.qkv, in, rows, out);
    linear_residual(layer.attended, in, rows, out);
    linear(layer.pointwise_in, in, rows, out);
    linear_residual(layer.pointwise_out, in, rows, out);
    linear_relu(layer.expand_out, in, rows, layer.reduce_out, hidden);
    linear_residual(layer.reduce_out, hidden, rows, out);
  }
  linear(model.ctc, in, rows, logits);
}

}  // namespace
