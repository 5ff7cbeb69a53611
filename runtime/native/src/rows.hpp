// The products of several rows with a panel of weights, for families that keep sums in registers. Before it includes
// this file, a family defines ROWS and `dot_rows<COUNT>`, which computes the sums of COUNT rows, at most ROWS. It also
// defines CHUNK_ROWS for linear.hpp: the number of rows that are multiplied by a panel before the next panel is read.
#pragma once

#include <cstdint>

#include "model.hpp"

namespace {

// Products of any number of rows. `add` multiplies uint8 rows, `stride` bytes apart, by `groups` groups of a panel (a
// multiple of ALIGNED / GROUP), adds the products to the sums of `start`, and writes the results to `tiles`
// (rows, PANEL), where `start` may lie too.
struct Dots {
  int rows;

  explicit Dots(int count) : rows(count) {}

  void add(const uint8_t* rows_u8, int64_t stride, const int8_t* panel, int groups, Start start,
           int32_t* tiles) const {
    for (int r = 0; r < rows; r += ROWS)
      part<ROWS>(rows - r, rows_u8 + r * stride, stride, panel, groups, {start.first + r * start.step, start.step},
                 tiles + r * PANEL);
  }

 private:
  template <int COUNT>
  static void part(int count, const uint8_t* rows_u8, int64_t stride, const int8_t* panel, int groups, Start start,
                   int32_t* tile) {
    if constexpr (COUNT > 1)
      if (count < COUNT) return part<COUNT - 1>(count, rows_u8, stride, panel, groups, start, tile);
    dot_rows<COUNT>(rows_u8, stride, panel, groups, start, tile);
  }
};

}  // namespace
