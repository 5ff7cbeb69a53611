// One step of the whole model, compiled once for each family of processors: a file of this folder defines `Dots` (see
// rows.hpp, which defines it for most families) and perhaps the macro MULTIPLY_ADD, and then includes this one.
// Everything else is shared.
//
// Do not call the standard library with vectors here: the linker keeps one copy of each inline function, and that copy
// might use instructions that this processor lacks.
#pragma once

#include <cstring>

#include "lanes.hpp"
#include "model.hpp"

namespace {

using wenet_fusion::ALIGNED;
using wenet_fusion::Depthwise;
using wenet_fusion::GROUP;
using wenet_fusion::Layer;
using wenet_fusion::Linear;
using wenet_fusion::Model;
using wenet_fusion::PANEL;
using wenet_fusion::Product;
using wenet_fusion::Range;
using wenet_fusion::Sizes;
using wenet_fusion::Step;

constexpr int PANEL_LANES = PANEL / LANES;
constexpr int QUERIES = 2;          // queries that share one reading of keys and values
constexpr int CHUNK_ROWS = 64;      // rows that are multiplied by a panel before the next panel is read
constexpr int CHUNK_INPUTS = 1024;  // inputs of a panel that stay in the first-level cache with the rows
constexpr float ENERGY_FLOOR = 1.1920928955078125e-7f;  // as in Kaldi

inline int64_t padded(int64_t n) { return (n + ALIGNED - 1) / ALIGNED * ALIGNED; }

// Hands out parts of the step's memory.
struct Scratch {
  char* next;

  template <class T>
  T* take(int64_t count) {
    T* found = reinterpret_cast<T*>(next);
    next += padded(count * int64_t(sizeof(T)));
    return found;
  }
};

inline Ints quantised(Floats x, Range range) {
  const Floats y = rounded(minimum(maximum(x * all(range.inverse_scale), all(-1e6f)), all(1e6f)));
  const Floats clipped = minimum(maximum(y + all(range.zero_point), all(0.0f)), all(255.0f));
  return __builtin_convertvector(clipped, Ints);
}

typedef uint8_t Bytes __attribute__((vector_size(LANES)));

inline Ints load_bytes(const uint8_t* p, int count) {
  Bytes bytes = {};
  if (count == LANES) {
    std::memcpy(&bytes, p, sizeof bytes);
  } else {
    std::memcpy(&bytes, p, count);
  }
  return __builtin_convertvector(bytes, Ints);
}

// Store the first `count` integers, each from 0 to 255, as bytes.
inline void store_bytes(uint8_t* p, Ints x, int count = LANES) {
  typedef uint8_t All __attribute__((vector_size(32)));
  const All bytes = reinterpret_cast<All>(x);
  const Bytes lowest = __builtin_shufflevector(bytes, bytes, 0, 4, 8, 12, 16, 20, 24, 28);
  if (count == LANES) {
    std::memcpy(p, &lowest, sizeof lowest);
  } else {
    std::memcpy(p, &lowest, count);
  }
}

inline void quantise(const float* x, int64_t count, Range range, uint8_t* out) {
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) store_bytes(out + i, quantised(load(x + i), range));
  for (; i < count; ++i) out[i] = uint8_t(quantised(all(x[i]), range)[0]);
}

// Quantise rows of floats to uint8 rows of the layer's padded width.
inline void quantise_rows(const float* x, int64_t rows, const Linear& layer, uint8_t* out) {
  for (int64_t r = 0; r < rows; ++r) {
    quantise(x + r * layer.inputs, layer.inputs, layer.range, out + r * layer.padded);
    std::memset(out + r * layer.padded + layer.inputs, 0, layer.padded - layer.inputs);
  }
}

