// The first layers of a step: log-mel features and subsampling.
#pragma once

#include <cstring>

#include "lanes.hpp"
#include "linear.hpp"
#include "model.hpp"

namespace {

using wenet_fusion::Model;
using wenet_fusion::Sizes;

constexpr float ENERGY_FLOOR = 1.1920928955078125e-7f;  // as in Kaldi

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
    for (int k = 0; k < n.bins; k += WIDE) {
      const int part = n.bins - k < WIDE ? n.bins - k : WIDE;
      const Wide re = load_part<Wide>(real + k, part), im = load_part<Wide>(imaginary + k, part);
      store_part(real + k, re * re + im * im, part);
    }
  }
  product<false>(model.mel, spectrum, windows, 2 * n.bins, 1, 0, out, n.mels);
  for (int w = 0; w < windows; ++w) {
    float* x = out + int64_t(w) * n.mels;
    for (int f = 0; f < n.mels; f += WIDE) {
      const int part = n.mels - f < WIDE ? n.mels - f : WIDE;
      const Wide energy = maximum(load_part<Wide>(x + f, part), all<Wide>(ENERGY_FLOOR));
      const Wide centred = logarithm(energy) - load_part<Wide>(model.mean + f, part);
      store_part(x + f, centred * load_part<Wide>(model.inverse_std + f, part), part);
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

}  // namespace
