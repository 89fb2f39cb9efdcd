// Experts: networks of a layer, of which each row takes a few, as the layer's router says.
//
// The rows of a step are grouped by expert, so that an expert's weights are read once for all of its
// rows. A row adds up what its experts say in the order of the experts, each of its outputs by one
// thread: nothing else in the batch changes a bit. The router's weights are of 16 bits, whatever the
// experts' are; logits and choices are float32.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "activations.h"
#include "buffer.h"
#include "gated.h"
#include "projections.h"

namespace modelfleet {

struct Expert {
  Linear gate_up, down;
};

// Of a layer. A shared expert comes last: every row takes it, as far as its gate lets it.
struct Experts {
  Linear router;                  // [count + shared, hidden]
  const Expert* expert;           // [count + shared]
  int64_t count, chosen, shared;  // shared: 0 or 1
  int64_t normalized;             // the weights of the chosen ones sum to 1; else those of all do
  int64_t rounded;                // some of them take rounded inputs

  int64_t taken() const { return chosen + shared; }
  // Of what a row's experts compute between their projections.
  int64_t inner() const {
    return chosen * expert[0].down.inputs + (shared ? expert[count].down.inputs : 0);
  }
};

constexpr int64_t kMostChosen = 64;  // a multiple of kLanes

struct Choice {
  int64_t expert;
  float weight;
};

// The chosen ones of one row, from the likeliest; of equal ones the first. Logits have room for whole
// blocks of lanes.
inline void choose(const Experts& experts, float* logits, Choice* chosen) {
  const int64_t count = experts.count, some = experts.chosen;
  const float gate = experts.shared ? logits[count] : 0;
  const int64_t width = (count + kLanes - 1) / kLanes * kLanes;
  std::fill(logits + count, logits + width, -std::numeric_limits<float>::infinity());
  int64_t found = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (found == some && !(logits[i] > chosen[found - 1].weight)) continue;
    int64_t at = found < some ? found++ : found - 1;
    for (; at > 0 && logits[i] > chosen[at - 1].weight; --at) chosen[at] = chosen[at - 1];
    chosen[at] = {i, logits[i]};
  }
  float weights[kMostChosen];
  std::fill_n(weights, kMostChosen, -std::numeric_limits<float>::infinity());
  for (int64_t i = 0; i < some; ++i) weights[i] = chosen[i].weight;
  const Floats highest = set(weights[0]);
  const auto exponentials = [&](float* values, int64_t size) {
    Floats total = set(0);
    for (int64_t i = 0; i < size; i += kLanes) {
      const Floats e = exponential(sub(load(values + i), highest));
      store(values + i, e);
      total = add(total, e);
    }
    return sum(total);
  };
  const float of_chosen = exponentials(weights, kMostChosen);
  const float total = experts.normalized ? of_chosen : exponentials(logits, width);
  for (int64_t i = 0; i < some; ++i) chosen[i].weight = weights[i] / total;
  if (!experts.shared) return;
  float share[kLanes];
  store(share, div(set(1), add(set(1), exponential(set(-gate)))));
  chosen[some] = {count, share[0]};
}

// The same memory from one of its values on, as rows of another width; both are whole steps.
inline Rows rows_from(const Rows& x, int64_t value, int64_t inputs) {
  return {x.values + value, x.codes + value, kWideCodes ? x.wide_codes + value : nullptr, x.scales + value / kStep,
          x.sums + value / kStep, inputs};
}

// What one thread does in the experts of each layer.
class ExpertPass {
 public:
  ExpertPass(int64_t tokens, int thread, int threads) : tokens_(tokens), thread_(thread), threads_(threads) {}

  // Chooses for rows `from` to `to` of normed inputs.
  void route(const Experts& experts, const Rows& rows, int64_t from, int64_t to, Choice* choices) {
    const Linear& router = experts.router;
    const int64_t pairs = router.pairs(), width = pairs * kPair * kLanes;
    if (static_cast<int64_t>(logits_.size()) < (to - from) * width) logits_.resize((to - from) * width);
    for (int64_t pair = 0; pair < pairs; ++pair)
      project(router, rows, from, to, pair, router.pair(std::min(pair + 1, pairs - 1)), kUnread,
              [&](int64_t r, int64_t n, const Floats& v, Mask mask) {
                store(logits_.data() + (r - from) * width + n, v, mask);
              });
    for (int64_t r = from; r < to; ++r)
      choose(experts, logits_.data() + (r - from) * width, choices + r * experts.taken());
  }

  // silu(gate) * up of all experts, to `activated`: rows of the first expert, of the second, and so on.
  void activate(const Experts& experts, const Rows& rows, const Choice* choices, const Rows& activated) {
    group(experts, choices);
    int64_t total = 0;
    for (const Group& group : groups_) total += pairs_of(experts, group) * (kWeights + group.rows);
    int64_t from = total * thread_ / threads_, to = total * (thread_ + 1) / threads_;
    for (size_t i = 0; i < groups_.size(); ++i) {
      const Group& group = groups_[i];
      const Expert& expert = experts.expert[group.expert];
      const int64_t cost = kWeights + group.rows, pairs = pairs_of(experts, group);
      const auto pair_at = [&](int64_t at) { return std::clamp<int64_t>((at + cost - 1) / cost, 0, pairs); };
      const bool more = to > cost * pairs && i + 1 < groups_.size();  // of this thread's
      const Linear& down = experts.expert[groups_[0].expert].down;
      const Next then = more ? pair_of(experts.expert[groups_[i + 1].expert].gate_up, 0)
                             : after(expert.gate_up, down.pair(down.pairs() * thread_ / threads_));
      activate(expert, rows, group, pair_at(from), pair_at(to), then, rows_from(activated, group.value, expert.down.inputs));
      from -= cost * pairs;
      to -= cost * pairs;
    }
  }