// Call use(row, first output, number of outputs, values) for every part of a linear layer's output.
template <class Use>
inline void products(const Linear& layer, const uint8_t* rows_u8, int64_t rows, Use use) {
  alignas(64) int32_t tiles[CHUNK_ROWS * PANEL];
  const int panels = (layer.outputs + PANEL - 1) / PANEL;
  for (int64_t first = 0; first < rows; first += CHUNK_ROWS) {
    const int count = rows - first < CHUNK_ROWS ? int(rows - first) : CHUNK_ROWS;
    const Dots dots(count);
    for (int panel = 0; panel < panels; ++panel) {
      std::memset(tiles, 0, sizeof(int32_t) * PANEL * count);
      const int8_t* weights = layer.panels + int64_t(panel) * layer.padded * PANEL;
      for (int start = 0; start < layer.padded; start += CHUNK_INPUTS) {
        const int inputs = layer.padded - start < CHUNK_INPUTS ? layer.padded - start : CHUNK_INPUTS;
        dots.add(rows_u8 + first * layer.padded + start, layer.padded, weights + int64_t(start) * PANEL, inputs / GROUP,
                 tiles);
      }
      for (int part = 0; part < PANEL_LANES; ++part) {
        const int output = panel * PANEL + part * LANES;
        if (output >= layer.outputs) break;
        const int outputs = layer.outputs - output < LANES ? layer.outputs - output : LANES;
        const Ints correction = load_ints(layer.correction + output);
        const Floats scale = load(layer.scale + output), bias = load(layer.bias + output);
        for (int r = 0; r < count; ++r) {
          const Ints sum = load_ints(tiles + r * PANEL + part * LANES) - correction;
          use(first + r, output, outputs, to_floats(sum) * scale + bias);
        }
      }
    }
  }
}

inline void linear(const Linear& layer, const uint8_t* in, int64_t rows, float* out) {
  products(layer, in, rows, [&](int64_t row, int output, int outputs, Floats y) {
    float* p = out + row * layer.outputs + output;
    store_part(p, y, outputs);
  });
}

// Add the output to x.
inline void linear_residual(const Linear& layer, const uint8_t* in, int64_t rows, float* x) {
  products(layer, in, rows, [&](int64_t row, int output, int outputs, Floats y) {
    float* p = x + row * layer.outputs + output;
    store_part(p, load_part(p, outputs) + y, outputs);
  });
}

// ReLU of the output, as the uint8 input of the next layer.
inline void linear_relu(const Linear& layer, const uint8_t* in, int64_t rows, const Linear& next, uint8_t* out) {
  products(layer, in, rows, [&](int64_t row, int output, int outputs, Floats y) {
    const Ints q = quantised(maximum(y, all(0.0f)), next.range);
    store_bytes(out + row * next.padded + output, q, outputs);
  });
  for (int64_t row = 0; row < rows; ++row)
    std::memset(out + row * next.padded + next.inputs, 0, next.padded - next.inputs);
}

// A product in float. Row r consists of `pieces` pieces of `length` inputs; piece i begins at
// in + r * row_step + i * piece_step. The output has `stride` floats per row.
template <bool RELU>
inline void product(const Product& layer, const float* in, int64_t rows, int64_t row_step, int pieces,
                    int64_t piece_step, float* out, int64_t stride) {
  const int panels = (layer.outputs + PANEL - 1) / PANEL, length = layer.inputs / pieces;
  constexpr int TOGETHER = 4;
  for (int panel = 0; panel < panels; ++panel) {
    const float* weights = layer.panels + int64_t(panel) * layer.inputs * PANEL;
    const float* bias = layer.bias + panel * PANEL;
    for (int64_t first = 0; first < rows; first += TOGETHER) {
      const float* row[TOGETHER];
      for (int r = 0; r < TOGETHER; ++r)  // rows beyond the last repeat it
        row[r] = in + (first + r < rows ? first + r : rows - 1) * row_step;
      Floats total[TOGETHER][PANEL_LANES];
      for (int r = 0; r < TOGETHER; ++r)
        for (int part = 0; part < PANEL_LANES; ++part) total[r][part] = load(bias + part * LANES);
      const float* w = weights;
      for (int piece = 0; piece < pieces; ++piece) {
        for (int k = 0; k < length; ++k, w += PANEL) {
          const Floats w_0 = load(w), w_1 = load(w + LANES);
          for (int r = 0; r < TOGETHER; ++r) {
            const Floats x = all(row[r][piece * piece_step + k]);
            total[r][0] = multiply_add(x, w_0, total[r][0]);
            total[r][1] = multiply_add(x, w_1, total[r][1]);
          }
        }
      }
      for (int r = 0; r < TOGETHER && first + r < rows; ++r) {
        for (int part = 0; part < PANEL_LANES; ++part) {
          const int output = panel * PANEL + part * LANES;
          if (output >= layer.outputs) break;
          const Floats y = RELU ? maximum(total[r][part], all(0.0f)) : total[r][part];
          float* p = out + (first + r) * stride + output;
          store_part(p, y, layer.outputs - output < LANES ? layer.outputs - output : LANES);
        }
      }
    }
  }
}

