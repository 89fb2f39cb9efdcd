// The first half of a network: function(gate) * up.
#pragma once
#include <cstdint>

#include "projections.h"

namespace modelfleet {

// Weights of which as many are fetched as a pair of the gate and one of `up` have.
struct Next {
  const uint8_t *gate, *up;
};
inline Next pair_of(const Linear& gate_up, int64_t pair) {
  return {gate_up.pair(pair), gate_up.pair(gate_up.pairs() / 2 + pair)};
}
// Of what comes after the network's first half, from the first weights on.
inline Next after(const Linear& gate_up, const uint8_t* weights) { return {weights, weights + gate_up.pair_bytes()}; }

// For rows `from` to `to` and 32 outputs, which are a step of what comes after: rounded for it, if it
// wants that. The gate's outputs come first in the projection, then as many of `up`.
template <typename F>
inline void activate_pair(const Linear& gate_up, const Rows& rows, int64_t from, int64_t to, int64_t pair, Next next,
                          const Rows& activated, bool rounded, F&& function) {
  const int64_t pairs = gate_up.pairs() / 2;
  in_tiles(gate_up, from, to, [&]<int Bits, bool Grouped, int R>(int64_t row, Part part) {
    Floats gate[R][kPair], up[R][kPair];
    sums_of<Bits, Grouped, R>(gate_up, rows, row, pair, next.gate, part, gate);
    sums_of<Bits, Grouped, R>(gate_up, rows, row, pairs + pair, next.up, part, up);
    const int64_t n = pair * kPair * kLanes;
    for (int r = 0; r < R; ++r) {
      for (int b = 0; b < kPair; ++b)
        store(activated.row(row + r) + n + b * kLanes, mul(function(gate[r][b]), up[r][b]));
      if (rounded) round_inputs(activated, row + r, n, n + kStep);
    }
  });
}

}  // namespace modelfleet
