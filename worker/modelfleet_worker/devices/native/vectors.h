// The vector operations that the step is written in, of the set that this file is compiled for.
//
// All of them compute with 16 lanes, in one order of sums, and reduce them by one tree (`sum`). So
// sets that multiply bfloat16 as float32 ("fma") give equal bits; those that have an instruction for
// pairs of bfloat16 ("bf16-dot") round in another way. Products of 8 and 4 bits are exact on all.
//
// Two sizes of vectors:
//   Floats, Ints: 16 lanes, whatever a register holds, for what is computed once a value
//   FloatRegister, IntRegister: kWidth lanes, for loops in which registers are counted;
//   kParts of them are 16 lanes, and part(v, p) is one of these
//
// What projections and attention multiply:
//   Activation: bf16 with bf16-dot, float with fma (not rounded: nothing is won by it)
//   factor(pairs, phase): of pairs of weights, keys or values; both of a pair, or one in each phase
//   spread(x, phase): x[0] and x[1], likewise, in all lanes
//   dot(sum, factor, spread): sum + their products
//   Products<Bits>: the same for codes of 8 and 4 bits, with sums of whole numbers
#pragma once

#include <cstdint>

namespace modelfleet {

using bf16 = uint16_t;

constexpr int kLanes = 16;
constexpr int kLine = 64;  // bytes of codes for 16 lanes, and of a line of the cache

// Of a loop over registers: they have no index.
#define UNROLLED _Pragma("GCC unroll 16")

inline void fetch(const void* line) { __builtin_prefetch(line, 0, 3); }

// What is read once, a pair of blocks later. Intel's processors put it past their caches into the first
// one only, which is too small for it: there into the second one. On AMD's what they were tuned with.
#if defined(__x86_64__)
inline bool goes_past_caches() {
  static const bool is_amd = __builtin_cpu_is("amd");
  return is_amd;
}
#else
inline bool goes_past_caches() { return true; }
#endif
inline void fetch_once(const void* line, bool past_caches) {
  past_caches ? __builtin_prefetch(line, 0, 0) : __builtin_prefetch(line, 0, 2);
}

}  // namespace modelfleet

#if defined(__AVX512VNNI__)
#include "vectors_avx512.h"
#elif defined(__AVX2__)
#include "vectors_avx2.h"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "vectors_neon.h"
#else
#error "no set of instructions that the step is written for: see library.py"
#endif

namespace modelfleet {

using Factor = decltype(factor(static_cast<const bf16*>(nullptr), 0));

inline Mask first_lanes(int64_t count) { return count >= kLanes ? 0xffff : count > 0 ? (1u << count) - 1 : 0; }

inline Floats exponential(Floats x) {  // relative error below 2e-7 (Cephes' expf)
  const Floats n = nearest(mul(x, set(1.44269504f)));
  Floats r = fnma(n, set(0.693359375f), x);
  r = fnma(n, set(-2.12194440e-4f), r);
  Floats p = set(1.9875691500e-4f);
  for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = fma(p, r, set(c));
  p = fma(p, mul(r, r), add(r, set(1)));
  // Exactly 0 for what is masked out (-inf); not a number stays so.
  return times_power(p, n, x, -103);
}

}  // namespace modelfleet
