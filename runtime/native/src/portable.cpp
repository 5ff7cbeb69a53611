// The reference: plain loops, for any processor.
#include "model.hpp"

namespace {

template <int COUNT>
inline void dot_rows(const uint8_t* rows_u8, int64_t stride, const int8_t* panel, int groups, int32_t* tile) {
  for (int r = 0; r < COUNT; ++r)
    for (int g = 0; g < groups; ++g)
      for (int o = 0; o < wenet_fusion::PANEL; ++o)
        for (int i = 0; i < wenet_fusion::GROUP; ++i)
          tile[r * wenet_fusion::PANEL + o] += rows_u8[r * stride + g * wenet_fusion::GROUP + i] *
                                               panel[(g * wenet_fusion::PANEL + o) * wenet_fusion::GROUP + i];
}

bool is_served() { return true; }

}  // namespace

#include "step.hpp"

extern const wenet_fusion::Kernels portable_kernels = {"portable", is_served, run_step};
