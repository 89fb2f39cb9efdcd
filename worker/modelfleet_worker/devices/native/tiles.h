// Tiles of AMX: products of 16 rows and 16 outputs, 32 inputs of bfloat16 a time.
//
// Not one of the sets of instructions: it is asked for when the process runs, since Linux gives it
// only to those that ask.
#pragma once
#include <cstdint>

#include "vectors.h"

#if defined(__AVX512BF16__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#define MODELFLEET_TILES 1
#define WITH_TILES __attribute__((target("amx-tile,amx-bf16")))
#else
#define MODELFLEET_TILES 0
#endif

namespace modelfleet {

constexpr int kTile = 16;    // rows, and outputs
constexpr int kInputs = 32;  // of one product

#if MODELFLEET_TILES

inline bool has_tiles() {
  static const bool has = [] {
    uint32_t a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return false;
    constexpr long kAsk = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
    return syscall(SYS_arch_prctl, kAsk, kTileData) == 0;
  }();
  return has;
}

// A thread's tiles, all of 16 rows of 64 bytes.
class Tiles {
 public:
  WITH_TILES Tiles() {
    // Not a local one: GCC's intrinsic does not tell that it reads all of it.
    static const struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {kTile, kTile, kTile, kTile, kTile, kTile, kTile, kTile};
    } shape;
    __asm__ volatile("" ::"r"(&shape) : "memory");
    _tile_loadconfig(&shape);
  }
  WITH_TILES ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
};

// Tiles 4 and 5: 32 rows.
WITH_TILES inline void load_rows(const bf16* x, int64_t stride) {
  _tile_loadd(4, x, stride * sizeof(bf16));
  _tile_loadd(5, x + kTile * stride, stride * sizeof(bf16));
}

// Tiles 6 and 7: weights of 32 outputs.
WITH_TILES inline void load_weights(const bf16* w) {
  constexpr int64_t kLineBytes = 2 * kTile * 2 * sizeof(bf16);  // of 32 lanes and two inputs
  _tile_loadd(6, w, kLineBytes);
  _tile_loadd(7, w + 2 * kTile, kLineBytes);
}

// Tiles 0 to 3: sums of each of the rows with each of the weights.
WITH_TILES inline void add_products() {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

// Sums [32 rows][32 outputs] of rows of `x` (of `stride` inputs) and a pair of blocks of weights, which
// lie as projections.h says. `x` and `w` are what is left of numbers in bfloat16, and `x_rest` and
// `w_rest` what they lack, or null: with them a product has some 16 bits.
WITH_TILES inline void sums_of_tiles(const bf16* x, const bf16* x_rest, int64_t stride, const bf16* w,
                                     const bf16* w_rest, int64_t inputs, float* sums) {
  constexpr int64_t kStepSize = kInputs / 2 * 2 * kTile * 2;    // bfloat16s of 32 lanes and 32 inputs
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t k = 0; k < inputs; k += kInputs, w += kStepSize) {
    load_rows(x + k, stride);
    load_weights(w);
    add_products();
    if (!x_rest) continue;
    // What the numbers themselves meet of the other's rest; of both rests nothing is left.
    load_rows(x_rest + k, stride);
    add_products();
    load_rows(x + k, stride);
    load_weights(w_rest + (k / kInputs) * kStepSize);
    add_products();
  }
  constexpr int64_t kBytes = 2 * kTile * sizeof(float);
  _tile_stored(0, sums, kBytes);
  _tile_stored(1, sums + kTile, kBytes);
  _tile_stored(2, sums + kTile * 2 * kTile, kBytes);
  _tile_stored(3, sums + kTile * 2 * kTile + kTile, kBytes);
}

#else

inline bool has_tiles() { return false; }
struct Tiles {
  Tiles() {}
};
inline void sums_of_tiles(const bf16*, const bf16*, int64_t, const bf16*, const bf16*, int64_t, float*) {}

#endif

}  // namespace modelfleet
