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
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "activations.h"
#include "projections.h"

namespace modelfleet {

constexpr int kBlock = 16;  // tokens
static_assert(kBlock == kLanes);

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

// The scale of a vector's codes.
inline float scale_of(const bf16* x, int64_t size) {
  Floats highest = set(0);
  for (int64_t i = 0; i < size; i += kLanes) highest = max(highest, abs(load(x + i)));
  return most(highest) / 127.0f;
}

// 16 values as codes.
inline void encode(const bf16* x, float, bf16* codes) { std::memcpy(codes, x, kLanes * sizeof(bf16)); }
inline void encode(const bf16* x, float scale, int8_t* codes) {
  store_codes(codes, nullptr, to_ints(mul(load(x), set(scale > 0 ? 1.0f / scale : 0.0f))));
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
  Activation* out;
  int64_t seen;    // tokens of the context
  int64_t hidden;  // the first ones of them, before its window
};

// What becomes of the products of queries and keys.
struct Scoring {
  float scale;
  float cap;  // scores are cap * tanh(score / cap); 0: as they are
};

struct Scratch {
  std::vector<float> scores;
  std::vector<Activation> weights;
  std::vector<float> queries;  // [kQueries, D], where they are multiplied as float32
};

// A query as it is multiplied: where it is, or a copy as the r-th one of the scratch.
inline const bf16* as_activations(const bf16* query, int64_t, int, const Scratch&, const bf16*) { return query; }
inline const float* as_activations(const bf16* query, int64_t size, int r, Scratch& scratch, const float*) {
  if (static_cast<int64_t>(scratch.queries.size()) < kQueries * size) scratch.queries.resize(kQueries * size);
  float* const copy = scratch.queries.data() + r * size;
  for (int64_t i = 0; i < size; i += kLanes) store(copy + i, load(query + i));
  return copy;
}

inline Mask seen_in(int64_t block, int64_t seen, int64_t hidden) {
  const int64_t before = hidden - block * kBlock;
  const Mask mask = first_lanes(seen - block * kBlock);
  return before >= kBlock ? 0 : before > 0 ? mask & (0xffffu << before) : mask;
}

// Caps the scores of a query; the highest ones of all lanes. What is not seen stays lower than all.
[[gnu::noinline]] inline Floats cap_scores(float* scores, int64_t blocks, int64_t seen, int64_t hidden, float cap) {
  const Floats lowest = set(-std::numeric_limits<float>::infinity());
  Floats highest = lowest;
  for (int64_t b = 0; b < blocks; ++b) {
    const Floats score = mul_or(lowest, seen_in(b, seen, hidden), capped(load(scores + b * kBlock), cap), set(1));
    highest = max(highest, score);
    store(scores + b * kBlock, score);
  }
  return highest;
}

// The attention of R queries that share the head and the sequence. What is read next is fetched
// meanwhile, block by block.
template <int R, typename Code>
void attend(const Context<Code>& own, const Context<Code>& next, const Query* queries, Scoring scoring,
            Scratch& scratch) {
  constexpr int64_t kPairs = 64 / (kBlock * sizeof(Code));  // inputs, or tokens, on a line of the cache
  // Registers that are summed at once, and codes that meet one: as many of R queries as fit.
  constexpr int kTokens = is_narrow(R) ? kParts / 2 : kParts, kValues = 2 * kTokens, kCodes = 2 * kWidth;
  const HeadCache<Code>& cache = own.cache;
  const int64_t* const table = own.table;
  const int64_t d = cache.head_dim, blocks = own.blocks, stride = blocks * kBlock, last = next.blocks - 1;
  const Activation* query[R];
  int64_t seen[R], hidden[R], longest = 0, most_hidden = 0;
  for (int r = 0; r < R; ++r) {
    query[r] = as_activations(queries[r].query, d, r, scratch, static_cast<const Activation*>(nullptr));
    seen[r] = queries[r].seen;
    hidden[r] = queries[r].hidden;
    longest = std::max(longest, seen[r]);
    most_hidden = std::max(most_hidden, hidden[r]);
  }
  if (static_cast<int64_t>(scratch.scores.size()) < R * stride) {
    scratch.scores.resize(R * stride);
    scratch.weights.resize(R * stride);
  }
  float* const scores = scratch.scores.data();
  Activation* const weights = scratch.weights.data();
  const Floats lowest = set(-std::numeric_limits<float>::infinity());
  const Floats shrink = set(scoring.scale);
  const auto seen_of = [&](int r, int64_t b) -> Mask {
    return b * kBlock >= most_hidden ? first_lanes(seen[r] - b * kBlock) : seen_in(b, seen[r], hidden[r]);
  };
  Floats highest[R];
  for (int r = 0; r < R; ++r) highest[r] = lowest;
  for (int64_t b = 0; b < blocks; ++b) {
    const Code* const k = own.keys(b);
    const Code* const then = next.keys(std::min(b, last));
    if constexpr (cache.kScaled)
      for (int64_t at = 0; at < 2 * kBlock; at += kLanes)
        fetch(next.cache.key_scales(next.table[std::min(b, last)]) + at);
    Floats products[R];
    UNROLLED for (int from = 0; from < kParts; from += kTokens) {
      FloatRegister sums[R][kTokens], odd_sums[R][kTokens];  // two chains, so that one need not wait for the other
      UNROLLED for (int r = 0; r < R; ++r)
        UNROLLED for (int p = 0; p < kTokens; ++p) sums[r][p] = odd_sums[r][p] = set_register(0.0f);
      for (int64_t i = 0; i < d; i += 4) {
        if (from == 0)
          for (int64_t at = i; at < i + 4; at += kPairs) fetch(then + at * kBlock);
        UNROLLED for (int phase = 0; phase < kPhases; ++phase) {
          Factor pair[kTokens];
          UNROLLED for (int p = 0; p < kTokens; ++p) pair[p] = factor(k + i * kBlock + (from + p) * kCodes, phase);
          UNROLLED for (int r = 0; r < R; ++r) {
            const auto two = spread(query[r] + i, phase);
            UNROLLED for (int p = 0; p < kTokens; ++p) sums[r][p] = dot(sums[r][p], pair[p], two);
          }
          UNROLLED for (int p = 0; p < kTokens; ++p) pair[p] = factor(k + (i + 2) * kBlock + (from + p) * kCodes, phase);
          UNROLLED for (int r = 0; r < R; ++r) {
            const auto two = spread(query[r] + i + 2, phase);
            UNROLLED for (int p = 0; p < kTokens; ++p) odd_sums[r][p] = dot(odd_sums[r][p], pair[p], two);
          }
        }
      }
      UNROLLED for (int r = 0; r < R; ++r)
        UNROLLED for (int p = 0; p < kTokens; ++p) part(products[r], from + p) = add(sums[r][p], odd_sums[r][p]);
    }
    Floats scale = shrink;
    if constexpr (cache.kScaled) scale = mul(scale, load(cache.key_scales(table[b])));
    for (int r = 0; r < R; ++r) {
      const Floats score = mul_or(lowest, seen_of(r, b), products[r], scale);
      highest[r] = max(highest[r], score);
      store(scores + r * stride + b * kBlock, score);
    }
  }
  if (scoring.cap > 0)
    for (int r = 0; r < R; ++r) highest[r] = cap_scores(scores + r * stride, blocks, seen[r], hidden[r], scoring.cap);
  float inverse[R];
  for (int r = 0; r < R; ++r) {
    const Floats top = set(most(highest[r]));
    Floats total = set(0);
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t t = r * stride + b * kBlock;
      Floats e = exponential(sub(load(scores + t), top));
      total = add(total, e);
      // What is not seen has a scale, too: another request's.
      if constexpr (cache.kScaled) e = mul_or(set(0), seen_of(r, b), e, load(cache.value_scales(table[b])));
      store(weights + t, e);
    }
    inverse[r] = 1.0f / sum(total);
  }
  for (int64_t j = 0; j < d; j += 2 * kLanes) {
    Floats outs[R][2];
    UNROLLED for (int from = 0; from < 2 * kParts; from += kValues) {
      FloatRegister sums[R][kValues];
      UNROLLED for (int r = 0; r < R; ++r)
        UNROLLED for (int n = 0; n < kValues; ++n) sums[r][n] = set_register(0.0f);
      for (int64_t b = 0; b < blocks; ++b) {
        const Code* const v = own.values(b) + j * kBlock;
        const Code* const then = next.values(std::min(b, last)) + j * kBlock;
        const int64_t tokens = std::min<int64_t>(kBlock, longest - b * kBlock);
        for (int64_t t = 0; t < tokens; t += 2) {
          if (from == 0 && t % kPairs == 0)
            for (int i = 0; i < 2; ++i) fetch(then + (i * kBlock + t) * kLanes);
          UNROLLED for (int phase = 0; phase < kPhases; ++phase) {
            Factor pair[kValues];
            UNROLLED for (int n = 0; n < kValues; ++n) {
              const int i = (from + n) / kParts, p = (from + n) % kParts;
              pair[n] = factor(v + (i * kBlock + t) * kLanes + p * kCodes, phase);
            }
            UNROLLED for (int r = 0; r < R; ++r) {
              const auto two = spread(weights + r * stride + b * kBlock + t, phase);
              UNROLLED for (int n = 0; n < kValues; ++n) sums[r][n] = dot(sums[r][n], pair[n], two);
            }
          }
        }
      }
      UNROLLED for (int r = 0; r < R; ++r)
        UNROLLED for (int n = 0; n < kValues; ++n) part(outs[r][(from + n) / kParts], (from + n) % kParts) = sums[r][n];
    }
    for (int r = 0; r < R; ++r)
      for (int i = 0; i < 2; ++i) store(queries[r].out + j + i * kLanes, mul(outs[r][i], set(inverse[r])));
  }
}

// The same for any count up to kQueries.
template <typename Code>
void attend(int64_t count, const Context<Code>& own, const Context<Code>& next, const Query* queries,
            Scoring scoring, Scratch& scratch) {
  switch (count) {
    case 1: return attend<1>(own, next, queries, scoring, scratch);
    case 2: return attend<2>(own, next, queries, scoring, scratch);
    case 3: return attend<3>(own, next, queries, scoring, scratch);
    case 4: return attend<4>(own, next, queries, scoring, scratch);
    case 5: return attend<5>(own, next, queries, scoring, scratch);
    case 6: return attend<6>(own, next, queries, scoring, scratch);
    case 7: if constexpr (kQueries > 6) return attend<7>(own, next, queries, scoring, scratch);
    case 8: if constexpr (kQueries > 6) return attend<8>(own, next, queries, scoring, scratch);
  }
}

}  // namespace modelfleet
