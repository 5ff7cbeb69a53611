// x86-64 with AVX2 and FMA: two registers hold 16 int32 sums, of one input row with the 16 outputs of a panel. The
// instructions first add two products in 16 bits; this cannot overflow, because weights are within -64 to 64.
#ifdef __x86_64__
#include "model.hpp"

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#include <immintrin.h>

#define MULTIPLY_ADD _mm256_fmadd_ps  // for multiply_add of lanes.hpp: one instruction for eight lanes

namespace {

using wenet_fusion::GROUP;
using wenet_fusion::Start;

constexpr int PANEL = 16;                 // outputs of a panel
constexpr int ROWS = 4, CHUNK_ROWS = 64;  // see rows.hpp; a weight is loaded once for ROWS rows
constexpr int AHEAD = 8192;               // weights are prefetched this many bytes before they are used
constexpr int GROUPS_AT_ONCE = 2;         // groups per turn of the loop; `groups` is a multiple of this

// Writes the sums of COUNT rows, `start` plus the products with `groups` groups of a panel, to `tile`; see rows.hpp.
template <int COUNT>
inline void dot_rows(const uint8_t* rows_u8, int64_t stride, const int8_t* panel, int groups, Start start,
                     int32_t* tile) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i* out = reinterpret_cast<__m256i*>(tile);
  __m256i low[COUNT], high[COUNT];
  for (int r = 0; r < COUNT; ++r) {
    const __m256i* from = reinterpret_cast<const __m256i*>(start.first + r * start.step);
    low[r] = _mm256_load_si256(from);
    high[r] = _mm256_load_si256(from + 1);
  }
  for (int g = 0; g < groups; g += GROUPS_AT_ONCE) {
    for (int each = g; each < g + GROUPS_AT_ONCE; ++each) {
      const __m256i* weights = reinterpret_cast<const __m256i*>(panel) + 2 * each;
      _mm_prefetch(panel + PANEL * GROUP * each + AHEAD, _MM_HINT_T0);
      const __m256i first = _mm256_load_si256(weights), second = _mm256_load_si256(weights + 1);
      for (int r = 0; r < COUNT; ++r) {
        int32_t four;
        __builtin_memcpy(&four, rows_u8 + r * stride + GROUP * each, sizeof four);
        const __m256i x = _mm256_set1_epi32(four);
        low[r] = _mm256_add_epi32(low[r], _mm256_madd_epi16(_mm256_maddubs_epi16(x, first), ones));
        high[r] = _mm256_add_epi32(high[r], _mm256_madd_epi16(_mm256_maddubs_epi16(x, second), ones));
      }
    }
  }
  for (int r = 0; r < COUNT; ++r) {
    _mm256_store_si256(out + 2 * r, low[r]);
    _mm256_store_si256(out + 2 * r + 1, high[r]);
  }
}

// See Kernels::multiply.
int64_t multiply(int64_t turns) {
  constexpr int CHAINS = 10;  // independent sums, enough to hide the latency
  const __m256i ones = _mm256_set1_epi16(1), x = _mm256_set1_epi8(3);
  __m256i sums[CHAINS] = {};
  for (int64_t turn = 0; turn < turns; ++turn) {
    for (__m256i& sum : sums) {
      __m256i weights = ones;
      __asm__ volatile("" : "+x"(weights));  // the compiler must not reuse the product of an earlier turn
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, weights), ones));
    }
  }
  for (__m256i& sum : sums) __asm__ volatile("" : "+x"(sum));
  return CHAINS * 32;
}

// Whether this processor has the instructions of this file.
bool is_served() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

}  // namespace

#include "rows.hpp"
#include "step.hpp"

extern const wenet_fusion::Kernels avx2_kernels = {"avx2", PANEL, is_served, run_step, run_products, multiply};

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
