// Functions of a network's gate, and the cap of scores and logits, on 16 lanes.
#pragma once
#include <cstdint>

#include "vectors.h"

namespace modelfleet {

// As in models/design.py.
enum Function : int64_t { kSilu, kGelu, kGeluTanh, kRelu };

inline Floats silu(const Floats& x) { return div(x, add(set(1), exponential(sub(set(0), x)))); }

// By the error function, with an absolute error of it below 2e-7 (Abramowitz and Stegun 7.1.26).
inline Floats gelu(const Floats& x) {
  const Floats size = abs(x), z = mul(size, set(0.70710678f));
  const Floats t = div(set(1), fma(z, set(0.3275911f), set(1)));
  Floats p = set(1.061405429f);
  for (const float c : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) p = fma(p, t, set(c));
  const Floats tail = mul(mul(p, t), exponential(sub(set(0), mul(z, z))));  // of both sides
  return fnma(mul(size, set(0.5f)), tail, max(x, set(0)));
}

// x * (1 + tanh(u)) / 2 is x / (1 + exp(-2 u)).
inline Floats gelu_tanh(const Floats& x) {
  const Floats twice = mul(x, fma(mul(x, x), set(0.0713548163f), set(1.59576912f)));
  return div(x, add(set(1), exponential(sub(set(0), max(twice, set(-87))))));
}

inline Floats activation(int64_t function, const Floats& x) {
  switch (function) {
    case kGelu: return gelu(x);
    case kGeluTanh: return gelu_tanh(x);
    case kRelu: return max(x, set(0));
    default: return silu(x);
  }
}

// cap * tanh(x / cap)
inline Floats capped(const Floats& x, float cap) {
  const Floats e = exponential(mul(x, set(2 / cap)));
  return fnma(div(set(2), add(set(1), e)), set(cap), set(cap));
}

}  // namespace modelfleet
