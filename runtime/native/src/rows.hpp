// The products of several rows with panels of weights, for families that keep sums in registers. Before it includes
// this file, a family defines ROWS and PANELS, the most rows and panels of a call of `dot_rows`, and either, with one
// panel, `dot_rows<COUNT>`, which adds the products of COUNT rows with a panel, or `dot_rows<COUNT, TOGETHER>`, with
// TOGETHER panels. CHUNK_ROWS is the number of rows that are multiplied by these panels before the next panels are
// read.
#pragma once

#include <cstdint>

#include "model.hpp"

namespace {

// Products of any number of rows.
struct Dots {
  int rows;

  explicit Dots(int count) : rows(count) {}

  // Multiply uint8 rows, `stride` bytes apart, by `groups` groups of `panels` panels, `panel_bytes` apart. `groups` is
  // a multiple of ALIGNED / GROUP. Add the products to the (rows, PANEL) sums of each panel, `tile_step` sums apart.
  void add(const uint8_t* rows_u8, int64_t stride, const int8_t* panel, int64_t panel_bytes, int panels, int groups,
           int32_t* tiles, int64_t tile_step) const {
    for (int r = 0; r < rows; r += ROWS) {
      const uint8_t* from = rows_u8 + r * stride;
      int32_t* tile = tiles + r * wenet_fusion::PANEL;
      if (panels == PANELS) {
        part<ROWS, PANELS>(rows - r, from, stride, panel, panel_bytes, groups, tile, tile_step);
      } else {  // the last panel of an odd number
        part<ROWS, 1>(rows - r, from, stride, panel, panel_bytes, groups, tile, tile_step);
      }
    }
  }

 private:
  template <int COUNT, int TOGETHER>
  static void part(int count, const uint8_t* rows_u8, int64_t stride, const int8_t* panel, int64_t panel_bytes,
                   int groups, int32_t* tile, int64_t tile_step) {
    if constexpr (COUNT > 1)
      if (count < COUNT)
        return part<COUNT - 1, TOGETHER>(count, rows_u8, stride, panel, panel_bytes, groups, tile, tile_step);
    if constexpr (PANELS == 1) {
      dot_rows<COUNT>(rows_u8, stride, panel, groups, tile);
    } else {
      dot_rows<COUNT, TOGETHER>(rows_u8, stride, panel, panel_bytes, groups, tile, tile_step);
    }
  }
};

static_assert(PANELS <= 2, "`add` calls dot_rows for one or for PANELS panels");

}  // namespace
