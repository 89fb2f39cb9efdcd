// Draws a token from a row of logits, by the rules of devices/torch/sampler.py, but faster.
//
// The noise is numpy's Philox4x64-10, in the same order, so that both draw the same tokens but where
// two finish together.
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "attention.h"
#include "projections.h"

namespace modelfleet {

// How to draw; see SamplingParams in engine/request.py.
struct Draw {
  double temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
  uint64_t seed, choice, position;
  int64_t top_k, num_biased, num_tokens, num_prompt_tokens;
  const int64_t* bias_ids;
  const double* bias;
  const int64_t* token_ids;  // prompt, then answer; only where there are penalties
  const uint32_t* allowed;   // a bit for each token, the lowest of a word first; null: all
};

// A token; below 0 it is one that the step before has drawn, in row -1 - id.
inline int64_t token_of(int64_t id, const int64_t* last_drawn) { return id < 0 ? last_drawn[-1 - id] : id; }

// The index of the highest value, the first of equal ones.
inline int64_t likeliest(const float* x, int64_t size) {
  Floats highest = set(-std::numeric_limits<float>::infinity());
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) highest = max(highest, load(x + i));
  float top = most(highest);
  for (; i < size; ++i) top = std::max(top, x[i]);
  return std::min<int64_t>(std::find(x, x + size, top) - x, size - 1);
}

// Four of the 64-bit words of a stream: those from `4 * block` on (Salmon et al., SC 2011).
inline std::array<uint64_t, 4> philox(uint64_t seed, uint64_t choice, uint64_t position, uint64_t block) {
  std::array<uint64_t, 4> c{block + 1, 0, position, 0};  // numpy counts before it draws
  for (int round = 0; round < 10; ++round) {
    const auto a = static_cast<unsigned __int128>(c[0]) * 0xd2e7470ee14c6c93u;
    const auto b = static_cast<unsigned __int128>(c[2]) * 0xca5a826395121157u;
    c = {static_cast<uint64_t>(b >> 64) ^ c[1] ^ seed, static_cast<uint64_t>(b),
         static_cast<uint64_t>(a >> 64) ^ c[3] ^ choice, static_cast<uint64_t>(a)};
    seed += 0x9e3779b97f4a7c15u;
    choice += 0xbb67ae8584caa73bu;
  }
  return c;
}

class Sampler {
 public:
  Sampler(int64_t vocab, const int64_t* last_drawn) : vocab_(vocab), last_drawn_(last_drawn) {}

  int64_t operator()(const float* logits, const Draw& draw) {
    const bool shifts = draw.num_biased || draw.num_tokens;
    if (draw.temperature <= 0 && !shifts && !draw.allowed) return likeliest(logits, vocab_);
    scores_.assign(logits, logits + vocab_);
    if (draw.allowed) mask(draw.allowed);
    if (shifts) shift(draw);
    const int64_t first = likeliest(scores_.data(), vocab_);
    if (draw.temperature <= 0) return first;
    const float top = scores_[first], temperature = static_cast<float>(draw.temperature);
    for (float& score : scores_) {
      score = (score - top) / temperature;
      if (std::isnan(score)) score = kOut;  // std::sort needs an order, and NaN has none
    }
    truncate(draw);
    return race(draw, first);
  }

 private:
  static constexpr float kOut = -std::numeric_limits<float>::infinity();

  // First of all: nothing that is added later brings a token back.
  void mask(const uint32_t* allowed) {
    for (int64_t from = 0; from < vocab_; from += 32) {
      const uint32_t word = allowed[from / 32];
      if (word == ~uint32_t{0}) continue;
      const int64_t count = std::min<int64_t>(32, vocab_ - from);
      float* const scores = scores_.data() + from;
      for (int64_t i = 0; i < count; ++i) scores[i] = word >> i & 1 ? scores[i] : kOut;
    }
  }

