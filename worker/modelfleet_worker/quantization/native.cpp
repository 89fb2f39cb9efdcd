// Quantized projections for x86 with AVX-512 VNNI: y[M, N] = x[M, K] * w[N, K]^T.
//
// Weights are 4 or 8 bits, activations are rounded to 8 bits in groups of 32 inputs of one row,
// whatever else is in the batch: a row's result depends on nothing but the row. Products are exact
// (vpdpbusd: unsigned weights, signed activations, 32-bit sums), sums over groups are float32.
//
// Layout, made by native.py: outputs in blocks of 16 lanes, N padded to whole fours of blocks.
//   8 bits: [N / 16][K / 4][16 lanes][4 inputs], a byte each, code + 128
//   4 bits: [N / 16][K / 8][16 lanes][4 inputs], code + 8; the low halves are inputs 0-3 of each 8
//   scales: float32 [N / 16][G][16];  zeros: int32, likewise, of the unsigned codes, or null
//
// No OpenMP library is linked: the symbols are torch's own, so that both share one pool of threads.
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

constexpr int kLanes = 16;
constexpr int kStep = 32;   // inputs of one row that share a scale of activations
constexpr int kBlocks = 4;  // of lanes that a thread takes at a time: all of them for one row...
constexpr int kPair = 2;    // ...else pairs, for more rows at once
constexpr int kRows = 6;    // that a tile computes at most: 12 integer and 12 float sums in registers

struct Weight {
  const uint8_t* codes;
  const float* scales;
  const int32_t* zeros;
  int64_t outputs, inputs, group;  // group == inputs: one scale an output
};

struct Rounded {  // activations
  const int8_t* codes;   // [M, K]
  const float* scales;   // [M, K / kStep]
  const int32_t* sums;   // [M, K / kStep], of codes
  int64_t steps;
};

inline __m512 load(const float* x) { return _mm512_loadu_ps(x); }
inline __m512 load(const uint16_t* x) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

inline void store(float* y, __m512 value, __mmask16 mask) { _mm512_mask_storeu_ps(y, mask, value); }
inline void store(uint16_t* y, __m512 value, __mmask16 mask) {  // bfloat16, to nearest even
  const __m512i bits = _mm512_castps_si512(value);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
  const __m512i half = _mm512_srli_epi32(up, 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
  const __m512i sound = _mm512_mask_mov_epi32(half, nan, _mm512_set1_epi32(0x7fc0));
  _mm512_mask_cvtepi32_storeu_epi16(y, mask, sound);
}

// dot += four products a lane. Not the intrinsic: gcc 12 copies each sum before and after it.
inline void add_products(__m512i& dot, __m512i weights, __m512i activations) {
  asm("vpdpbusd %2, %1, %0" : "+v"(dot) : "v"(weights), "v"(activations));
}

template <typename T>
void round_row(const T* x, int64_t steps, int8_t* codes, float* scales, int32_t* sums) {
  for (int64_t s = 0; s < steps; ++s, x += kStep, codes += kStep) {
    __m512 most = _mm512_setzero_ps();
    for (int64_t k = 0; k < kStep; k += kLanes) most = _mm512_max_ps(most, _mm512_abs_ps(load(x + k)));
    const float amax = _mm512_reduce_max_ps(most);
    const __m512 inverse = _mm512_set1_ps(amax > 0 ? 127.0f / amax : 0.0f);
    __m512i sum = _mm512_setzero_si512();
    for (int64_t k = 0; k < kStep; k += kLanes) {
      const __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(load(x + k), inverse));
      sum = _mm512_add_epi32(sum, code);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + k), _mm512_cvtsepi32_epi8(code));
    }
    scales[s] = amax / 127.0f;
    sums[s] = _mm512_reduce_add_epi32(sum);
  }
}

