// Attention over a paged KV cache, of bfloat16 queries, 16 tokens a block.
//
// Keys and values are laid out as projections read their weights, so that attention is two of them:
//   codes:  [layer][block][KV head][keys, values], where keys are [D / 2][16 tokens][2] and values
//           [D / 16][8 pairs of tokens][16][2]
//   scales: [layer][block][KV head][keys, values][16 tokens]
// A code is a bfloat16, without scales, or a signed byte: a token's key and its value of one head
// each have a scale, so that what one token is rounded to depends on no other one. A byte is exact
// in bfloat16; scales are applied to the scores and to the weights, in float32.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "projections.h"

namespace modelfleet {

constexpr int kBlock = 16;   // tokens
constexpr int kQueries = 8;  // that attention computes together
static_assert(kBlock == kLanes);

inline __m512 exponential(__m512 x) {  // relative error below 2e-7 (Cephes' expf)
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
  p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1)));
  // Exactly 0 for what is masked out (-inf); not a number stays so.
  const __mmask16 counts = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-103), _CMP_NLT_UQ);
  return _mm512_maskz_scalef_ps(counts, p, n);
}

// The cache of one layer and KV head. `scales` is null where codes are bfloat16.
template <typename Code>
struct HeadCache {
  static constexpr bool kScaled = std::is_same_v<Code, int8_t>;
  Code* codes;
  float* scales;
  int64_t head_dim, heads;
  Code* keys(int64_t block) const { return codes + block * heads * 2 * kBlock * head_dim; }
  Code* values(int64_t block) const { return keys(block) + kBlock * head_dim; }
  float* key_scales(int64_t block) const { return scales + block * heads * 2 * kBlock; }
  float* value_scales(int64_t block) const { return key_scales(block) + kBlock; }
};

// 16 pairs of codes as bfloat16.
inline __m512i pairs_of(const bf16* codes) { return _mm512_loadu_si512(codes); }
inline __m512i pairs_of(const int8_t* codes) {
  const __m512i wide = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
  const __m512 first = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(wide, 16), 16));
  const __m512 second = _mm512_cvtepi32_ps(_mm512_srai_epi32(wide, 16));
  return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(_mm512_castps_si512(first), 16),
                                 _mm512_castps_si512(second));
}

// The scale of a vector's codes.
inline float scale_of(const bf16* x, int64_t size) {
  __m512 most = _mm512_setzero_ps();
  for (int64_t i = 0; i < size; i += kLanes) most = _mm512_max_ps(most, _mm512_abs_ps(load(x + i)));
  return _mm512_reduce_max_ps(most) / 127.0f;
}

// 16 values as codes.
inline void encode(const bf16* x, float, bf16* codes) { std::memcpy(codes, x, kLanes * sizeof(bf16)); }
inline void encode(const bf16* x, float scale, int8_t* codes) {
  const __m512 inverse = _mm512_set1_ps(scale > 0 ? 1.0f / scale : 0.0f);
  const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(load(x), inverse));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtsepi32_epi8(rounded));
}

// Stores a token's key and value as token `at` of a block. Of a pair of tokens both are read, one
// perhaps times zero: `alone` puts zeros there, since what another request left may be infinite.
template <typename Code>
void put(const HeadCache<Code>& cache, int64_t block, int64_t at, const bf16* key, const bf16* value, bool alone) {
  const int64_t d = cache.head_dim;
  float key_scale = 1, value_scale = 1;
  if constexpr (cache.kScaled) {
    cache.key_scales(block)[at] = key_scale = scale_of(key, d);
    cache.value_scales(block)[at] = value_scale = scale_of(value, d);
  }
  Code* const keys = cache.keys(block) + at * 2;
  Code* const values = cache.values(block) + at / 2 * 2 * kLanes + at % 2;
  Code codes[kLanes];
  for (int64_t i = 0; i < d; i += kLanes) {
    encode(key + i, key_scale, codes);
    for (int64_t j = 0; j < kLanes; j += 2) std::memcpy(keys + (i + j) * kBlock, codes + j, 2 * sizeof(Code));
    encode(value + i, value_scale, codes);
    Code* const to = values + i * kBlock;
    for (int64_t j = 0; j < kLanes; ++j) {
      to[j * 2] = codes[j];
      if (alone) to[j * 2 + 1] = 0;
    }
  }
}

