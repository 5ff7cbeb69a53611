// x86-64 with AVX2 and AVX-VNNI, VNNI instructions for 256 bits that need no AVX-512: two registers hold 16 int32 sums,
// of one input row with the 16 outputs of a panel.
#ifdef __x86_64__
#include "model.hpp"

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,avxvnni"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,avxvnni")
#endif

#include <cpuid.h>
#include <immintrin.h>

#define MULTIPLY_ADD _mm256_fmadd_ps  // for multiply_add of lanes.hpp: one instruction for eight lanes

namespace {

using wenet_fusion::GROUP;
using wenet_fusion::Start;

constexpr int PANEL = 16;                 // outputs of a panel
constexpr int ROWS = 5, CHUNK_ROWS = 64;  // see rows.hpp; a weight is loaded once for ROWS rows
constexpr int AHEAD = 8192;               // weights are prefetched this many bytes before they are used

// Writes the sums of COUNT rows, `start` plus the products with `groups` groups of a panel, to `tile`; see rows.hpp.
template <int COUNT>
inline void dot_rows(const uint8_t* rows_u8, int64_t stride, const int8_t* panel, int groups, Start start,
                     int32_t* tile) {
  __m256i* out = reinterpret_cast<__m256i*>(tile);
  __m256i low[COUNT], high[COUNT];
  for (int r = 0; r < COUNT; ++r) {
    const __m256i* from = reinterpret_cast<const __m256i*>(start.first + r * start.step);
    low[r] = _mm256_load_si256(from);
    high[r] = _mm256_load_si256(from + 1);
  }
  for (int g = 0; g < groups; ++g) {
    const __m256i* weights = reinterpret_cast<const __m256i*>(panel) + 2 * g;
    _mm_prefetch(reinterpret_cast<const char*>(weights) + AHEAD, _MM_HINT_T0);
    const __m256i first = _mm256_load_si256(weights), second = _mm256_load_si256(weights + 1);
    for (int r = 0; r < COUNT; ++r) {
      int32_t four;
      __builtin_memcpy(&four, rows_u8 + r * stride + GROUP * g, sizeof four);
      const __m256i x = _mm256_set1_epi32(four);
      low[r] = _mm256_dpbusd_avx_epi32(low[r], x, first);
      high[r] = _mm256_dpbusd_avx_epi32(high[r], x, second);
    }
  }
  for (int r = 0; r < COUNT; ++r) {
    _mm256_store_si256(out + 2 * r, low[r]);
    _mm256_store_si256(out + 2 * r + 1, high[r]);
  }
}

// See Kernels::multiply.
int64_t multiply(int64_t turns) {
  constexpr int CHAINS = 12;  // independent sums, enough to hide the latency
  __m256i sums[CHAINS] = {};
  const __m256i x = _mm256_set1_epi8(3);
  for (int64_t turn = 0; turn < turns; ++turn) {
    for (__m256i& sum : sums) {
      sum = _mm256_dpbusd_avx_epi32(sum, x, x);
      __asm__ volatile("" : "+x"(sum));  // the compiler must not merge several turns into one
    }
  }
  return CHAINS * 32;
}

// Whether this processor has the instructions of this file.
bool is_served() {
  unsigned eax, ebx, ecx, edx;
  const bool has_vnni = __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & (1u << 4));
  return has_vnni && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

}  // namespace

#include "rows.hpp"
#include "step.hpp"

extern const wenet_fusion::Kernels avx_vnni_kernels = {"avx_vnni", PANEL, is_served, run_step, run_products, multiply};

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