template <int R, int B, int Bits, bool Grouped, typename T>
void tile(const Weight& w, const Rounded& x, int64_t row, int64_t block, T* y) {
  const int64_t bytes = w.inputs * kLanes * Bits / 8;  // of a block of lanes
  const int64_t groups = w.inputs / w.group;
  const uint8_t* codes[B];
  for (int b = 0; b < B; ++b) codes[b] = w.codes + (block + b) * bytes;
  __m512 sums[R][B];
  for (int r = 0; r < R; ++r)
    for (int b = 0; b < B; ++b) sums[r][b] = _mm512_setzero_ps();
  const __m512i low = _mm512_set1_epi8(15);

  for (int64_t s = 0; s < x.steps; ++s) {
    const int64_t g = Grouped ? s * kStep / w.group : 0;
    __m512i dots[R][B];
    for (int b = 0; b < B; ++b) {
      const int64_t at = ((block + b) * groups + g) * kLanes;
      for (int r = 0; r < R; ++r) {
        const int32_t sum = -x.sums[(row + r) * x.steps + s];
        dots[r][b] = w.zeros ? _mm512_mullo_epi32(_mm512_loadu_si512(w.zeros + at), _mm512_set1_epi32(sum))
                             : _mm512_set1_epi32(sum * (1 << (Bits - 1)));
      }
    }
    const int8_t* own = x.codes + row * w.inputs + s * kStep;
    for (int64_t k = 0; k < kStep; k += 32 / Bits) {
      __m512i c[B];
      for (int b = 0; b < B; ++b) {
        c[b] = _mm512_loadu_si512(codes[b]);
        codes[b] += 64;
      }
      for (int half = 0; half < 8 / Bits; ++half) {
        __m512i u[B];
        for (int b = 0; b < B; ++b)
          u[b] = Bits == 8 ? c[b] : _mm512_and_si512(half ? _mm512_srli_epi16(c[b], 4) : c[b], low);
        for (int r = 0; r < R; ++r) {
          const int32_t four = *reinterpret_cast<const int32_t*>(own + r * w.inputs + k + 4 * half);
          const __m512i quad = _mm512_set1_epi32(four);
          for (int b = 0; b < B; ++b) add_products(dots[r][b], u[b], quad);
        }
      }
    }
    for (int b = 0; b < B; ++b) {
      const __m512 scale = Grouped ? load(w.scales + ((block + b) * groups + g) * kLanes) : _mm512_set1_ps(1);
      for (int r = 0; r < R; ++r) {
        const __m512 own_scale = _mm512_set1_ps(x.scales[(row + r) * x.steps + s]);
        const __m512 both = Grouped ? _mm512_mul_ps(scale, own_scale) : own_scale;
        sums[r][b] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r][b]), both, sums[r][b]);
      }
    }
  }
  for (int b = 0; b < B; ++b) {
    const int64_t n = (block + b) * kLanes;
    if (n >= w.outputs) break;
    const __mmask16 mask = w.outputs - n >= kLanes ? 0xffff : (1u << (w.outputs - n)) - 1;
    for (int r = 0; r < R; ++r) {
      __m512 value = sums[r][b];
      if (!Grouped) value = _mm512_mul_ps(value, load(w.scales + (block + b) * kLanes));
      store(y + (row + r) * w.outputs + n, value, mask);
    }
  }
}

template <int Bits, bool Grouped, typename T>
void rows_of(const Weight& w, const Rounded& x, int64_t rows, int64_t first, T* y) {
  if (rows == 1) return tile<1, kBlocks, Bits, Grouped>(w, x, 0, first, y);
  for (int64_t block = first; block < first + kBlocks; block += kPair) {
    int64_t row = 0;
    for (; row + kRows <= rows; row += kRows) tile<kRows, kPair, Bits, Grouped>(w, x, row, block, y);
    switch (rows - row) {
      case 1: tile<1, kPair, Bits, Grouped>(w, x, row, block, y); break;
      case 2: tile<2, kPair, Bits, Grouped>(w, x, row, block, y); break;
      case 3: tile<3, kPair, Bits, Grouped>(w, x, row, block, y); break;
      case 4: tile<4, kPair, Bits, Grouped>(w, x, row, block, y); break;
      case 5: tile<5, kPair, Bits, Grouped>(w, x, row, block, y); break;
    }
  }
}

template <typename T>
void project(const T* x, const Weight& w, int bits, int64_t rows, T* y) {
  const int64_t steps = w.inputs / kStep;
  thread_local std::vector<int8_t> codes;
  thread_local std::vector<float> scales;
  thread_local std::vector<int32_t> sums;
  codes.resize(std::max<size_t>(codes.size(), rows * w.inputs));
  scales.resize(std::max<size_t>(scales.size(), rows * steps));
  sums.resize(std::max<size_t>(sums.size(), rows * steps));
  int8_t* const c = codes.data();
  float* const s = scales.data();
  int32_t* const t = sums.data();
  const Rounded rounded{c, s, t, steps};
  const int64_t tasks = (w.outputs + kLanes * kBlocks - 1) / (kLanes * kBlocks);
  const bool grouped = w.group != w.inputs;
  const auto run = bits == 4 ? (grouped ? rows_of<4, true, T> : rows_of<4, false, T>)
                             : (grouped ? rows_of<8, true, T> : rows_of<8, false, T>);
  if (rows == 1) round_row(x, steps, c, s, t);  // not worth a barrier
#pragma omp parallel
  {
    if (rows > 1) {
#pragma omp for schedule(static)
      for (int64_t r = 0; r < rows; ++r)
        round_row(x + r * w.inputs, steps, c + r * w.inputs, s + r * steps, t + r * steps);
    }
#pragma omp for schedule(static)
    for (int64_t task = 0; task < tasks; ++task) run(w, rounded, rows, task * kBlocks, y);
  }
}

}  // namespace

extern "C" void modelfleet_project(const void* x, const uint8_t* codes, const float* scales, const int32_t* zeros,
                                   int bits, int64_t group, int64_t rows, int64_t outputs, int64_t inputs,
                                   void* y) {
  const Weight w{codes, scales, zeros, outputs, inputs, group};
  project(static_cast<const uint16_t*>(x), w, bits, rows, static_cast<uint16_t*>(y));
}