// Log-mel features of 4 * frames windows, normalised: (4 * frames, mels).
inline void features(const Model& model, const float* samples, int64_t valid, int frames, const float* tail,
                     float* next_tail, float* out, Scratch scratch) {
  const Sizes& n = model.sizes;
  const int windows = 4 * frames, count = windows * n.hop;
  float* audio = scratch.take<float>(n.tail() + count);
  std::memcpy(audio, tail, sizeof(float) * n.tail());
  const int64_t kept = valid < count ? valid : count;
  std::memcpy(audio + n.tail(), samples, sizeof(float) * kept);
  std::memset(audio + n.tail() + kept, 0, sizeof(float) * (count - kept));
  std::memcpy(next_tail, audio + count, sizeof(float) * n.tail());

  float* spectrum = scratch.take<float>(int64_t(windows) * 2 * n.bins);
  product<false>(model.spectrum, audio, windows, n.hop, 1, 0, spectrum, 2 * n.bins);
  for (int w = 0; w < windows; ++w) {
    float* real = spectrum + int64_t(w) * 2 * n.bins;
    const float* imaginary = real + n.bins;
    for (int k = 0; k < n.bins; k += LANES) {  // bins are a power of 2
      const int part = n.bins - k < LANES ? n.bins - k : LANES;
      const Floats re = load_part(real + k, part), im = load_part(imaginary + k, part);
      store_part(real + k, re * re + im * im, part);
    }
  }
  product<false>(model.mel, spectrum, windows, 2 * n.bins, 1, 0, out, n.mels);
  for (int w = 0; w < windows; ++w) {
    float* x = out + int64_t(w) * n.mels;
    for (int f = 0; f < n.mels; f += LANES) {
      const int part = n.mels - f < LANES ? n.mels - f : LANES;
      const Floats energy = maximum(load_part(x + f, part), all(ENERGY_FLOOR));
      const Floats centred = logarithm(energy) - load_part(model.mean + f, part);
      store_part(x + f, centred * load_part(model.inverse_std + f, part), part);
    }
  }
}

// Subsampling by 4. Planes are (frames, bins, channels). Writes (frames, mels_2 * channels) in that order.
inline void subsample(const Model& model, int frames, float* features_in, const float* state, float* next, float* out,
                      Scratch scratch) {
  const Sizes& n = model.sizes;
  const int bins_1 = n.mels_1(), bins_2 = n.mels_2(), row_1 = bins_1 * n.channels;
  // features_in begins with a place for the last feature frame of the previous step.
  std::memcpy(features_in, state, sizeof(float) * n.mels);
  std::memcpy(next, features_in + int64_t(4 * frames) * n.mels, sizeof(float) * n.mels);
  float* plane = scratch.take<float>(int64_t(2 * frames + 1) * row_1);
  std::memcpy(plane, state + n.mels, sizeof(float) * row_1);
  for (int t = 0; t < 2 * frames; ++t)
    product<true>(model.conv_1, features_in + int64_t(2 * t) * n.mels, bins_1, 2, 3, n.mels,
                  plane + int64_t(t + 1) * row_1, n.channels);
  std::memcpy(next + n.mels, plane + int64_t(2 * frames) * row_1, sizeof(float) * row_1);
  for (int t = 0; t < frames; ++t)
    product<true>(model.conv_2, plane + int64_t(2 * t) * row_1, bins_2, 2 * n.channels, 3, row_1,
                  out + int64_t(t) * bins_2 * n.channels, n.channels);
}

// The means of the values for QUERIES queries, weighted by shares * scores: PARTS vectors from `offset` of each row on,
// the last one with `count` floats. Consecutive queries are `stride` scores and `dim` output floats apart.
template <int QUERIES, int PARTS>
inline void average(const float* const* keys, int first, int last, int offset, const float* scores, int64_t stride,
                    const float* shares, float* out, int64_t dim, int count) {
  Floats mean[QUERIES][PARTS] = {};
  for (int s = first; s < last; ++s) {
    const float* values = keys[s] + offset;
    for (int p = 0; p < PARTS; ++p) {
      const Floats value = load_part(values + p * LANES, p < PARTS - 1 ? LANES : count);
      for (int q = 0; q < QUERIES; ++q)
        mean[q][p] = multiply_add(all(scores[q * stride + s - first]), value, mean[q][p]);
    }
  }
  for (int q = 0; q < QUERIES; ++q)
    for (int p = 0; p < PARTS; ++p)
      store_part(out + q * dim + p * LANES, mean[q][p] * all(shares[q]), p < PARTS - 1 ? LANES : count);
}

