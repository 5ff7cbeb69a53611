// The reference: plain loops, for any processor.
#include "model.hpp"

namespace {

using wenet_fusion::Start;

constexpr int PANEL = 16;                 // outputs of a panel
constexpr int ROWS = 4, CHUNK_ROWS = 64;  // see rows.hpp

template <int COUNT>
inline void dot_rows(const uint8_t* rows_u8, int64_t stride, const int8_t* panel, int groups, Start start,
                     int32_t* tile) {
  for (int r = 0; r < COUNT; ++r) {
    for (int o = 0; o < PANEL; ++o) tile[r * PANEL + o] = start.first[r * start.step + o];
    for (int g = 0; g < groups; ++g)
      for (int o = 0; o < PANEL; ++o)
        for (int i = 0; i < wenet_fusion::GROUP; ++i)
          tile[r * PANEL + o] +=
              rows_u8[r * stride + g * wenet_fusion::GROUP + i] * panel[(g * PANEL + o) * wenet_fusion::GROUP + i];
  }
}

int64_t multiply(int64_t turns) {  // there is no special instruction: runs dot_rows on data in the first-level cache
  constexpr int GROUPS = 16, INPUTS = GROUPS * wenet_fusion::GROUP;
  const uint8_t rows[ROWS * INPUTS] = {};
  const int8_t panel[INPUTS * PANEL] = {};
  int32_t tile[ROWS * PANEL] = {};
  for (int64_t turn = 0; turn < turns; ++turn) {
    dot_rows<ROWS>(rows, INPUTS, panel, GROUPS, {tile, PANEL}, tile);
    __asm__ volatile("" : : "r"(tile), "r"(rows), "r"(panel) : "memory");
  }
  return ROWS * INPUTS * PANEL;
}

bool is_served() { return true; }

}  // namespace

#include "rows.hpp"
#include "step.hpp"

extern const wenet_fusion::Kernels portable_kernels = {"portable", PANEL, is_served, run_step, run_products, multiply};
