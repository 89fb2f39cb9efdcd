// Projections for x86 with AVX-512: y[M, N] = x[M, K] * w[N, K]^T, weights of 16, 8 or 4 bits.
//
// bfloat16 weights meet bfloat16 activations (vdpbf16ps, float32 sums). For quantized weights the
// activations are rounded to 8 bits in groups of 32 inputs of one row; products are then exact
// (vpdpbusd: unsigned weights, signed activations, 32-bit sums), sums over groups are float32.
// A row's result depends on nothing but the row: each sum is one chain over the inputs, in order,
// whatever else is in the batch.
//
// Layout, made by linear.py: outputs in pairs of blocks of 16 lanes, so that a pair is one stream.
//   16 bits: [N / 32][K / 2][32 lanes][2 inputs]
//   8 bits:  [N / 32][K / 4][32 lanes][4 inputs], a byte each, code + 128
//   4 bits:  [N / 32][K / 8][32 lanes][4 inputs], code + 8; the low halves are inputs 0-3 of each 8
//   scales: float32 [N / 16][G][16];  zeros: int32, likewise, of the unsigned codes, or null
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <utility>

namespace modelfleet {

using bf16 = uint16_t;

constexpr int kLanes = 16;
constexpr int kStep = 32;  // inputs of one row that share a scale of activations
constexpr int kPair = 2;   // blocks of lanes that are computed together: 32 outputs

constexpr int tile_of(int64_t bits) { return bits == 16 ? 8 : 6; }  // rows, by what fits in 32 registers

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

// The weights that come next are fetched while these are used, past the caches, in equal parts by
// the tiles that use these: so memory and processor work at the same time.
struct Part {
  int64_t index, count;
};

// What a projection reads: rows of `inputs` values, and the same rounded where weights want it.
struct Rows {
  bf16* values;
  int8_t* codes;    // [M, K]
  float* scales;    // [M, K / kStep]
  int32_t* sums;    // [M, K / kStep], of codes
  int64_t inputs;
  bf16* row(int64_t r) const { return values + r * inputs; }
};

inline __m512 load(const float* x) { return _mm512_loadu_ps(x); }
inline __m512 load(const bf16* x) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
inline __m512 load(const bf16* x, __mmask16 mask) {
  const __m256i half = _mm256_maskz_loadu_epi16(mask, x);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

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
inline void store(bf16* y, __m512 value, __mmask16 mask) { _mm256_mask_storeu_epi16(y, mask, to_bf16(value)); }
inline void store(float* y, __m512 value, __mmask16 mask) { _mm512_mask_storeu_ps(y, mask, value); }

inline __m512i spread(const void* four_bytes) {
  return _mm512_set1_epi32(*static_cast<const int32_t*>(four_bytes));
}

// Rounds inputs `from` to `to` of a row, both whole steps.
inline void round_inputs(const Rows& x, int64_t row, int64_t from, int64_t to) {
  const int64_t steps = x.inputs / kStep;
  for (int64_t s = from / kStep; s < to / kStep; ++s) {
    const bf16* values = x.row(row) + s * kStep;
    int8_t* codes = x.codes + row * x.inputs + s * kStep;
    const __m512 a = load(values), b = load(values + kLanes);
    const float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
    const __m512 inverse = _mm512_set1_ps(most > 0 ? 127.0f / most : 0.0f);
    const __m512i ca = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse));
    const __m512i cb = _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtsepi32_epi8(ca));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + kLanes), _mm512_cvtsepi32_epi8(cb));
    x.scales[row * steps + s] = most / 127.0f;
    x.sums[row * steps + s] = _mm512_reduce_add_epi32(_mm512_add_epi32(ca, cb));
  }
}

