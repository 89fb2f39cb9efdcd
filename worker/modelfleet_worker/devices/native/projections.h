// Projections: y[M, N] = x[M, K] * w[N, K]^T, weights of 16, 8 or 4 bits.
//
// bfloat16 weights meet activations as vectors.h says, with float32 sums. For quantized weights the
// activations are rounded to 8 bits in groups of 32 inputs of one row; products are then exact
// (unsigned weights, signed activations, 32-bit sums), sums over groups are float32.
// A row's result depends on nothing but the row: each sum is one chain over the inputs, in order,
// whatever else is in the batch.
//
// Layout, made by linear.py: outputs in pairs of blocks of 16 lanes, so that a pair is one stream.
//   16 bits: [N / 32][K / 2][32 lanes][2 inputs]
//   8 bits:  [N / 32][K / 4][32 lanes][4 inputs], a byte each, code + 128
//   4 bits:  [N / 32][K / 8][32 lanes][4 inputs], code + 8; the low halves are inputs 0-3 of each 8
//   scales: float32 [N / 16][G][16];  zeros: int32, likewise, of the unsigned codes, or null
#pragma once
#include <algorithm>
#include <cstdint>
#include <utility>

#include "vectors.h"

namespace modelfleet {

constexpr int kStep = 32;  // inputs of one row that share a scale of activations
constexpr int kPair = 2;   // blocks of lanes that lie together: 32 outputs
constexpr int kChunk = 128;  // rows, about, that stay in a core's cache while weights pass by

struct Linear {
  const void* codes;
  const float* scales;
  const int32_t* zeros;
  const bf16* bias;  // or null
  int64_t bits, group, outputs, inputs;  // group == inputs: one scale an output
  int64_t pairs() const { return (outputs + kPair * kLanes - 1) / (kPair * kLanes); }
  int64_t pair_bytes() const { return inputs * kPair * kLanes * bits / 8; }
  const uint8_t* pair(int64_t index) const { return static_cast<const uint8_t*>(codes) + index * pair_bytes(); }
};

// The weights that come next are fetched while these are used, in equal parts by the tiles that use
// these: so memory and processor work at the same time.
struct Part {
  int64_t index, count;
};

// Fetches a tile's part of a pair. Where one or two tiles fetch all of it, they do so from several
// places in turn: the processor goes on by itself where it sees a sequence, but only to the end of
// the page, and not far.
class Fetching {
 public:
  Fetching(const uint8_t* pair, int64_t bytes, Part part)
      : next_(pair + part.index * bytes / part.count), end_(pair + bytes), step_(kPair * kLine / part.count),
        past_caches_(goes_past_caches()) {
    if (part.count > 2) return;
    end_ = next_ + bytes / 2;
    step_ = bytes / 4;
    back_ = bytes / 2 - kLine;
    if (part.count == 1) other_ = bytes / 2;
  }
  // As much as two lines of the weights in use.
  void operator()() {
    fetch_once(next_, past_caches_);
    fetch_once(next_ + other_, past_caches_);
    next_ += step_;
    if (next_ >= end_) next_ -= back_;
  }

