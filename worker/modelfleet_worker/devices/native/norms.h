// Norms of a row, by its root mean square.
#pragma once
#include <cmath>
#include <cstdint>

#include "vectors.h"

namespace modelfleet {

// A norm's weights, and what is added to them.
struct Norm {
  const bf16* weight;
  float offset, eps;
  bool centered;  // the mean is taken off
};

template <bool Centered, typename X, typename Out>
inline void each_normed(const X* x, const Norm& norm, int64_t size, Out&& out) {
  Floats center = set(0), squares = set(0);
  if constexpr (Centered) {
    for (int64_t i = 0; i < size; i += kLanes) center = add(center, load(x + i));
    center = set(sum(center) / static_cast<float>(size));
  }
  const auto at = [&](int64_t i) { return Centered ? sub(load(x + i), center) : load(x + i); };
  for (int64_t i = 0; i < size; i += kLanes) {
    const Floats v = at(i);
    squares = fma(v, v, squares);
  }
  const float mean = sum(squares) / static_cast<float>(size);
  const Floats factor = set(1.0f / std::sqrt(mean + norm.eps)), offset = set(norm.offset);
  for (int64_t i = 0; i < size; i += kLanes) out(i, mul(mul(at(i), factor), add(load(norm.weight + i), offset)));
}

// Calls out(i, 16 normed values) for all of a row.
template <typename X, typename Out>
inline void each_normed(const X* x, const Norm& norm, int64_t size, Out&& out) {
  norm.centered ? each_normed<true>(x, norm, size, out) : each_normed<false>(x, norm, size, out);
}

template <typename X, typename Y>
void normalize(const X* x, const Norm& norm, int64_t size, Y* y) {
  each_normed(x, norm, size, [&](int64_t i, const Floats& v) { store(y + i, v); });
}

}  // namespace modelfleet
