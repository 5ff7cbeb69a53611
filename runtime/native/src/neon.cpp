// ARM with the dot product instructions of ARMv8.2. They multiply signed numbers, so 128 is subtracted from the inputs,
// and 128 times the sum of the weights is added to the result.
#if defined(__aarch64__) && defined(__linux__)
#include "model.hpp"

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif

#include <arm_neon.h>
#include <sys/auxv.h>

namespace {

using wenet_fusion::Start;

constexpr int PANEL = 16;                 // outputs of a panel
constexpr int ROWS = 4, CHUNK_ROWS = 64;  // see rows.hpp
constexpr int ROW_VECTORS = PANEL / 4;    // vectors per row of the tile

template <int COUNT>
inline void dot_rows(const uint8_t* rows_u8, int64_t stride, const int8_t* panel, int groups, Start start,
                     int32_t* tile) {
  int32x4_t total[COUNT][ROW_VECTORS], weight_sum[ROW_VECTORS] = {};
  for (int r = 0; r < COUNT; ++r)
    for (int p = 0; p < ROW_VECTORS; ++p) total[r][p] = vld1q_s32(start.first + r * start.step + 4 * p);
  const int8x16_t ones = vdupq_n_s8(1);
  for (int g = 0; g < groups; ++g) {
    int8x16_t weights[ROW_VECTORS];
    for (int p = 0; p < ROW_VECTORS; ++p) {
      weights[p] = vld1q_s8(panel + 64 * g + 16 * p);
      weight_sum[p] = vdotq_s32(weight_sum[p], weights[p], ones);
    }
    for (int r = 0; r < COUNT; ++r) {
      uint32_t four;
      __builtin_memcpy(&four, rows_u8 + r * stride + 4 * g, sizeof four);
      const int8x16_t x = vreinterpretq_s8_u32(vdupq_n_u32(four ^ 0x80808080u));
      for (int p = 0; p < ROW_VECTORS; ++p) total[r][p] = vdotq_s32(total[r][p], weights[p], x);
    }
  }
  for (int r = 0; r < COUNT; ++r)
    for (int p = 0; p < ROW_VECTORS; ++p)
      vst1q_s32(tile + r * PANEL + 4 * p, vaddq_s32(total[r][p], vshlq_n_s32(weight_sum[p], 7)));
}

int64_t multiply(int64_t turns) {
  constexpr int CHAINS = 16;  // independent sums, enough to hide the latency
  int32x4_t sums[CHAINS] = {};
  int8x16_t weights = vdupq_n_s8(1);
  for (int64_t turn = 0; turn < turns; ++turn) {
    for (int32x4_t& sum : sums) {
      __asm__ volatile("" : "+w"(weights));  // the compiler must not reuse the product of an earlier turn
      sum = vdotq_s32(sum, weights, weights);
    }
  }
  for (int32x4_t& sum : sums) __asm__ volatile("" : "+w"(sum));
  return CHAINS * 16;
}

bool is_served() { return getauxval(AT_HWCAP) & HWCAP_ASIMDDP; }

}  // namespace

#include "rows.hpp"
#include "step.hpp"

extern const wenet_fusion::Kernels neon_kernels = {"neon", PANEL, is_served, run_step, run_products, multiply};

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