// The keys and values of one head and sequence, as far as they are used.
template <typename Code>
struct Context {
  HeadCache<Code> cache;
  const int64_t* table;  // of the sequence: its blocks
  int64_t blocks;
  const Code* keys(int64_t block) const { return cache.keys(table[block]); }
  const Code* values(int64_t block) const { return cache.values(table[block]); }
  int64_t bytes() const { return blocks * 2 * kBlock * cache.head_dim * sizeof(Code); }
  Context after(int64_t count) const { return {cache, table + count, blocks - count}; }
};

// A query of one head, and where its attention goes.
struct Query {
  const bf16* query;
  bf16* out;
  int64_t seen;    // tokens of the context
  int64_t hidden;  // the first ones of them, before its window
};

struct Scratch {
  std::vector<float> scores;
  std::vector<bf16> weights;
};

// The attention of R queries that share the head and the sequence. What is read next is fetched
// meanwhile, block by block.
template <int R, typename Code>
void attend(const Context<Code>& own, const Context<Code>& next, const Query* queries, Scratch& scratch) {
  constexpr int64_t kPairs = 64 / (kBlock * sizeof(Code));  // inputs, or tokens, on a line of the cache
  const HeadCache<Code>& cache = own.cache;
  const int64_t* const table = own.table;
  const int64_t d = cache.head_dim, blocks = own.blocks, stride = blocks * kBlock, last = next.blocks - 1;
  const bf16* query[R];
  int64_t seen[R], hidden[R], most = 0, most_hidden = 0;
  for (int r = 0; r < R; ++r) {
    query[r] = queries[r].query;
    seen[r] = queries[r].seen;
    hidden[r] = queries[r].hidden;
    most = std::max(most, seen[r]);
    most_hidden = std::max(most_hidden, hidden[r]);
  }
  if (static_cast<int64_t>(scratch.scores.size()) < R * stride) {
    scratch.scores.resize(R * stride);
    scratch.weights.resize(R * stride);
  }
  float* const scores = scratch.scores.data();
  bf16* const weights = scratch.weights.data();
  const __m512 lowest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  const __m512 shrink = _mm512_set1_ps(1.0f / std::sqrt(static_cast<float>(d)));
  const auto seen_of = [&](int r, int64_t b) -> __mmask16 {
    const int64_t left = seen[r] - b * kBlock;
    const __mmask16 mask = left >= kBlock ? 0xffff : left > 0 ? (1u << left) - 1 : 0;
    if (b * kBlock >= most_hidden) return mask;
    const int64_t before = hidden[r] - b * kBlock;
    return before >= kBlock ? 0 : before > 0 ? mask & (0xffffu << before) : mask;
  };
  __m512 highest[R];
  for (int r = 0; r < R; ++r) highest[r] = lowest;
  for (int64_t b = 0; b < blocks; ++b) {
    const Code* const k = own.keys(b);
    const Code* const then = next.keys(std::min(b, last));
    if constexpr (cache.kScaled)
      for (int64_t at = 0; at < 2 * kBlock; at += kLanes)
        _mm_prefetch(next.cache.key_scales(next.table[std::min(b, last)]) + at, _MM_HINT_T0);
    __m512 sums[R], odd_sums[R];  // two chains of additions, so that one need not wait for the other
    for (int r = 0; r < R; ++r) sums[r] = odd_sums[r] = _mm512_setzero_ps();
    for (int64_t i = 0; i < d; i += 4) {
      const __m512i pair = pairs_of(k + i * kBlock), odd_pair = pairs_of(k + (i + 2) * kBlock);
      for (int64_t at = i; at < i + 4; at += kPairs) _mm_prefetch(then + at * kBlock, _MM_HINT_T0);
      for (int r = 0; r < R; ++r) {
        sums[r] = _mm512_dpbf16_ps(sums[r], (__m512bh)pair, (__m512bh)spread(query[r] + i));
        odd_sums[r] = _mm512_dpbf16_ps(odd_sums[r], (__m512bh)odd_pair, (__m512bh)spread(query[r] + i + 2));
      }
    }
    for (int r = 0; r < R; ++r) sums[r] = _mm512_add_ps(sums[r], odd_sums[r]);
    __m512 scale = shrink;
    if constexpr (cache.kScaled) scale = _mm512_mul_ps(scale, load(cache.key_scales(table[b])));
    for (int r = 0; r < R; ++r) {
      const __m512 score = _mm512_mask_mul_ps(lowest, seen_of(r, b), sums[r], scale);
      highest[r] = _mm512_max_ps(highest[r], score);
      _mm512_storeu_ps(scores + r * stride + b * kBlock, score);
    }
  }
  float inverse[R];
  for (int r = 0; r < R; ++r) {
    const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(highest[r]));
    __m512 total = _mm512_setzero_ps();
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t t = r * stride + b * kBlock;
      __m512 e = exponential(_mm512_sub_ps(load(scores + t), top));
      total = _mm512_add_ps(total, e);
      // What is not seen has a scale, too: another request's.
      if constexpr (cache.kScaled) e = _mm512_maskz_mul_ps(seen_of(r, b), e, load(cache.value_scales(table[b])));
      store(weights + t, e);
    }
    inverse[r] = 1.0f / _mm512_reduce_add_ps(total);
  }
  for (int64_t j = 0; j < d; j += 2 * kLanes) {
    __m512 sums[R][2];
    for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
    for (int64_t b = 0; b < blocks; ++b) {
      const Code* const v = own.values(b) + j * kBlock;
      const Code* const then = next.values(std::min(b, last)) + j * kBlock;
      const int64_t tokens = std::min<int64_t>(kBlock, most - b * kBlock);
      for (int64_t t = 0; t < tokens; t += 2) {
        __m512i pair[2];
        for (int i = 0; i < 2; ++i) {
          pair[i] = pairs_of(v + (i * kBlock + t) * kLanes);
          if (t % kPairs == 0) _mm_prefetch(then + (i * kBlock + t) * kLanes, _MM_HINT_T0);
        }
        for (int r = 0; r < R; ++r) {
          const __m512i two = spread(weights + r * stride + b * kBlock + t);
          for (int i = 0; i < 2; ++i) sums[r][i] = _mm512_dpbf16_ps(sums[r][i], (__m512bh)pair[i], (__m512bh)two);
        }
      }
    }
    for (int r = 0; r < R; ++r)
      for (int i = 0; i < 2; ++i)
        store(queries[r].out + j + i * kLanes, _mm512_mul_ps(sums[r][i], _mm512_set1_ps(inverse[r])));
  }
}

// The same for any count up to kQueries.
template <typename Code>
void attend(int64_t count, const Context<Code>& own, const Context<Code>& next, const Query* queries,
            Scratch& scratch) {
  switch (count) {
    case 1: return attend<1>(own, next, queries, scratch);
    case 2: return attend<2>(own, next, queries, scratch);
    case 3: return attend<3>(own, next, queries, scratch);
    case 4: return attend<4>(own, next, queries, scratch);
    case 5: return attend<5>(own, next, queries, scratch);
    case 6: return attend<6>(own, next, queries, scratch);
    case 7: return attend<7>(own, next, queries, scratch);
    case 8: return attend<8>(own, next, queries, scratch);
  }
}

}  // namespace modelfleet