 private:
  const uint8_t *next_, *end_;
  int64_t step_, back_ = 0, other_ = 0;
  bool past_caches_;
};

// What a projection reads: rows of `inputs` values, and the same rounded where weights want it.
struct Rows {
  Activation* values;
  int8_t* codes;        // [M, K]
  int16_t* wide_codes;  // [M, K], of each four inputs 0, 2, 1, 3; null where Products take none
  float* scales;        // [M, K / kStep]
  int32_t* sums;        // [M, K / kStep], of codes
  int64_t inputs;
  Activation* row(int64_t r) const { return values + r * inputs; }
};

// Rounds inputs `from` to `to` of a row, both whole steps.
inline void round_inputs(const Rows& x, int64_t row, int64_t from, int64_t to) {
  const int64_t steps = x.inputs / kStep;
  for (int64_t s = from / kStep; s < to / kStep; ++s) {
    const Activation* values = x.row(row) + s * kStep;
    const int64_t at = row * x.inputs + s * kStep;
    const Floats a = load(values), b = load(values + kLanes);
    const float highest = most(max(abs(a), abs(b)));
    const Floats inverse = set(highest > 0 ? 127.0f / highest : 0.0f);
    const Ints ca = to_ints(mul(a, inverse)), cb = to_ints(mul(b, inverse));
    int16_t* const wide = kWideCodes ? x.wide_codes + at : nullptr;
    store_codes(x.codes + at, wide, ca);
    store_codes(x.codes + at + kLanes, kWideCodes ? wide + kLanes : nullptr, cb);
    x.scales[row * steps + s] = highest / 127.0f;
    x.sums[row * steps + s] = sum(add(ca, cb));
  }
}

// The sums of R rows and B blocks of lanes, from the block `first` of a pair on. Bits 16: bfloat16.
// Sums are local, and so is what the loops read often: the compiler stores and loads what is behind
// a reference around each product. Not inline: once in the library, not once for each caller.
template <int Bits, bool Grouped, int R, int B>
[[gnu::noinline]] void sums_of(const Linear& w, const Rows& x, int64_t row, int64_t pair, int first, const uint8_t* next,
                    Part part, Floats (&out)[R][kPair]) {
  constexpr int N = B * kParts;               // registers
  constexpr int64_t kBytes = kLine / kParts;  // of codes for one
  const int64_t block = pair * kPair + first, inputs = w.inputs;
  const uint8_t* codes = w.pair(pair) + first * kLine;
  Fetching fetch_next(next, w.pair_bytes(), part);
  FloatRegister sums[R][N];
  UNROLLED for (int r = 0; r < R; ++r)
    UNROLLED for (int j = 0; j < N; ++j) sums[r][j] = set_register(0.0f);

  if constexpr (Bits == 16) {
    const Activation* own = x.row(row);
    for (int64_t k = 0; k < inputs; k += 2, codes += kPair * kLine) {
      fetch_next();
      const auto weights = reinterpret_cast<const bf16*>(codes);
      UNROLLED for (int phase = 0; phase < kPhases; ++phase)
        if constexpr (R < N) {  // the fewer ones stay in registers
          Factor two[R];
          UNROLLED for (int r = 0; r < R; ++r) two[r] = spread(own + r * inputs + k, phase);
          UNROLLED for (int j = 0; j < N; ++j) {
            const Factor c = factor(weights + j * 2 * kWidth, phase);
            UNROLLED for (int r = 0; r < R; ++r) sums[r][j] = dot(sums[r][j], c, two[r]);
          }
        } else {
          Factor c[N];
          UNROLLED for (int j = 0; j < N; ++j) c[j] = factor(weights + j * 2 * kWidth, phase);
          UNROLLED for (int r = 0; r < R; ++r) {
            const Factor two = spread(own + r * inputs + k, phase);
            UNROLLED for (int j = 0; j < N; ++j) sums[r][j] = dot(sums[r][j], c[j], two);
          }
        }
    }
  } else {
    using P = Products<Bits>;
    const int64_t group = w.group, groups = inputs / group, steps = inputs / kStep;
    const float *scales = w.scales, *own_scales = x.scales + row * steps;
    const int32_t *zeros = w.zeros, *own_sums = x.sums + row * steps;
    const int8_t* own = x.codes + row * inputs;
    const int16_t* wide = kWideCodes ? x.wide_codes + row * inputs : nullptr;
    for (int64_t s = 0; s < steps; ++s, own += kStep, wide += kWideCodes ? kStep : 0) {
      const int64_t g = Grouped ? s * kStep / group : 0;
      const auto at = [&](int j) { return ((block + j / kParts) * groups + g) * kLanes + j % kParts * kWidth; };
      const auto correction = [&](int r, int j) {
        const int32_t total = -own_sums[r * steps + s];
        if (!zeros) return set_register(total * ((1 << (Bits - 1)) - P::kOffset));
        const IntRegister zero = load_register(zeros + at(j));
        return mul(P::kOffset ? add(zero, set_register(-P::kOffset)) : zero, set_register(total));
      };
      IntRegister dots[R][N];
      UNROLLED for (int j = 0; j < N; ++j)
        UNROLLED for (int r = 0; r < R; ++r) dots[r][j] = P::kFromZero ? set_register(int32_t{0}) : correction(r, j);
      for (int64_t k = 0; k < kStep; k += 32 / Bits, codes += kPair * kLine) {
        fetch_next();
        UNROLLED for (int half = 0; half < 8 / Bits; ++half)
          UNROLLED for (int phase = 0; phase < P::kPhases; ++phase) {
            typename P::Weights u[N];
            UNROLLED for (int j = 0; j < N; ++j) u[j] = P::weights(codes + j * kBytes, half, phase);
            UNROLLED for (int r = 0; r < R; ++r) {
              const int64_t from = r * inputs + k + 4 * half;
              const auto four = P::activations(own + from, kWideCodes ? wide + from : nullptr, phase);
              UNROLLED for (int j = 0; j < N; ++j) dots[r][j] = P::add(dots[r][j], u[j], four);
            }
          }
      }
      UNROLLED for (int j = 0; j < N; ++j) {
        const FloatRegister scale = Grouped ? load_register(scales + at(j)) : set_register(1.0f);
        UNROLLED for (int r = 0; r < R; ++r) {
          const FloatRegister own_scale = set_register(own_scales[r * steps + s]);
          const FloatRegister both = Grouped ? mul(scale, own_scale) : own_scale;
          IntRegister whole = P::whole(dots[r][j]);
          if constexpr (P::kFromZero) whole = add(whole, correction(r, j));
          sums[r][j] = fma(to_floats(whole), both, sums[r][j]);
        }
      }
    }
    if constexpr (!Grouped)
      UNROLLED for (int j = 0; j < N; ++j) {
        const FloatRegister scale = load_register(scales + block * kLanes + j * kWidth);
        UNROLLED for (int r = 0; r < R; ++r) sums[r][j] = mul(sums[r][j], scale);
      }
  }
  Floats bias[B];
  for (int b = 0; b < B; ++b)
    bias[b] = w.bias ? load(w.bias + (block + b) * kLanes, first_lanes(w.outputs - (block + b) * kLanes)) : set(0);
  UNROLLED for (int r = 0; r < R; ++r)
    UNROLLED for (int j = 0; j < N; ++j) {
      const int b = j / kParts, p = j % kParts;
      modelfleet::part(out[r][first + b], p) = add(sums[r][j], modelfleet::part(bias[b], p));
    }
}

// The sums of R rows and the 32 outputs of a pair, of as many blocks at once as registers hold.
template <int Bits, bool Grouped, int R>
inline void sums_of(const Linear& w, const Rows& x, int64_t row, int64_t pair, const uint8_t* next, Part part,
                    Floats (&out)[R][kPair]) {
  constexpr int B = blocks_of(Bits, R);
  constexpr int kTimes = kPair / B;
  for (int i = 0; i < kTimes; ++i)
    sums_of<Bits, Grouped, R, B>(w, x, row, pair, i * B, next, {part.index * kTimes + i, part.count * kTimes}, out);
}

// Calls f<Bits, Grouped, R>(row, part) for tiles of R rows that together are `from` to `to`.
template <int Bits, bool Grouped, typename F>
inline void in_tiles(int64_t from, int64_t to, F&& f) {
  constexpr int kMost = tile_of(Bits);
  int64_t row = from;
  Part part{0, (to - from + kMost - 1) / kMost};
  for (; row + kMost <= to; row += kMost, ++part.index) f.template operator()<Bits, Grouped, kMost>(row, part);
  switch (to - row) {
    case 1: f.template operator()<Bits, Grouped, 1>(row, part); break;
    case 2: f.template operator()<Bits, Grouped, 2>(row, part); break;
    case 3: f.template operator()<Bits, Grouped, 3>(row, part); break;
    case 4: if constexpr (kMost > 4) f.template operator()<Bits, Grouped, 4>(row, part); break;
    case 5: if constexpr (kMost > 4) f.template operator()<Bits, Grouped, 5>(row, part); break;
    case 6: if constexpr (kMost > 6) f.template operator()<Bits, Grouped, 6>(row, part); break;
    case 7: if constexpr (kMost > 6) f.template operator()<Bits, Grouped, 7>(row, part); break;
  }
}

template <typename F>
inline void in_tiles(const Linear& w, int64_t from, int64_t to, F&& f) {
  const bool grouped = w.group != w.inputs;
  switch (w.bits) {
    case 16: return in_tiles<16, false>(from, to, std::forward<F>(f));
    case 8: return grouped ? in_tiles<8, true>(from, to, std::forward<F>(f))
                           : in_tiles<8, false>(from, to, std::forward<F>(f));
    case 4: return grouped ? in_tiles<4, true>(from, to, std::forward<F>(f))
                           : in_tiles<4, false>(from, to, std::forward<F>(f));
  }
}

// Equal parts of rows, in whole tiles: a last part of few rows would still read all weights.
template <typename F>
inline void each_chunk(int64_t count, int64_t tile, F&& f) {
  const int64_t chunks = std::max<int64_t>(1, (count + kChunk / 2) / kChunk), tiles = (count + tile - 1) / tile;
  for (int64_t i = 0; i < chunks; ++i) f(tiles * i / chunks * tile, std::min(tiles * (i + 1) / chunks * tile, count));
}

constexpr auto kUnread = [](int64_t, int64_t) {};  // outputs that are written, and not added to

// Calls out(row, first output, 16 sums, mask) for rows `from` to `to` and the outputs of a pair, and
// soon(row, first output) before it computes these; fetches as many bytes of `next`.
template <typename Soon, typename Out>
inline void project(const Linear& w, const Rows& x, int64_t from, int64_t to, int64_t pair, const uint8_t* next,
                    Soon&& soon, Out&& out) {
  in_tiles(w, from, to, [&]<int Bits, bool Grouped, int R>(int64_t row, Part part) {
    for (int r = 0; r < R; ++r)
      for (int b = 0; b < kPair; ++b) soon(row + r, (pair * kPair + b) * kLanes);
    Floats sums[R][kPair];
    sums_of<Bits, Grouped, R>(w, x, row, pair, next, part, sums);
    for (int b = 0; b < kPair; ++b) {
      const int64_t n = (pair * kPair + b) * kLanes;
      if (n >= w.outputs) break;
      const Mask mask = first_lanes(w.outputs - n);
      for (int r = 0; r < R; ++r) out(row + r, n, sums[r][b], mask);
    }
  });
}

}  // namespace modelfleet