// The sums of R rows and 32 outputs. Bits 16: bfloat16. Sums are local, and so is what the loops
// read often: the compiler stores and loads what is behind a reference around each product.
template <int Bits, bool Grouped, int R>
inline void sums_of(const Linear& w, const Rows& x, int64_t row, int64_t pair, const uint8_t* next, Part part,
                    __m512 (&out)[R][kPair]) {
  constexpr int B = kPair;
  constexpr int64_t kBytes = 64;  // of a block of lanes, at a time
  const int64_t block = pair * B, inputs = w.inputs;
  const uint8_t* codes = w.pair(pair);
  const int64_t stride = B * kBytes / part.count;
  next += part.index * w.pair_bytes() / part.count;
  __m512 sums[R][B];
  for (int r = 0; r < R; ++r)
    for (int b = 0; b < B; ++b) sums[r][b] = _mm512_setzero_ps();

  if constexpr (Bits == 16) {
    const bf16* own = x.row(row);
    for (int64_t k = 0; k < inputs; k += 2, codes += B * kBytes, next += stride) {
      __m512i c[B];
      for (int b = 0; b < B; ++b) {
        c[b] = _mm512_loadu_si512(codes + b * kBytes);
        _mm_prefetch(next + b * stride / B, _MM_HINT_NTA);
      }
      for (int r = 0; r < R; ++r) {
        const __m512i two = spread(own + r * inputs + k);
        for (int b = 0; b < B; ++b) sums[r][b] = _mm512_dpbf16_ps(sums[r][b], (__m512bh)c[b], (__m512bh)two);
      }
    }
  } else {
    const int64_t group = w.group, groups = inputs / group, steps = inputs / kStep;
    const float *scales = w.scales, *own_scales = x.scales + row * steps;
    const int32_t *zeros = w.zeros, *own_sums = x.sums + row * steps;
    const int8_t* own = x.codes + row * inputs;
    const __m512i low = _mm512_set1_epi8(15);
    for (int64_t s = 0; s < steps; ++s, own += kStep) {
      const int64_t g = Grouped ? s * kStep / group : 0;
      __m512i dots[R][B];
      for (int b = 0; b < B; ++b) {
        const int64_t at = ((block + b) * groups + g) * kLanes;
        for (int r = 0; r < R; ++r) {
          const int32_t sum = -own_sums[r * steps + s];
          dots[r][b] = zeros ? _mm512_mullo_epi32(_mm512_loadu_si512(zeros + at), _mm512_set1_epi32(sum))
                             : _mm512_set1_epi32(sum * (1 << (Bits - 1)));
        }
      }
      for (int64_t k = 0; k < kStep; k += 32 / Bits, codes += B * kBytes, next += stride) {
        __m512i c[B];
        for (int b = 0; b < B; ++b) {
          c[b] = _mm512_loadu_si512(codes + b * kBytes);
          _mm_prefetch(next + b * stride / B, _MM_HINT_NTA);
        }
        for (int half = 0; half < 8 / Bits; ++half) {
          __m512i u[B];
          for (int b = 0; b < B; ++b)
            u[b] = Bits == 8 ? c[b] : _mm512_and_si512(half ? _mm512_srli_epi16(c[b], 4) : c[b], low);
          for (int r = 0; r < R; ++r) {
            const __m512i four = spread(own + r * inputs + k + 4 * half);
            for (int b = 0; b < B; ++b) dots[r][b] = _mm512_dpbusd_epi32(dots[r][b], u[b], four);
          }
        }
      }
      for (int b = 0; b < B; ++b) {
        const __m512 scale = Grouped ? load(scales + ((block + b) * groups + g) * kLanes) : _mm512_set1_ps(1);
        for (int r = 0; r < R; ++r) {
          const __m512 own_scale = _mm512_set1_ps(own_scales[r * steps + s]);
          const __m512 both = Grouped ? _mm512_mul_ps(scale, own_scale) : own_scale;
          sums[r][b] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r][b]), both, sums[r][b]);
        }
      }
    }
    if constexpr (!Grouped)
      for (int b = 0; b < B; ++b) {
        const __m512 scale = load(scales + (block + b) * kLanes);
        for (int r = 0; r < R; ++r) sums[r][b] = _mm512_mul_ps(sums[r][b], scale);
      }
  }
  for (int b = 0; b < B; ++b) {
    __m512 bias = _mm512_setzero_ps();
    if (w.bias) {
      const int64_t left = w.outputs - (block + b) * kLanes;
      bias = load(w.bias + (block + b) * kLanes, left >= kLanes ? 0xffff : left > 0 ? (1u << left) - 1 : 0);
    }
    for (int r = 0; r < R; ++r) out[r][b] = _mm512_add_ps(sums[r][b], bias);
  }
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
    case 4: f.template operator()<Bits, Grouped, 4>(row, part); break;
    case 5: f.template operator()<Bits, Grouped, 5>(row, part); break;
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

constexpr auto kUnread = [](int64_t, int64_t) {};  // outputs that are written, and not added to

// Calls out(row, first output, 16 sums, mask) for rows `from` to `to` and the outputs of a pair, and
// soon(row, first output) before it computes these; fetches as many bytes of `next`.
template <typename Soon, typename Out>
inline void project(const Linear& w, const Rows& x, int64_t from, int64_t to, int64_t pair, const uint8_t* next,
                    Soon&& soon, Out&& out) {
  in_tiles(w, from, to, [&]<int Bits, bool Grouped, int R>(int64_t row, Part part) {
    for (int r = 0; r < R; ++r)
      for (int b = 0; b < kPair; ++b) soon(row + r, (pair * kPair + b) * kLanes);
    __m512 sums[R][kPair];
    sums_of<Bits, Grouped, R>(w, x, row, pair, next, part, sums);
    for (int b = 0; b < kPair; ++b) {
      const int64_t n = (pair * kPair + b) * kLanes;
      if (n >= w.outputs) break;
      const __mmask16 mask = w.outputs - n >= kLanes ? 0xffff : (1u << (w.outputs - n)) - 1;
      for (int r = 0; r < R; ++r) out(row + r, n, sums[r][b], mask);
    }
  });
}

}  // namespace modelfleet
