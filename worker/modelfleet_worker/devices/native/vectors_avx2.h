// AVX2 with FMA, and AVX-VNNI where it is compiled for that: two registers of 8 lanes. See vectors.h.
#pragma once
#include <immintrin.h>

namespace modelfleet {

using Mask = uint16_t;
using FloatRegister = __m256;
using IntRegister = __m256i;
constexpr int kWidth = 8, kParts = 2;

inline void pause() { _mm_pause(); }

inline __m256 set_register(float x) { return _mm256_set1_ps(x); }
inline __m256i set_register(int32_t x) { return _mm256_set1_epi32(x); }
inline __m256 load_register(const float* x) { return _mm256_loadu_ps(x); }
inline __m256i load_register(const int32_t* x) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)); }
inline __m256 load_register(const bf16* x) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
inline void store_register(float* y, __m256 value) { _mm256_storeu_ps(y, value); }
inline void store_register(bf16* y, __m256 value) {  // to nearest even
  const __m256i bits = _mm256_castps_si256(value);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
  const __m256i sound = _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), _mm256_set1_epi32(0x7fc0), nan);
  const __m128i low = _mm256_castsi256_si128(sound), high = _mm256_extracti128_si256(sound, 1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(y), _mm_packus_epi32(low, high));
}

inline __m256 add(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }
inline __m256 sub(__m256 a, __m256 b) { return _mm256_sub_ps(a, b); }
inline __m256 mul(__m256 a, __m256 b) { return _mm256_mul_ps(a, b); }
inline __m256 div(__m256 a, __m256 b) { return _mm256_div_ps(a, b); }
inline __m256 fma(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
inline __m256 fms(__m256 a, __m256 b, __m256 c) { return _mm256_fmsub_ps(a, b, c); }
inline __m256 fnma(__m256 a, __m256 b, __m256 c) { return _mm256_fnmadd_ps(a, b, c); }
inline __m256 max(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
inline __m256 abs(__m256 a) { return _mm256_and_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff))); }
inline __m256 nearest(__m256 a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline __m256 select(int mask, __m256 a, __m256 b) {  // a where a bit is set
  const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(mask), bits), bits);
  return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(set));
}

// In two steps: 2^n alone may be too large or too small where the product is neither.
inline __m256 times_power(__m256 p, __m256 n, __m256 x, float bound) {
  const __m256i whole = _mm256_cvtps_epi32(_mm256_min_ps(n, _mm256_set1_ps(256)));
  const __m256i half = _mm256_srai_epi32(whole, 1);
  const auto power = [](__m256i e) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e, _mm256_set1_epi32(127)), 23));
  };
  const __m256 scaled = _mm256_mul_ps(_mm256_mul_ps(p, power(half)), power(_mm256_sub_epi32(whole, half)));
  return _mm256_and_ps(scaled, _mm256_cmp_ps(x, _mm256_set1_ps(bound), _CMP_NLT_UQ));
}

inline __m256i to_ints(__m256 a) { return _mm256_cvtps_epi32(a); }
inline __m256 to_floats(__m256i a) { return _mm256_cvtepi32_ps(a); }
inline __m256i add(__m256i a, __m256i b) { return _mm256_add_epi32(a, b); }
inline __m256i mul(__m256i a, __m256i b) { return _mm256_mullo_epi32(a, b); }

// Pairs of bfloat16 meet float32: first the even ones, then the odd ones.
constexpr int kPhases = 2;
using Activation = float;
inline __m256 factor(const bf16* pairs, int phase) {
  const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs));
  return _mm256_castsi256_ps(phase ? _mm256_and_si256(both, _mm256_set1_epi32(0xffff0000)) : _mm256_slli_epi32(both, 16));
}
inline __m256 factor(const int8_t* pairs, int phase) {
  const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(pairs)));
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(phase ? wide : _mm256_slli_epi32(wide, 16), 16));
}
inline __m256 spread(const float* two, int phase) { return _mm256_broadcast_ss(two + phase); }
inline __m256 dot(__m256 sum, __m256 a, __m256 b) { return _mm256_fmadd_ps(a, b, sum); }

inline __m256i codes_at(const uint8_t* codes) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)); }
inline __m256i nibbles_at(const uint8_t* codes, int half) {
  const __m256i c = codes_at(codes);
  return _mm256_and_si256(half ? _mm256_srli_epi16(c, 4) : c, _mm256_set1_epi8(15));
}
inline __m256i spread_four(const void* bytes) { return _mm256_set1_epi32(*static_cast<const int32_t*>(bytes)); }

