// ARM's NEON with dot products, and I8MM where it is compiled for that: four registers of 4 lanes.
// See vectors.h.
//
// bfloat16 is multiplied as float32, also where there is BFDOT: so ARM gives the bits that AVX2 gives.
#pragma once
#include <arm_neon.h>

namespace modelfleet {

using Mask = uint16_t;
using FloatRegister = float32x4_t;
using IntRegister = int32x4_t;
constexpr int kWidth = 4, kParts = 4;

inline void pause() { __asm__ volatile("yield"); }

inline float32x4_t set_register(float x) { return vdupq_n_f32(x); }
inline int32x4_t set_register(int32_t x) { return vdupq_n_s32(x); }
inline float32x4_t load_register(const float* x) { return vld1q_f32(x); }
inline int32x4_t load_register(const int32_t* x) { return vld1q_s32(x); }
inline float32x4_t load_register(const bf16* x) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(x), 16)); }
inline void store_register(float* y, float32x4_t value) { vst1q_f32(y, value); }
inline void store_register(bf16* y, float32x4_t value) {  // to nearest even
  const uint32x4_t bits = vreinterpretq_u32_f32(value);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t up = vaddq_u32(vaddq_u32(bits, odd), vdupq_n_u32(0x7fff));
  const uint32x4_t sound = vbslq_u32(vceqq_f32(value, value), vshrq_n_u32(up, 16), vdupq_n_u32(0x7fc0));
  vst1_u16(y, vmovn_u32(sound));
}

inline float32x4_t add(float32x4_t a, float32x4_t b) { return vaddq_f32(a, b); }
inline float32x4_t sub(float32x4_t a, float32x4_t b) { return vsubq_f32(a, b); }
inline float32x4_t mul(float32x4_t a, float32x4_t b) { return vmulq_f32(a, b); }
inline float32x4_t div(float32x4_t a, float32x4_t b) { return vdivq_f32(a, b); }
inline float32x4_t fma(float32x4_t a, float32x4_t b, float32x4_t c) { return vfmaq_f32(c, a, b); }
inline float32x4_t fms(float32x4_t a, float32x4_t b, float32x4_t c) { return vfmaq_f32(vnegq_f32(c), a, b); }
inline float32x4_t fnma(float32x4_t a, float32x4_t b, float32x4_t c) { return vfmsq_f32(c, a, b); }
// As on x86: the second one if either is not a number.
inline float32x4_t max(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline float32x4_t abs(float32x4_t a) { return vabsq_f32(a); }
inline float32x4_t nearest(float32x4_t a) { return vrndnq_f32(a); }
inline float32x4_t select(int mask, float32x4_t a, float32x4_t b) {  // a where a bit is set
  const uint32x4_t bits = {1, 2, 4, 8};
  return vbslq_f32(vtstq_u32(vdupq_n_u32(static_cast<uint32_t>(mask)), bits), a, b);
}

// In two steps: 2^n alone may be too large or too small where the product is neither.
inline float32x4_t times_power(float32x4_t p, float32x4_t n, float32x4_t x, float bound) {
  const float32x4_t most = vdupq_n_f32(256);
  const int32x4_t whole = vcvtnq_s32_f32(vbslq_f32(vcltq_f32(n, most), n, most));
  const int32x4_t half = vshrq_n_s32(whole, 1);
  const auto power = [](int32x4_t e) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(e, vdupq_n_s32(127)), 23));
  };
  const float32x4_t scaled = vmulq_f32(vmulq_f32(p, power(half)), power(vsubq_s32(whole, half)));
  const uint32x4_t below = vcltq_f32(x, vdupq_n_f32(bound));
  return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(scaled), below));
}

inline int32x4_t to_ints(float32x4_t a) { return vcvtnq_s32_f32(a); }
inline float32x4_t to_floats(int32x4_t a) { return vcvtq_f32_s32(a); }
inline int32x4_t add(int32x4_t a, int32x4_t b) { return vaddq_s32(a, b); }
inline int32x4_t mul(int32x4_t a, int32x4_t b) { return vmulq_s32(a, b); }