  // Calls add(row, weight, first output, 16 sums, mask) for this thread's outputs of all rows, and
  // soon(row, first output) before it computes these; fetches what comes `after`.
  template <typename Soon, typename Add>
  void project_down(const Experts& experts, const Rows& activated, const uint8_t* after, Soon&& soon, Add&& add) {
    const int64_t pairs = experts.expert[0].down.pairs();
    const int64_t first = pairs * thread_ / threads_, last = pairs * (thread_ + 1) / threads_;
    for (size_t i = 0; i < groups_.size(); ++i) {
      const Group& group = groups_[i];
      const Linear& w = experts.expert[group.expert].down;
      const Rows own = rows_from(activated, group.value, w.inputs);
      const Taken* const taken = taken_.data() + group.first;
      const uint8_t* const other =
          i + 1 < groups_.size() ? experts.expert[groups_[i + 1].expert].down.pair(first) : after;
      each_chunk(group.rows, tile_of(w.bits), [&](int64_t from, int64_t to) {
        const uint8_t* const then = to < group.rows ? w.pair(first) : other;
        for (int64_t pair = first; pair < last; ++pair)
          project(w, own, from, to, pair, pair + 1 < last ? w.pair(pair + 1) : then,
                  [&](int64_t r, int64_t n) { soon(taken[r].row, n); },
                  [&](int64_t r, int64_t n, const Floats& v, Mask mask) {
                    add(taken[r].row, taken[r].weight, n, v, mask);
                  });
      });
    }
  }

 private:
  // Reading the weights of a pair costs about as much as computing so many rows with them.
  static constexpr int64_t kWeights = 8;

  struct Taken {
    int64_t row;
    float weight;
  };
  // The rows of an expert: where they are in taken_, and where their values are in `activated`.
  struct Group {
    int64_t expert, first, rows, value;
  };

  static int64_t pairs_of(const Experts& experts, const Group& group) {
    return experts.expert[group.expert].down.inputs / (kPair * kLanes);
  }

  void group(const Experts& experts, const Choice* choices) {
    const int64_t all = experts.count + experts.shared, size = tokens_ * experts.taken();
    next_.assign(all + 1, 0);
    for (int64_t i = 0; i < size; ++i) ++next_[choices[i].expert + 1];
    groups_.clear();
    int64_t value = 0;
    for (int64_t e = 0; e < all; ++e) {
      if (const int64_t rows = next_[e + 1]) {
        groups_.push_back({e, next_[e], rows, value});
        value += rows * experts.expert[e].down.inputs;
      }
      next_[e + 1] += next_[e];
    }
    taken_.resize(size);
    for (int64_t i = 0; i < size; ++i)
      taken_[next_[choices[i].expert]++] = {i / experts.taken(), choices[i].weight};
  }

  // Pairs `first` to `last` of one expert; fetches what comes `after` them.
  void activate(const Expert& expert, const Rows& rows, const Group& group, int64_t first, int64_t last, Next after,
                const Rows& activated) {
    if (first == last) return;
    const Linear& w = expert.gate_up;
    each_chunk(group.rows, tile_of(w.bits), [&](int64_t from, int64_t to) {
      const bool all = group.rows == tokens_;  // in their order
      const Rows own = all ? rows : gathered(rows, group.first + from, to - from, w.bits < 16);
      const Rows out = rows_from(activated, all ? 0 : from * activated.inputs, activated.inputs);
      const Next then = to < group.rows ? pair_of(w, first) : after;
      for (int64_t pair = first; pair < last; ++pair)
        activate_pair(w, own, all ? from : 0, all ? to : to - from, pair, pair + 1 < last ? pair_of(w, pair + 1) : then,
                      out, expert.down.bits < 16, [](const Floats& gate) { return silu(gate); });
    });
  }

  // Inputs of rows of a group, one after another, in the form that their weights take.
  Rows gathered(const Rows& rows, int64_t first, int64_t count, bool rounded) {
    const int64_t inputs = rows.inputs, steps = inputs / kStep;
    const Rows own = gathered_.rows(count, inputs);
    const auto copy = [](auto* to, int64_t at, const auto* from, int64_t row, int64_t size) {
      std::memcpy(to + at * size, from + row * size, size * sizeof *to);
    };
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = taken_[first + i].row;
      if (!rounded) {
        copy(own.values, i, rows.values, row, inputs);
        continue;
      }
      copy(own.codes, i, rows.codes, row, inputs);
      if (kWideCodes) copy(own.wide_codes, i, rows.wide_codes, row, inputs);
      copy(own.scales, i, rows.scales, row, steps);
      copy(own.sums, i, rows.sums, row, steps);
    }
    return own;
  }

  const int64_t tokens_;
  const int thread_, threads_;
  Values<float> logits_;
  std::vector<int64_t> next_;
  std::vector<Taken> taken_;  // by expert, and by row within an expert
  std::vector<Group> groups_;  // of those that any row takes
  Buffer gathered_;
};

}  // namespace modelfleet