#if defined(__AVXVNNI__)
constexpr bool kWideCodes = false;
template <int Bits>
struct Products {  // unsigned weights, signed activations, four of each to a lane
  using Weights = IntRegister;
  static constexpr int kPhases = 1;
  static constexpr bool kFromZero = false;  // sums start with what corrects them
  static constexpr int kOffset = 0;         // what is taken from the weights' codes
  static __m256i weights(const uint8_t* codes, int half, int) {
    return Bits == 8 ? codes_at(codes) : nibbles_at(codes, half);
  }
  static __m256i activations(const int8_t* codes, const int16_t*, int) { return spread_four(codes); }
  static __m256i add(__m256i sum, __m256i weights, __m256i four) {
    return _mm256_dpbusd_avx_epi32(sum, weights, four);
  }
  static __m256i whole(__m256i sum) { return sum; }
};
#else
// vpmaddubsw multiplies bytes, but its 16 bits do not hold the sum of two such products. So codes
// of 8 bits are widened, inputs 0 and 2 of four and then 1 and 3, and activations lie in this order.
constexpr bool kWideCodes = true;
// GCC would add up products before it adds them to the sums, and run out of registers.
inline __m256i in_order(__m256i sum) {
  __asm__("" : "+x"(sum));
  return sum;
}
template <int Bits>
struct Products {
  using Weights = IntRegister;
  static constexpr int kPhases = 2;
  static constexpr bool kFromZero = false;
  static constexpr int kOffset = 0;
  static __m256i weights(const uint8_t* codes, int, int phase) {
    const __m256i c = codes_at(codes);
    return phase ? _mm256_srli_epi16(c, 8) : _mm256_and_si256(c, _mm256_set1_epi16(255));
  }
  static __m256i activations(const int8_t*, const int16_t* codes, int phase) { return spread_four(codes + 2 * phase); }
  static __m256i add(__m256i sum, __m256i weights, __m256i two) {
    return in_order(_mm256_add_epi32(sum, _mm256_madd_epi16(weights, two)));
  }
  static __m256i whole(__m256i sum) { return sum; }
};
// Of 4 bits, 16 bits hold the sum over a whole step: 16 products of at most 15 * 127.
template <>
struct Products<4> {
  using Weights = IntRegister;
  static constexpr int kPhases = 1;
  static constexpr bool kFromZero = true;
  static constexpr int kOffset = 0;
  static __m256i weights(const uint8_t* codes, int half, int) { return nibbles_at(codes, half); }
  static __m256i activations(const int8_t* codes, const int16_t*, int) { return spread_four(codes); }
  static __m256i add(__m256i sum, __m256i weights, __m256i four) {
    return in_order(_mm256_add_epi16(sum, _mm256_maddubs_epi16(weights, four)));
  }
  static __m256i whole(__m256i sum) { return _mm256_madd_epi16(sum, _mm256_set1_epi16(1)); }
};
#endif

// Rows, by what fits in 16 registers: 12 sums, two weights of each of (widened: two of) them.
constexpr int tile_of(int64_t bits) { return kWideCodes && bits == 8 ? 4 : 6; }
constexpr int blocks_of(int64_t bits, int rows) { return rows <= tile_of(bits) / 2 ? 2 : 1; }
constexpr int kQueries = 6;
constexpr bool is_narrow(int queries) { return queries > 3; }

}  // namespace modelfleet

#include "vectors_parts.h"

namespace modelfleet {

// By the tree of GCC's _mm512_reduce_add_ps.
inline float sum(const Floats& a) {
  const __m256 eight = _mm256_add_ps(a.part[1], a.part[0]);
  const __m128 four = _mm_add_ps(_mm256_extractf128_ps(eight, 1), _mm256_castps256_ps128(eight));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline float most(const Floats& a) {
  const __m256 eight = _mm256_max_ps(a.part[1], a.part[0]);
  const __m128 four = _mm_max_ps(_mm256_extractf128_ps(eight, 1), _mm256_castps256_ps128(eight));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline int32_t sum(const Ints& a) {
  const __m256i eight = _mm256_add_epi32(a.part[1], a.part[0]);
  const __m128i four = _mm_add_epi32(_mm256_extracti128_si256(eight, 1), _mm256_castsi256_si128(eight));
  const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
}

inline void store_codes(int8_t* y, int16_t* wide, const Ints& a) {  // the nearest that fits
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.part[0], a.part[1]), 0xd8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(y), bytes);
  if (!kWideCodes || !wide) return;
  const __m256i ordered = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(_mm256_cvtepi8_epi16(bytes), 0xd8), 0xd8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(wide), ordered);
}

}  // namespace modelfleet