// Products of QUERIES queries (`stride` floats apart) with four keys; `dots` has room for LANES keys per query.
template <int QUERIES>
inline void query_key(const float* query, int64_t stride, const float* const* key, int width, Floats (*dots)[LANES]) {
  Floats total[QUERIES][4] = {};
  for (int v = 0; v < width; v += LANES) {
    const int part = width - v < LANES ? width - v : LANES;
    Floats q[QUERIES];
    for (int i = 0; i < QUERIES; ++i) q[i] = load_part(query + i * stride + v, part);
    for (int j = 0; j < 4; ++j) {
      const Floats k = load_part(key[j] + v, part);
      for (int i = 0; i < QUERIES; ++i) total[i][j] = multiply_add(q[i], k, total[i][j]);
    }
  }
  for (int i = 0; i < QUERIES; ++i)
    for (int j = 0; j < 4; ++j) dots[i][j] = total[i][j];
}

// Attention of one head for QUERIES queries. `biases` points to the first query's biases; those of each next query
// begin one float earlier.
template <int QUERIES>
inline void attend_queries(const Sizes& n, const float* const* keys, int first, int last, const float* query,
                           int head, const float* biases, float* out, float* scores, int64_t stride) {
  const int width = n.dim / n.heads, offset = head * width;
  Floats most[QUERIES];
  for (Floats& each : most) each = all(-3e38f);
  for (int s = first; s < last; s += LANES) {
    const float* key[LANES];
    for (int j = 0; j < LANES; ++j) key[j] = keys[s + j < last ? s + j : last - 1] + offset;
    Floats dots[QUERIES][LANES];
    for (int j = 0; j < LANES; j += 4) {
      Floats half[QUERIES][LANES];
      query_key<QUERIES>(query, 3 * n.dim, key + j, width, half);
      for (int i = 0; i < QUERIES; ++i)
        for (int k = 0; k < 4; ++k) dots[i][j + k] = half[i][k];
    }
    for (int i = 0; i < QUERIES; ++i) {
      Floats found = sums(dots[i]) + load(biases + s - i);
      for (int j = last - s; j < LANES; ++j) found[j] = -3e38f;
      store(scores + i * stride + s - first, found);
      most[i] = maximum(most[i], found);
    }
  }
  float shares[QUERIES];
  for (int i = 0; i < QUERIES; ++i) {
    const Floats top = all(largest(most[i]));
    Floats total = {};
    for (int s = 0; s < last - first; s += LANES) {
      const Floats e = exponential(load(scores + i * stride + s) - top);
      store(scores + i * stride + s, e);
      total = total + e;
    }
    shares[i] = 1.0f / sum(total);
  }
  int v = 0;
  for (; v + 4 * LANES <= width; v += 4 * LANES)
    average<QUERIES, 4>(keys, first, last, n.dim + offset + v, scores, stride, shares, out + offset + v, n.dim, LANES);
  for (; v < width; v += LANES)
    average<QUERIES, 1>(keys, first, last, n.dim + offset + v, scores, stride, shares, out + offset + v, n.dim,
                        width - v < LANES ? width - v : LANES);
}

// Scaled dot-product attention of one stream; the queries are scaled already. keys[i] points to key i (dim floats) and,
// after it, its value (dim). Keys before `first` are not used; key cached + t belongs to query t.
inline void attend(const Sizes& n, const float* const* keys, int first, int cached, int count, const float* qkv,
                   const float* distances, float* out, Scratch scratch) {
  const int last = cached + count, zero = n.max_distance;
  const int64_t stride = last + LANES;
  float* scores = scratch.take<float>(QUERIES * stride);
  float* biases = scratch.take<float>(last + count + LANES);
  for (int h = 0; h < n.heads; ++h) {
    for (int i = 0; i < last + count; ++i) {  // key s has the bias biases[s + count - t] for query t
      int distance = i - count - cached + zero;
      distance = distance < 0 ? 0 : distance > 2 * zero ? 2 * zero : distance;
      biases[i] = distances[int64_t(h) * n.distances() + distance];
    }
    int t = 0;
    for (; t + QUERIES <= count; t += QUERIES)
      attend_queries<QUERIES>(n, keys, first, last, qkv + int64_t(t) * 3 * n.dim + h * (n.dim / n.heads), h,
                              biases + count - t, out + int64_t(t) * n.dim, scores, stride);
    for (; t < count; ++t)
      attend_queries<1>(n, keys, first, last, qkv + int64_t(t) * 3 * n.dim + h * (n.dim / n.heads), h,
                        biases + count - t, out + int64_t(t) * n.dim, scores, stride);
  }
}

