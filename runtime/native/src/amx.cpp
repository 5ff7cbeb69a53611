// x86-64 with AMX, whose registers are tiles of 16 rows of 64 bytes: a tile of weights holds 16 groups of a panel, in
// the order in which they lie in memory.
#if defined(__x86_64__) && defined(__linux__)
#include "model.hpp"

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,amx-tile,amx-int8"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,amx-tile,amx-int8")
#endif

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MULTIPLY_ADD _mm256_fmadd_ps  // for multiply_add of lanes.hpp: one instruction for eight lanes
#define AVX512                        // for lanes.hpp: vectors of 16 lanes

namespace {

using wenet_fusion::Start;

constexpr int TILE_ROWS = 16, TILE_BYTES = 64;
constexpr int TILE_GROUPS = TILE_BYTES / wenet_fusion::GROUP;
constexpr int BLOCKS = 4;    // most blocks of TILE_ROWS rows; a tile of weights is loaded once for all of them
constexpr int PANEL = 16, CHUNK_ROWS = BLOCKS * TILE_ROWS;  // outputs of a panel; rows of a call of Dots::add
constexpr int AHEAD = 8192;  // weights are prefetched this many bytes before they are used

// Tiles 0 to 3 hold the sums of one block each, tile 4 the inputs of a full block, tile 5 the inputs of the last block,
// which may have fewer rows, and tile 6 the weights. Instructions encode tile numbers, so these must be constants.
struct alignas(64) Configuration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};

// Products of 1 to BLOCKS * TILE_ROWS rows; Dots of rows.hpp says what `add` does. The tiles are configured as long as
// the object lives.
struct Dots {
  int blocks;

  explicit Dots(int rows) : blocks((rows + TILE_ROWS - 1) / TILE_ROWS) {
    Configuration tiles;
    const uint8_t last = uint8_t(rows - (blocks - 1) * TILE_ROWS);
    for (int i = 0; i < 7; ++i) {
      tiles.bytes[i] = TILE_BYTES;
      tiles.rows[i] = i == blocks - 1 || i == 5 ? last : TILE_ROWS;
    }
    // GCC assumes that the instruction reads only eight bytes: without this line it may never store the others.
    __asm__ volatile("" : : "r"(&tiles) : "memory");
    _tile_loadconfig(&tiles);
  }
  ~Dots() { _tile_release(); }
  Dots(const Dots&) = delete;
  Dots& operator=(const Dots&) = delete;

  void add(const uint8_t* rows_u8, int64_t stride, const int8_t* panel, int groups, Start start,
           int32_t* tiles) const {
    switch (blocks) {
      case 1: return blocks_of<1>(rows_u8, stride, panel, groups, start, tiles);
      case 2: return blocks_of<2>(rows_u8, stride, panel, groups, start, tiles);
      case 3: return blocks_of<3>(rows_u8, stride, panel, groups, start, tiles);
      default: return blocks_of<BLOCKS>(rows_u8, stride, panel, groups, start, tiles);
    }
  }

 private:
  // `add` for COUNT blocks.
  template <int COUNT>
  static void blocks_of(const uint8_t* rows_u8, int64_t stride, const int8_t* panel, int groups, Start start,
                        int32_t* tiles) {
    constexpr int SUMS = TILE_ROWS * PANEL;
    __asm__ volatile("" : : : "memory");  // the compiler does not know that tile instructions read memory
    const int64_t step = start.step * int64_t(sizeof(int32_t)), block = TILE_ROWS * start.step;
    _tile_loadd(0, start.first, step);
    if constexpr (COUNT > 1) _tile_loadd(1, start.first + block, step);
    if constexpr (COUNT > 2) _tile_loadd(2, start.first + 2 * block, step);
    if constexpr (COUNT > 3) _tile_loadd(3, start.first + 3 * block, step);
    for (int g = 0; g < groups; g += TILE_GROUPS) {
      const int8_t* weights = panel + g * TILE_BYTES;
      for (int line = 0; line < TILE_ROWS; ++line)
        _mm_prefetch(reinterpret_cast<const char*>(weights) + AHEAD + line * TILE_BYTES, _MM_HINT_T0);
      const uint8_t* inputs = rows_u8 + g * wenet_fusion::GROUP;
      _tile_loadd(6, weights, TILE_BYTES);
      if constexpr (COUNT > 1) {
        _tile_loadd(4, inputs, stride);
        _tile_dpbusd(0, 4, 6);
      }
      if constexpr (COUNT > 2) {
        _tile_loadd(4, inputs + TILE_ROWS * stride, stride);
        _tile_dpbusd(1, 4, 6);
      }
      if constexpr (COUNT > 3) {
        _tile_loadd(4, inputs + 2 * TILE_ROWS * stride, stride);
        _tile_dpbusd(2, 4, 6);
      }
      _tile_loadd(5, inputs + (COUNT - 1) * TILE_ROWS * stride, stride);
      if constexpr (COUNT == 1) _tile_dpbusd(0, 5, 6);
      if constexpr (COUNT == 2) _tile_dpbusd(1, 5, 6);
      if constexpr (COUNT == 3) _tile_dpbusd(2, 5, 6);
      if constexpr (COUNT == 4) _tile_dpbusd(3, 5, 6);
    }
    _tile_stored(0, tiles, TILE_BYTES);
    if constexpr (COUNT > 1) _tile_stored(1, tiles + SUMS, TILE_BYTES);
    if constexpr (COUNT > 2) _tile_stored(2, tiles + 2 * SUMS, TILE_BYTES);
    if constexpr (COUNT > 3) _tile_stored(3, tiles + 3 * SUMS, TILE_BYTES);
    __asm__ volatile("" : : : "memory");
  }
};

// See Kernels::multiply.
int64_t multiply(int64_t turns) {
  const Dots dots(BLOCKS * TILE_ROWS);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  for (int64_t turn = 0; turn < turns; ++turn) {
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 6);
    _tile_dpbusd(2, 4, 6);
    _tile_dpbusd(3, 5, 6);
  }
  return BLOCKS * TILE_ROWS * TILE_BYTES * PANEL;
}

// Linux lets a process use tiles only after the process has asked for permission.
bool may_use_tiles() {
  constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool found = syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
  return found;
}

// Whether this processor has the instructions of this file.
bool is_served() {
  unsigned eax, ebx, ecx, edx;
  const bool has_tiles = __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & (1u << 24)) && (edx & (1u << 25));
  return has_tiles && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx2") &&
         __builtin_cpu_supports("fma") && may_use_tiles();
}

}  // namespace

#include "step.hpp"

static_assert(ALIGNED % TILE_BYTES == 0, "a row has whole tiles");

extern const wenet_fusion::Kernels amx_kernels = {"amx", PANEL, is_served, run_step, run_products, multiply};

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