  // Bias and penalties, as devices/torch/penalties.py.
  void shift(const Draw& draw) {
    for (int64_t i = 0; i < draw.num_biased; ++i) scores_[draw.bias_ids[i]] += static_cast<float>(draw.bias[i]);
    if (!draw.num_tokens) return;
    times_.resize(vocab_);  // zeros between calls
    const float repetition = static_cast<float>(draw.repetition_penalty);
    const float presence = static_cast<float>(draw.presence_penalty);
    const float frequency = static_cast<float>(draw.frequency_penalty);
    const auto each = [&](int64_t from, auto&& f) {
      for (int64_t i = from; i < draw.num_tokens; ++i) f(token_of(draw.token_ids[i], last_drawn_));
    };
    each(0, [&](int64_t id) {
      if (times_[id]++) return;
      float& score = scores_[id];
      score = score > 0 ? score / repetition : score * repetition;
    });
    each(0, [&](int64_t id) { times_[id] = 0; });
    each(draw.num_prompt_tokens, [&](int64_t id) { ++times_[id]; });
    each(draw.num_prompt_tokens, [&](int64_t id) {
      if (times_[id] == 0) return;
      scores_[id] -= presence + frequency * static_cast<float>(times_[id]);
      times_[id] = 0;
    });
  }

  void truncate(const Draw& draw) {
    if (draw.min_p > 0) drop_below(static_cast<float>(std::log(draw.min_p)));
    if (draw.top_k > 0 && draw.top_k < vocab_) {
      some_ = scores_;
      std::nth_element(some_.begin(), some_.begin() + draw.top_k - 1, some_.end(), std::greater<>());
      drop_below(some_[draw.top_k - 1]);
    }
    if (draw.top_p < 1) drop_below(nucleus_edge(draw.top_p));
  }

  void drop_below(float edge) {
    for (float& score : scores_) score = score < edge ? kOut : score;
  }

  // The lowest score among the fewest best tokens of at least `top_p` probability.
  float nucleus_edge(double top_p) {
    Floats sums = set(0);
    double total = 0;
    int64_t i = 0;
    for (; i + kLanes <= vocab_; i += kLanes) sums = add(sums, exponential(load(scores_.data() + i)));
    for (; i < vocab_; ++i) total += std::exp(scores_[i]);
    total += sum(sums);
    // All tokens less likely than this are together less than 1 - top_p: none of them is inside.
    const double least = std::log((1 - top_p) * total / static_cast<double>(vocab_)) - 0.01;
    some_.clear();
    for (const float score : scores_)
      if (score >= least) some_.push_back(score);
    std::sort(some_.begin(), some_.end(), std::greater<>());
    double inside = 0;
    for (const float score : some_) {
      inside += std::exp(static_cast<double>(score)) / total;
      if (inside >= top_p) return score;
    }
    return some_.empty() ? kOut : some_.back();
  }

  // The winner of the exponential race.
  int64_t race(const Draw& draw, int64_t first) {
    constexpr double kLog2 = 0.69314718055994531, kMost = 54 * kLog2;
    const auto words = [&](int64_t token) { return philox(draw.seed, draw.choice, draw.position, token / 4); };
    const auto time = [&](int64_t token, uint64_t word) {
      const double uniform = std::max(static_cast<double>(word >> 11) * 0x1p-53, 0x1p-54);
      return static_cast<double>(scores_[token]) - std::log(-std::log1p(-uniform));
    };
    int64_t winner = first;
    double best = time(first, words(first)[first % 4]);
    for (int64_t from = 0; from < vocab_; from += 4) {
      const int64_t to = std::min(from + 4, vocab_);
      if (*std::max_element(&scores_[from], scores_.data() + to) + kMost < best) continue;
      const auto drawn = words(from);
      for (int64_t token = from; token < to; ++token) {
        // -log(-log(1 - u)) <= -log(u) <= this: so nearly all logarithms are skipped.
        const double bound = scores_[token] + (1 + __builtin_clzll(drawn[token % 4] | 0x400)) * kLog2;
        if (bound < best || token == first) continue;
        const double own = time(token, drawn[token % 4]);
        if (own > best || (own == best && token < winner)) {
          best = own;
          winner = token;
        }
      }
    }
    return winner;
  }

  const int64_t vocab_;
  const int64_t* const last_drawn_;
  std::vector<float> scores_, some_;
  std::vector<int32_t> times_;
};

}  // namespace modelfleet
