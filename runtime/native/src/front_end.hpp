// The first layers of a step: log-mel features and subsampling.
#pragma once

#include <cstring>

#include "lanes.hpp"
#include "linear.hpp"
#include "model.hpp"

namespace {

using wenet_fusion::Model;
using wenet_fusion::Sizes;
using wenet_fusion::Spectrum;

constexpr float ENERGY_FLOOR = 1.1920928955078125e-7f;  // as in Kaldi

constexpr float PRE_EMPHASIS = 0.97f;  // as in Kaldi

// Fourier transform of `size` complex numbers in bit-reversed order, in place; `size` is a power of two. Cooley and
// Tukey's algorithm with radix 2, for WIDE transforms at once: real and imaginary parts are (size, WIDE).
inline void transform(float* real, float* imaginary, int size, const Spectrum& table) {
  for (int half = 1; half < size; half *= 2) {
    for (int j = 0; j < half; ++j) {
      const Wide c = all<Wide>(table.cosine[j * (size / half)]), s = all<Wide>(table.sine[j * (size / half)]);
      for (int i = j; i < size; i += 2 * half) {
        float *re = real + i * WIDE, *im = imaginary + i * WIDE;
        float *re_2 = re + half * WIDE, *im_2 = im + half * WIDE;
        const Wide x = load<Wide>(re), y = load<Wide>(im), x_2 = load<Wide>(re_2), y_2 = load<Wide>(im_2);
        const Wide turned_x = multiply_add(y_2, s, x_2 * c), turned_y = multiply_add(x_2, -s, y_2 * c);
        store(re, x + turned_x);
        store(im, y + turned_y);
        store(re_2, x - turned_x);
        store(im_2, y - turned_y);
      }
    }
  }
}

// Kaldi's power spectra of `count` windows, at most WIDE, one in each lane: (count, bins). The mean of a window is
// removed; then come pre-emphasis, window function, zeros up to 2 * bins samples, and a Fourier transform. Samples 2 i
// and 2 i + 1 are the real and the imaginary part of input i of a transform of half the length.
inline void power_spectra(const Model& model, const float* audio, int count, float* out, Scratch scratch) {
  const Sizes& n = model.sizes;
  const Spectrum& table = model.spectrum;
  float* x = scratch.take<float>(int64_t(n.window) * WIDE);
  float* real = scratch.take<float>(int64_t(n.bins) * WIDE);
  float* imaginary = scratch.take<float>(int64_t(n.bins) * WIDE);
  for (int lane = 0; lane < WIDE; ++lane) {
    const float* samples = audio + (lane < count ? lane : count - 1) * n.hop;
    for (int i = 0; i < n.window; ++i) x[i * WIDE + lane] = samples[i];
  }
  Wide sums[4] = {};  // four sums have smaller rounding errors than one
  for (int i = 0; i < n.window; ++i) sums[i % 4] = sums[i % 4] + load<Wide>(x + i * WIDE);
  const Wide mean = ((sums[0] + sums[1]) + (sums[2] + sums[3])) * all<Wide>(1.0f / float(n.window));

  Wide before = {};  // the first sample has none, and the weight 0 in the window function
  int reversed = 0;
  for (int i = 0; i < n.bins; ++i) {
    for (int part = 0; part < 2; ++part) {
      const int at = 2 * i + part;
      Wide y = {};
      if (at < n.window) {
        const Wide centred = load<Wide>(x + at * WIDE) - mean;
        y = multiply_add(before, all<Wide>(-PRE_EMPHASIS), centred) * all<Wide>(table.window[at]);
        before = centred;
      }
      store((part == 0 ? real : imaginary) + reversed * WIDE, y);
    }
    int bit = n.bins / 2;  // adds 1 to the reversed bits
    for (; reversed & bit; bit /= 2) reversed -= bit;
    reversed += bit;
  }
  transform(real, imaginary, n.bins, table);

  for (int k = 0; k < n.bins; ++k) {  // separates the spectra of even and odd samples, and joins them
    const int mirrored = (n.bins - k) % n.bins;
    const Wide x_1 = load<Wide>(real + k * WIDE), y_1 = load<Wide>(imaginary + k * WIDE);
    const Wide x_2 = load<Wide>(real + mirrored * WIDE), y_2 = load<Wide>(imaginary + mirrored * WIDE);
    const Wide c = all<Wide>(table.cosine[k]), s = all<Wide>(table.sine[k]);
    const Wide odd_x = y_1 + y_2, odd_y = x_2 - x_1;
    const Wide re = multiply_add(odd_y, s, multiply_add(odd_x, c, x_1 + x_2));
    const Wide im = multiply_add(odd_x, -s, multiply_add(odd_y, c, y_1 - y_2));
    const Wide power = multiply_add(re, re, im * im);
    for (int lane = 0; lane < count; ++lane) out[int64_t(lane) * n.bins + k] = power[lane];
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

  float* spectrum = scratch.take<float>(int64_t(windows) * n.bins);
  for (int w = 0; w < windows; w += WIDE)
    power_spectra(model, audio + int64_t(w) * n.hop, windows - w < WIDE ? windows - w : WIDE,
                  spectrum + int64_t(w) * n.bins, scratch);
  product<false>(model.mel, spectrum, windows, n.bins, 1, 0, out, n.mels);
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
