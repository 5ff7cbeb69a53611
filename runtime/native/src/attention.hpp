// Attention of the frames of a step to blocks of keys and values.
#pragma once

#include <cstring>

#include "lanes.hpp"
#include "linear.hpp"
#include "model.hpp"

namespace {

using wenet_fusion::Model;
using wenet_fusion::Sizes;
using wenet_fusion::Step;

constexpr int QUERIES = WIDE == 16 ? 4 : 2;  // queries that share one reading of keys and values
constexpr int VECTORS = 4;                   // vectors of keys, or of a value, that share one reading of a query
constexpr int LINE = 16;                     // floats in a cache line

// The keys and values of one head that the frames of a step attend to, in the order of their frames.
struct Attended {
  float* keys;  // (width, stride)
  int stride;   // a multiple of WIDE
  const float** values;
  int count;

  // Add the frames of a block (layers, heads, 2 * frames * width) from frame `first` on: keys (width, frames) and
  // values (frames, width).
  void add(const float* block, int frames, int first, int width, int64_t index) {
    const int64_t floats = 2 * int64_t(frames) * width;
    const float* of_head = block + index * floats;
    for (int64_t i = 0; i < floats; i += LINE) __builtin_prefetch(of_head + floats + i);  // for the next head
    for (int v = 0; v < width; ++v) {
      const float* from = of_head + int64_t(v) * frames;
      float* to = keys + int64_t(v) * stride + count;
      int t = first;
      for (; t + 16 <= frames; t += 16) std::memcpy(to + (t - first), from + t, 16 * sizeof(float));
      for (; t + 4 <= frames; t += 4) std::memcpy(to + (t - first), from + t, 4 * sizeof(float));
      for (; t < frames; ++t) to[t - first] = from[t];
    }
    for (int t = first; t < frames; ++t) values[count++] = of_head + int64_t(frames + t) * width;
  }
};

// Products of COUNT queries, `query_step` floats apart, with the keys of SOME vectors, plus biases (see
// attend_queries).
template <int COUNT, int SOME>
inline void score(const Attended& head, int first, int width, const float* query, int64_t query_step,
                  const float* biases, float* scores) {
  Wide total[COUNT][SOME];
  for (int i = 0; i < COUNT; ++i)
    for (int j = 0; j < SOME; ++j) total[i][j] = load<Wide>(biases + first - i + j * WIDE);
  for (int v = 0; v < width; ++v) {
    Wide keys[SOME];
    for (int j = 0; j < SOME; ++j) keys[j] = load<Wide>(head.keys + int64_t(v) * head.stride + first + j * WIDE);
    for (int i = 0; i < COUNT; ++i) {
      const Wide x = all<Wide>(query[i * query_step + v]);
      for (int j = 0; j < SOME; ++j) total[i][j] = multiply_add(x, keys[j], total[i][j]);
    }
  }
  for (int i = 0; i < COUNT; ++i)
    for (int j = 0; j < SOME; ++j) store(scores + i * head.stride + first + j * WIDE, total[i][j]);
}

// The means of the values for COUNT queries, weighted by shares * scores: SOME vectors from `offset` of each value on,
// the last one with `part` floats. The outputs of consecutive queries are `dim` floats apart.
template <int COUNT, int SOME>
inline void average(const Attended& head, int offset, const float* scores, const float* shares, float* out, int64_t dim,
                    int part) {
  Wide mean[COUNT][SOME] = {};
  for (int s = 0; s < head.count; ++s) {
    Wide value[SOME];
    for (int j = 0; j < SOME; ++j)
      value[j] = load_part<Wide>(head.values[s] + offset + j * WIDE, j < SOME - 1 ? WIDE : part);
    for (int i = 0; i < COUNT; ++i) {
      const Wide weight = all<Wide>(scores[i * head.stride + s]);
      for (int j = 0; j < SOME; ++j) mean[i][j] = multiply_add(weight, value[j], mean[i][j]);
    }
  }
  for (int i = 0; i < COUNT; ++i)
    for (int j = 0; j < SOME; ++j)
      store_part(out + i * dim + offset + j * WIDE, mean[i][j] * all<Wide>(shares[i]), j < SOME - 1 ? WIDE : part);
}

// Attention of one head for COUNT queries. `biases` points to the first query's biases; those of each next query begin
// one float earlier.
template <int COUNT>
inline void attend_queries(const Sizes& n, const Attended& head, const float* query, const float* biases, float* scores,
                           float* out) {
  const int width = n.dim / n.heads;
  int s = 0;
  for (; s + VECTORS * WIDE <= head.stride; s += VECTORS * WIDE)
    score<COUNT, VECTORS>(head, s, width, query, 3 * n.dim, biases, scores);
  for (; s < head.stride; s += WIDE) score<COUNT, 1>(head, s, width, query, 3 * n.dim, biases, scores);
  float shares[COUNT];
  for (int i = 0; i < COUNT; ++i) {
    float* own = scores + i * head.stride;
    for (int after = head.count; after < head.stride; ++after) own[after] = -3e38f;
    Wide most = load<Wide>(own);
    for (s = WIDE; s < head.stride; s += WIDE) most = maximum(most, load<Wide>(own + s));
    const Wide top = all<Wide>(largest(most));
    Floats total = {};
    for (s = 0; s < head.stride; s += WIDE) {
      const Wide e = exponential(load<Wide>(own + s) - top);
      store(own + s, e);
      total = add(total, e);
    }
    shares[i] = 1.0f / sum(total);
  }
  int v = 0;
  for (; v + VECTORS * WIDE <= width; v += VECTORS * WIDE)
    average<COUNT, VECTORS>(head, v, scores, shares, out, n.dim, WIDE);
  for (; v < width; v += WIDE)
    average<COUNT, 1>(head, v, scores, shares, out, n.dim, width - v < WIDE ? width - v : WIDE);
}

// Scaled dot-product attention of one layer and stream for `count` frames; the queries are scaled already.
inline void attend(const Model& model, const Step& step, int layer, int stream, int count, const float* qkv, float* out,
                   Scratch scratch) {
  const Sizes& n = model.sizes;
  const int width = n.dim / n.heads, zero = n.max_distance;
  int past = 0;
  for (int i = 0; i < step.blocks; ++i) past += step.past_frames[stream * step.blocks + i];
  const int before = past < step.cached ? past : step.cached, keys = before + step.frames;
  Attended head{nullptr, (keys + WIDE - 1) / WIDE * WIDE, scratch.take<const float*>(keys), 0};
  head.keys = scratch.take<float>(int64_t(width) * head.stride);
  float* scores = scratch.take<float>(QUERIES * head.stride);
  float* biases = scratch.take<float>(head.stride + count);
  for (int h = 0; h < n.heads; ++h) {
    const int64_t index = int64_t(layer) * n.heads + h;
    head.count = 0;
    int hidden = past - before;  // the oldest frames, which lie before the left context
    for (int i = 0; i < step.blocks; ++i) {
      const int frames = step.past_frames[stream * step.blocks + i], first = hidden < frames ? hidden : frames;
      head.add(step.past[stream * step.blocks + i], frames, first, width, index);
      hidden -= first;
    }
    head.add(step.next_past[stream], step.frames, 0, width, index);
    head.count = before + count;  // without the frames after the end of the stream
    for (int i = 0; i < head.stride + count; ++i) {  // key s has the bias biases[s + count - t] for query t
      int distance = i - count - before + zero;
      distance = distance < 0 ? 0 : distance > 2 * zero ? 2 * zero : distance;
      biases[i] = model.distances[index * n.distances() + distance];
    }
    const float* queries = qkv + h * width;
    float* attended = out + h * width;
    int t = 0;
    for (; t + QUERIES <= count; t += QUERIES)
      attend_queries<QUERIES>(n, head, queries + int64_t(t) * 3 * n.dim, biases + count - t, scores,
                              attended + int64_t(t) * n.dim);
    for (; t < count; ++t)
      attend_queries<1>(n, head, queries + int64_t(t) * 3 * n.dim, biases + count - t, scores,
                        attended + int64_t(t) * n.dim);
  }
}

}  // namespace