// Pairs of bfloat16 meet float32: first the even ones, then the odd ones.
constexpr int kPhases = 2;
using Activation = float;
inline float32x4_t factor(const bf16* pairs, int phase) {
  const uint32x4_t both = vreinterpretq_u32_u16(vld1q_u16(pairs));
  return vreinterpretq_f32_u32(phase ? vandq_u32(both, vdupq_n_u32(0xffff0000)) : vshlq_n_u32(both, 16));
}
inline float32x4_t factor(const int8_t* pairs, int phase) {
  const int32x4_t wide = vreinterpretq_s32_s16(vmovl_s8(vld1_s8(pairs)));
  return vcvtq_f32_s32(vshrq_n_s32(phase ? wide : vshlq_n_s32(wide, 16), 16));
}
inline float32x4_t spread(const float* two, int phase) { return vdupq_n_f32(two[phase]); }
inline float32x4_t dot(float32x4_t sum, float32x4_t a, float32x4_t b) { return vfmaq_f32(sum, a, b); }

// Four weights and four activations to a lane. SDOT takes signed weights: of 8 bits 128 is taken from
// their codes; of 4 bits none is above 15. USDOT (I8MM) takes unsigned ones.
constexpr bool kWideCodes = false;
template <int Bits>
struct Products {
#if defined(__ARM_FEATURE_MATMUL_INT8)
  static constexpr bool kSigned = false;
#else
  static constexpr bool kSigned = Bits == 8;
#endif
  using Weights = uint8x16_t;
  static constexpr int kPhases = 1;
  static constexpr bool kFromZero = false;  // sums start with what corrects them
  static constexpr int kOffset = kSigned ? 128 : 0;
  static uint8x16_t weights(const uint8_t* codes, int half, int) {
    const uint8x16_t c = vld1q_u8(codes);
    if constexpr (Bits == 8) return kSigned ? veorq_u8(c, vdupq_n_u8(128)) : c;
    return half ? vshrq_n_u8(c, 4) : vandq_u8(c, vdupq_n_u8(15));
  }
  static int8x16_t activations(const int8_t* codes, const int16_t*, int) {
    return vreinterpretq_s8_s32(vdupq_n_s32(*reinterpret_cast<const int32_t*>(codes)));
  }
  static int32x4_t add(int32x4_t sum, uint8x16_t weights, int8x16_t four) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
    return vusdotq_s32(sum, weights, four);
#else
    return vdotq_s32(sum, vreinterpretq_s8_u8(weights), four);
#endif
  }
  static int32x4_t whole(int32x4_t sum) { return sum; }
};

// Rows, by what fits in 32 registers: 24 sums, and weights for them.
constexpr int tile_of(int64_t) { return 6; }
constexpr int blocks_of(int64_t, int rows) { return rows <= 3 ? 2 : 1; }
constexpr int kQueries = 6;
constexpr bool is_narrow(int queries) { return queries > 3; }

}  // namespace modelfleet

#include "vectors_parts.h"

namespace modelfleet {

// By the tree of GCC's _mm512_reduce_add_ps.
inline float sum(const Floats& a) {
  const float32x4_t four = add(add(a.part[3], a.part[1]), add(a.part[2], a.part[0]));
  const float32x4_t two = add(four, vextq_f32(four, four, 2));
  return vgetq_lane_f32(two, 0) + vgetq_lane_f32(two, 1);
}
inline float most(const Floats& a) {
  const float32x4_t four = max(max(a.part[3], a.part[1]), max(a.part[2], a.part[0]));
  const float32x4_t two = max(four, vextq_f32(four, four, 2));
  const float first = vgetq_lane_f32(two, 0), second = vgetq_lane_f32(two, 1);
  return first > second ? first : second;
}
inline int32_t sum(const Ints& a) {
  return vaddvq_s32(add(add(a.part[0], a.part[1]), add(a.part[2], a.part[3])));
}

inline void store_codes(int8_t* y, int16_t*, const Ints& a) {  // the nearest that fits
  const int16x8_t low = vcombine_s16(vqmovn_s32(a.part[0]), vqmovn_s32(a.part[1]));
  const int16x8_t high = vcombine_s16(vqmovn_s32(a.part[2]), vqmovn_s32(a.part[3]));
  vst1q_s8(y, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
}

}  // namespace modelfleet
