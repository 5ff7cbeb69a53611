// Quantising, and the linear layers of a step, in integers and in float.
//
// Do not call the standard library with vectors in the headers of a step: the linker keeps one copy of each inline
// function, and that copy might use instructions that this processor lacks.
#pragma once

#include <cstring>

#include "lanes.hpp"
#include "model.hpp"

namespace {

using wenet_fusion::ALIGNED;
using wenet_fusion::GROUP;
using wenet_fusion::Linear;
using wenet_fusion::Product;
using wenet_fusion::Range;
using wenet_fusion::Start;

constexpr int WIDE = lanes<Wide>;
constexpr int PARTS = PANEL / WIDE;  // vectors per row of a panel
constexpr int CHUNK_INPUTS = 1024;   // inputs of a panel that stay in the first-level cache with the rows

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

typedef IntsOf<Wide> WideInts;
typedef uint8_t WideBytes __attribute__((vector_size(WIDE)));

// Nearest integer to each float, ties to even, plus the zero point, within 0 to 255.
inline Wide within_bytes(Wide x, float zero_point) {
  return rounded(minimum(maximum(x, all<Wide>(-zero_point)), all<Wide>(255.0f - zero_point))) + all<Wide>(zero_point);
}

inline Wide quantised(Wide x, Range range) {
  return within_bytes(x * all<Wide>(range.inverse_scale), range.zero_point);
}

// Store the first `count` integers, each from 0 to 255, as bytes.
inline void store_bytes(uint8_t* p, Wide integers, int count = WIDE) {
  const WideInts x = to_ints(integers);
#ifdef AVX512
  const WideBytes lowest = __builtin_convertvector(x, WideBytes);
#else  // faster without AVX-512
  typedef uint8_t All __attribute__((vector_size(sizeof x)));
  const All bytes = reinterpret_cast<All>(x);
  const WideBytes lowest = __builtin_shufflevector(bytes, bytes, 0, 4, 8, 12, 16, 20, 24, 28);
#endif
  if (count == WIDE) {
    std::memcpy(p, &lowest, sizeof lowest);
  } else {
    std::memcpy(p, &lowest, count);
  }
}

inline void quantise(const float* x, int64_t count, Range range, uint8_t* out) {
  for (int64_t i = 0; i < count; i += WIDE) {
    const int part = count - i < WIDE ? int(count - i) : WIDE;
    store_bytes(out + i, quantised(load_part<Wide>(x + i, part), range), part);
  }
}

// Quantise, but keep the type float.
inline void quantise_floats(const float* x, int64_t count, Range range, float* out) {
  for (int64_t i = 0; i < count; i += WIDE) {
    const int part = count - i < WIDE ? int(count - i) : WIDE;
    store_part(out + i, quantised(load_part<Wide>(x + i, part), range), part);
  }
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
      const int8_t* weights = layer.panels + int64_t(panel) * layer.padded * PANEL;
      for (int start = 0; start < layer.padded; start += CHUNK_INPUTS) {
        const int inputs = layer.padded - start < CHUNK_INPUTS ? layer.padded - start : CHUNK_INPUTS;
        dots.add(rows_u8 + first * layer.padded + start, layer.padded, weights + int64_t(start) * PANEL, inputs / GROUP,
                 start == 0 ? Start{layer.start + panel * PANEL, 0} : Start{tiles, PANEL}, tiles);
      }
      for (int part = 0; part < PARTS; ++part) {
        const int output = panel * PANEL + part * WIDE;
        if (output >= layer.outputs) break;
        const int outputs = layer.outputs - output < WIDE ? layer.outputs - output : WIDE;
        const Wide scale = load<Wide>(layer.scale + output), bias = load<Wide>(layer.bias + output);
        for (int r = 0; r < count; ++r) {
          const Wide sum = to_floats(load_ints<Wide>(tiles + r * PANEL + part * WIDE));
          use(first + r, output, outputs, sum * scale + bias);
        }
      }
    }
  }
}

inline void linear(const Linear& layer, const uint8_t* in, int64_t rows, float* out) {
  products(layer, in, rows, [&](int64_t row, int output, int outputs, Wide y) {
    float* p = out + row * layer.outputs + output;
    store_part(p, y, outputs);
  });
}

// Add the output to x.
inline void linear_residual(const Linear& layer, const uint8_t* in, int64_t rows, float* x) {
  products(layer, in, rows, [&](int64_t row, int output, int outputs, Wide y) {
    float* p = x + row * layer.outputs + output;
    store_part(p, load_part<Wide>(p, outputs) + y, outputs);
  });
}

// ReLU of the output, as the uint8 input of the next layer.
inline void linear_relu(const Linear& layer, const uint8_t* in, int64_t rows, const Linear& next, uint8_t* out) {
  products(layer, in, rows, [&](int64_t row, int output, int outputs, Wide y) {
    store_bytes(out + row * next.padded + output, quantised(maximum(y, Wide{}), next.range), outputs);
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
  constexpr int TOGETHER = WIDE == 16 ? 10 : 4;  // so many sums that additions to one do not wait for each other
  for (int panel = 0; panel < panels; ++panel) {
    const float* weights = layer.panels + int64_t(panel) * layer.inputs * PANEL;
    const float* bias = layer.bias + panel * PANEL;
    for (int64_t first = 0; first < rows; first += TOGETHER) {
      const float* row[TOGETHER];
      for (int r = 0; r < TOGETHER; ++r)  // rows beyond the last repeat it
        row[r] = in + (first + r < rows ? first + r : rows - 1) * row_step;
      Wide total[TOGETHER][PARTS];
      for (int r = 0; r < TOGETHER; ++r)
        for (int part = 0; part < PARTS; ++part) total[r][part] = load<Wide>(bias + part * WIDE);
      const float* w = weights;
      for (int piece = 0; piece < pieces; ++piece) {
        for (int k = 0; k < length; ++k, w += PANEL) {
          Wide values[PARTS];
          for (int part = 0; part < PARTS; ++part) values[part] = load<Wide>(w + part * WIDE);
          for (int r = 0; r < TOGETHER; ++r) {
            const Wide x = all<Wide>(row[r][piece * piece_step + k]);
            for (int part = 0; part < PARTS; ++part) total[r][part] = multiply_add(x, values[part], total[r][part]);
          }
        }
      }
      for (int r = 0; r < TOGETHER && first + r < rows; ++r) {
        for (int part = 0; part < PARTS; ++part) {
          const int output = panel * PANEL + part * WIDE;
          if (output >= layer.outputs) break;
          const Wide y = RELU ? maximum(total[r][part], Wide{}) : total[r][part];
          float* p = out + (first + r) * stride + output;
          store_part(p, y, layer.outputs - output < WIDE ? layer.outputs - output : WIDE);
        }
      }
    }
  }
}

}  // namespace
