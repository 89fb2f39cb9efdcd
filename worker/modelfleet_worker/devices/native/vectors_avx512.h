// AVX-512 with VNNI, and BF16 where it is compiled for that. See vectors.h.
#pragma once
#include <immintrin.h>

namespace modelfleet {

using Floats = __m512;
using Ints = __m512i;
using Mask = __mmask16;
using FloatRegister = __m512;
using IntRegister = __m512i;
constexpr int kWidth = 16, kParts = 1;

inline void pause() { _mm_pause(); }

inline __m512& part(__m512& v, int) { return v; }
inline const __m512& part(const __m512& v, int) { return v; }

inline __m512 set(float x) { return _mm512_set1_ps(x); }
inline __m512 set_register(float x) { return _mm512_set1_ps(x); }
inline __m512i set_register(int32_t x) { return _mm512_set1_epi32(x); }

inline __m512 load(const float* x) { return _mm512_loadu_ps(x); }
inline __m512 load(const float* x, Mask mask) { return _mm512_maskz_loadu_ps(mask, x); }
inline __m512 load(const bf16* x) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
inline __m512 load(const bf16* x, Mask mask) {
  const __m256i half = _mm256_maskz_loadu_epi16(mask, x);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
inline __m512 load_register(const float* x) { return _mm512_loadu_ps(x); }
inline __m512i load_register(const int32_t* x) { return _mm512_loadu_si512(x); }

inline __m256i to_bf16(__m512 value) {  // to nearest even
  const __m512i bits = _mm512_castps_si512(value);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
  const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
  const __m512i sound = _mm512_mask_mov_epi32(_mm512_srli_epi32(up, 16), nan, _mm512_set1_epi32(0x7fc0));
  return _mm512_cvtepi32_epi16(sound);
}
inline void store(bf16* y, __m512 value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(y), to_bf16(value));
}
inline void store(bf16* y, __m512 value, Mask mask) { _mm256_mask_storeu_epi16(y, mask, to_bf16(value)); }
inline void store(float* y, __m512 value) { _mm512_storeu_ps(y, value); }
inline void store(float* y, __m512 value, Mask mask) { _mm512_mask_storeu_ps(y, mask, value); }

inline __m512 add(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
inline __m512 sub(__m512 a, __m512 b) { return _mm512_sub_ps(a, b); }
inline __m512 mul(__m512 a, __m512 b) { return _mm512_mul_ps(a, b); }
inline __m512 div(__m512 a, __m512 b) { return _mm512_div_ps(a, b); }
inline __m512 fma(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
inline __m512 fms(__m512 a, __m512 b, __m512 c) { return _mm512_fmsub_ps(a, b, c); }
inline __m512 fnma(__m512 a, __m512 b, __m512 c) { return _mm512_fnmadd_ps(a, b, c); }
inline __m512 max(__m512 a, __m512 b) { return _mm512_max_ps(a, b); }
inline __m512 abs(__m512 a) { return _mm512_abs_ps(a); }
inline __m512 nearest(__m512 a) { return _mm512_roundscale_ps(a, 0); }
inline __m512 mul_or(__m512 otherwise, Mask mask, __m512 a, __m512 b) {
  return _mm512_mask_mul_ps(otherwise, mask, a, b);
}
inline float sum(__m512 a) { return _mm512_reduce_add_ps(a); }
inline float most(__m512 a) { return _mm512_reduce_max_ps(a); }

// p * 2^n where x is not below the bound, else 0.
inline __m512 times_power(__m512 p, __m512 n, __m512 x, float bound) {
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(bound), _CMP_NLT_UQ), p, n);
}

inline __m512i to_ints(__m512 a) { return _mm512_cvtps_epi32(a); }
inline __m512 to_floats(__m512i a) { return _mm512_cvtepi32_ps(a); }
inline __m512i add(__m512i a, __m512i b) { return _mm512_add_epi32(a, b); }
inline __m512i mul(__m512i a, __m512i b) { return _mm512_mullo_epi32(a, b); }
inline int32_t sum(__m512i a) { return _mm512_reduce_add_epi32(a); }
inline void store_codes(int8_t* y, int16_t*, __m512i a) {  // the nearest that fits
  _mm_storeu_si128(reinterpret_cast<__m128i*>(y), _mm512_cvtsepi32_epi8(a));
}

inline __m512i spread_four(const void* bytes) { return _mm512_set1_epi32(*static_cast<const int32_t*>(bytes)); }

#if defined(__AVX512BF16__)
constexpr int kPhases = 1;
using Activation = bf16;
inline __m512i factor(const bf16* pairs, int) { return _mm512_loadu_si512(pairs); }
inline __m512i factor(const int8_t* pairs, int) {  // a byte is exact in bfloat16
  const __m512i wide = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs)));
  const __m512 first = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(wide, 16), 16));
  const __m512 second = _mm512_cvtepi32_ps(_mm512_srai_epi32(wide, 16));
  return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(_mm512_castps_si512(first), 16),
                                 _mm512_castps_si512(second));
}
inline __m512i spread(const bf16* two, int) { return spread_four(two); }
inline __m512 dot(__m512 sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
#else
constexpr int kPhases = 2;
using Activation = float;
inline __m512 factor(const bf16* pairs, int phase) {
  const __m512i both = _mm512_loadu_si512(pairs);
  return _mm512_castsi512_ps(phase ? _mm512_and_si512(both, _mm512_set1_epi32(0xffff0000)) : _mm512_slli_epi32(both, 16));
}
inline __m512 factor(const int8_t* pairs, int phase) {
  const __m512i wide = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs)));
  return _mm512_cvtepi32_ps(_mm512_srai_epi32(phase ? wide : _mm512_slli_epi32(wide, 16), 16));
}
inline __m512 spread(const float* two, int phase) { return _mm512_set1_ps(two[phase]); }
inline __m512 dot(__m512 sum, __m512 a, __m512 b) { return _mm512_fmadd_ps(a, b, sum); }
#endif

// Unsigned weights, signed activations, four of each to a lane.
constexpr bool kWideCodes = false;
template <int Bits>
struct Products {
  using Weights = IntRegister;
  static constexpr int kPhases = 1;
  static constexpr bool kFromZero = false;  // sums start with what corrects them
  static constexpr int kOffset = 0;         // what is taken from the weights' codes
  static __m512i weights(const uint8_t* codes, int half, int) {
    const __m512i c = _mm512_loadu_si512(codes);
    return Bits == 8 ? c : _mm512_and_si512(half ? _mm512_srli_epi16(c, 4) : c, _mm512_set1_epi8(15));
  }
  static __m512i activations(const int8_t* codes, const int16_t*, int) { return spread_four(codes); }
  static __m512i add(__m512i sum, __m512i weights, __m512i four) { return _mm512_dpbusd_epi32(sum, weights, four); }
  static __m512i whole(__m512i sum) { return sum; }
};

constexpr int tile_of(int64_t bits) { return bits == 16 ? 8 : 6; }  // rows, by what fits in 32 registers
constexpr int blocks_of(int64_t, int) { return 2; }                 // of lanes that a tile of rows computes together
constexpr int kQueries = 8;                                         // that attention computes together
constexpr bool is_narrow(int) { return false; }                     // whether so many queries take half of the lanes

}  // namespace modelfleet