// Causal depthwise convolution and ReLU of (context + frames, dim) uint8, written as rows of the next layer's input.
inline void depthwise(const Depthwise& layer, const Sizes& n, const uint8_t* in, int frames, uint8_t* out,
                      int64_t stride) {
  for (int t = 0; t < frames; ++t) {
    for (int d = 0; d < n.dim; d += LANES) {
      const int part = n.dim - d < LANES ? n.dim - d : LANES;
      Ints total = load_ints(layer.bias + d, part);
      for (int k = 0; k < n.kernel; ++k) {
        const Ints x = load_bytes(in + int64_t(t + k) * n.dim + d, part);
        total = total + x * load_ints(layer.taps + int64_t(k) * n.dim + d, part);
      }
      const Floats y = rounded(to_floats(total) * load_part(layer.scale + d, part)) + all(layer.hidden.zero_point);
      const Floats clipped = minimum(maximum(y, all(layer.hidden.zero_point)), all(255.0f));
      store_bytes(out + t * stride + d, __builtin_convertvector(clipped, Ints), part);
    }
  }
}

// The most probable tokens of a frame; of two equally probable ones, the one with the lower id comes first.
inline void best_tokens(const Sizes& n, const float* logits, float* log_probs, int64_t* ids, float* blank) {
  Floats best = all(logits[0]);
  for (int token = 0; token + LANES <= n.vocabulary; token += LANES) best = maximum(best, load(logits + token));
  float most = largest(best);
  for (int token = n.vocabulary / LANES * LANES; token < n.vocabulary; ++token)
    most = logits[token] > most ? logits[token] : most;
  Floats total = {};
  int v = 0;
  for (; v + LANES <= n.vocabulary; v += LANES) total = total + exponential(load(logits + v) - all(most));
  if (v < n.vocabulary) {
    Floats last = all(-3e38f);
    std::memcpy(&last, logits + v, sizeof(float) * (n.vocabulary - v));
    total = total + exponential(last - all(most));
  }
  const float norm = most + logarithm(all(sum(total)))[0];
  int found = 0;
  for (int token = 0; token < n.vocabulary; ++token) {
    while (found == n.top && token + LANES <= n.vocabulary && !(largest(load(logits + token)) > log_probs[found - 1]))
      token += LANES;
    if (token == n.vocabulary) break;
    const float value = logits[token];
    if (found == n.top && !(value > log_probs[found - 1])) continue;
    int place = found < n.top ? found++ : n.top - 1;
    for (; place > 0 && value > log_probs[place - 1]; --place) {
      log_probs[place] = log_probs[place - 1];
      ids[place] = ids[place - 1];
    }
    log_probs[place] = value;
    ids[place] = token;
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

inline void attention(const Model& model, int index, const Step& step, const Buffers& all_rows, int64_t offset,
                      Scratch scratch) {
  const Sizes& n = model.sizes;
  const Layer& layer = model.layers[index];
  const int64_t rows = int64_t(step.batch) * step.frames, state = n.state(step.cached);
  quantise_rows(all_rows.x, rows, layer.qkv, all_rows.narrow_u8);
  linear(layer.qkv, all_rows.narrow_u8, rows, all_rows.wide);
  const int total = step.cached + step.frames;
  const float** keys = scratch.take<const float*>(total);
  std::memset(all_rows.attended, 0, sizeof(float) * rows * n.dim);
  for (int b = 0; b < step.batch; ++b) {
    const float* cache = step.state + b * state + offset;
    const float* qkv = all_rows.wide + int64_t(b) * step.frames * 3 * n.dim;
    for (int s = 0; s < total; ++s)
      keys[s] = s < step.cached ? cache + int64_t(s) * 2 * n.dim : qkv + int64_t(s - step.cached) * 3 * n.dim + n.dim;
    const int64_t past = step.position[b] < step.cached ? step.position[b] : step.cached;
    attend(n, keys, int(step.cached - past), step.cached, all_rows.frames[b], qkv,
           model.distances + int64_t(index) * n.heads * n.distances(),
           all_rows.attended + int64_t(b) * step.frames * n.dim, scratch);
    float* next = step.next_state + b * state + offset;
    for (int s = 0; s < step.cached; ++s)
      std::memcpy(next + int64_t(s) * 2 * n.dim, keys[s + step.frames], sizeof(float) * 2 * n.dim);
  }
  quantise_rows(all_rows.attended, rows, layer.attended, all_rows.narrow_u8);
  linear_residual(layer.attended, all_rows.narrow_u8, rows, all_rows.x);
}

inline void convolution(const Model& model, int index, const Step& step, const Buffers& all_rows, int64_t offset,
                        Scratch scratch) {
  const Sizes& n = model.sizes;
  const Layer& layer = model.layers[index];
  const int64_t rows = int64_t(step.batch) * step.frames, state = n.state(step.cached), context = n.context();
  quantise_rows(all_rows.x, rows, layer.pointwise_in, all_rows.narrow_u8);
  linear(layer.pointwise_in, all_rows.narrow_u8, rows, all_rows.wide);
  uint8_t* in = scratch.take<uint8_t>((context + step.frames) * n.dim);
  const int64_t stride = layer.pointwise_out.padded;
  std::memset(all_rows.narrow_u8, 0, rows * stride);
  for (int b = 0; b < step.batch; ++b) {
    const float* past = step.state + b * state + offset;
    const float* now = all_rows.wide + int64_t(b) * step.frames * n.dim;
    quantise(past, context * n.dim, layer.depthwise.range, in);
    quantise(now, int64_t(step.frames) * n.dim, layer.depthwise.range, in + context * n.dim);
    depthwise(layer.depthwise, n, in, step.frames, all_rows.narrow_u8 + b * step.frames * stride, stride);
    float* next = step.next_state + b * state + offset;
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
  const int64_t rows = int64_t(step.batch) * step.frames, state = n.state(step.cached);
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
    const float* before = step.state + b * state;
    float* next = step.next_state + b * state;
    features(model, step.samples + int64_t(b) * samples, step.lengths[b], step.frames, before, next, fbank + n.mels,
             own);
    subsample(model, step.frames, fbank, before + n.tail(), next + n.tail(), frames, own);
    quantise_rows(frames, step.frames, model.subsampled,
                  buffers.narrow_u8 + int64_t(b) * step.frames * model.subsampled.padded);
    buffers.frames[b] = int((step.lengths[b] + 4 * n.hop - 1) / (4 * n.hop));
    step.next_position[b] = step.position[b] + buffers.frames[b];
  }
  linear(model.subsampled, buffers.narrow_u8, rows, buffers.x);

  int64_t offset = n.tail() + n.mels + int64_t(n.mels_1()) * n.channels;
  for (int i = 0; i < n.layers; ++i, offset += n.layer_state(step.cached)) {
    const Layer& layer = model.layers[i];
    feed_forward(layer.expand_in, layer.reduce_in, rows, buffers);
    attention(model, i, step, buffers, offset, scratch);
    convolution(model, i, step, buffers, offset + 2 * int64_t(step.cached) * n.dim, scratch);
    feed_forward(layer.expand_out, layer.reduce_out, rows, buffers);
  }

  std::memcpy(step.encoded, buffers.x, sizeof(float) * rows * n.dim);
  float* logits = scratch.take<float>(int64_t(step.frames) * n.vocabulary);
  for (int b = 0; b < step.batch; ++b) {
    const int64_t first = int64_t(b) * step.frames;
    quantise_rows(buffers.x + first * n.dim, step.frames, model.ctc, buffers.narrow_u8);
    linear(model.ctc, buffers.narrow_u8, step.frames, logits);
    for (int t = 0; t < step.frames; ++t)
      best_tokens(n, logits + int64_t(t) * n.vocabulary, step.top_log_probs + (first + t) * n.top,
                  step.top_ids + (first + t) * n.top, step.blank_log_probs + first + t);
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
