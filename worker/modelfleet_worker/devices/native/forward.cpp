// One step of a model in bfloat16: a flat batch of tokens, a paged KV cache. What sets families apart
// is data of Model and Layer (models/families.py); there is no code for one.
//
// All threads go through `Pass::run` together and meet at barriers. Every value of a token is
// computed in one order, whatever else is in the batch and however its prompt was cut into chunks:
// equal requests give equal bits.
//
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <vector>

#include "activations.h"
#include "attention.h"
#include "buffer.h"
#include "experts.h"
#include "export.h"
#include "gated.h"
#include "norms.h"
#include "project.h"
#include "projections.h"
#include "sampling.h"
#include "thread_pool.h"

namespace modelfleet {

constexpr int kNear = 256 << 10;  // bytes of keys and values that may be fetched one task ahead; of more,
constexpr int kAhead = 2;         // so many blocks ahead, or they push out what is used

struct Layer {
  // Before attention, after its output projection, before the network, after its last projection, of
  // queries and of keys. Null: there is none.
  const bf16 *input_norm, *output_norm, *network_norm, *down_norm, *query_norm, *key_norm;
  Linear qkv, output, gate_up, down;
  int64_t window;                // the last tokens that a token sees; 0: all
  const float *cosines, *sines;  // [context, rotary / 2]; null: it is not rotated
  const Experts* experts;        // in the place of gate_up and down, or null
};

struct Model {
  int64_t layers, hidden, heads, kv_heads, head_dim, inner, vocab, blocks;
  int64_t rotary;         // the first numbers of a head, which are rotated
  int64_t activation;     // a Function
  int64_t whole_qk_norm;  // 1: queries and keys are normed over all heads, 0: each head
  int64_t centered;       // 1: norms take off the mean
  double eps;
  double norm_offset;  // added to the weights of norms
  double embedding_scale, residual_scale, attention_scale;
  double attention_cap;  // 0: none
  double logit_scale, logit_cap;
  const bf16 *embeddings, *norm;
  const Layer* layer;
  Linear head;
  void* cache;
  float* cache_scales;  // null: the cache is bfloat16
};

struct Batch {
  int64_t tokens, sequences, sampled;
  const int64_t *ids, *positions, *owners;  // [tokens]; which sequence it belongs to
  const int64_t* firsts;                    // [sequences + 1], of its rows
  const int64_t *table_starts, *tables;     // [sequences], blocks of each one after another
  const int64_t* rows;                      // [sampled], whose logits are wanted
  const Draw* draws;                        // [sampled], or null: the likeliest
  const int64_t* last_drawn;                // of the step before; ids below 0 are -1 - its row
  float* logits;                            // [sampled, vocab]
  int64_t* drawn;                           // [sampled], tokens
  const float *cosines, *sines;             // [tokens, rotary / 2], or null: the layers'
  int32_t* choices;                         // [layers, tokens, chosen], experts, or null; as it is in layers without
  int64_t masked;                           // what draws allow is written after so many calls of `supply`; -1: none do
};

inline void rotate(bf16* x, const float* cosines, const float* sines, int64_t size) {
  const int64_t half = size / 2;
  for (int64_t i = 0; i < half; i += kLanes) {
    const Floats a = load(x + i), b = load(x + half + i), c = load(cosines + i), s = load(sines + i);
    store(x + i, fms(a, c, mul(b, s)));
    store(x + half + i, fma(b, c, mul(a, s)));
  }
}

// What the threads of a pass share.
struct Shared {
  Values<float> x;      // [tokens, hidden], the residual stream
  Values<float> added;  // [tokens, hidden], what a norm meets before it is added
  Values<bf16> qkv;     // [tokens, heads and KV heads twice, D]
  Buffer normed, attended, activated;
  Values<Choice> choices;  // [tokens, experts that a token takes]
};

class Pass {
 public:
  Pass(const Model& model, const Batch& batch, Shared& shared, Counter& supplied, ThreadPool& thread_pool, int thread)
      : m_(model), b_(batch), s_(shared), supplied_(supplied), thread_pool_(thread_pool), thread_(thread),
        threads_(thread_pool.size()),
        group_(m_.heads / m_.kv_heads), width_((m_.heads + 2 * m_.kv_heads) * m_.head_dim),
        attended_(s_.attended.rows(0, m_.heads * m_.head_dim)), activated_(s_.activated.rows(0, m_.inner)),
        experts_(b_.tokens, thread, threads_) {
    deal();
  }

  void run() {
    const auto [from, to] = share(b_.tokens);
    const Floats embedding_scale = set(static_cast<float>(m_.embedding_scale));
    for (int64_t r = from; r < to; ++r)
      for (int64_t i = 0; i < m_.hidden; i += kLanes) {
        const Floats v = load(m_.embeddings + token_of(b_.ids[r], b_.last_drawn) * m_.hidden + i);
        store(x(r) + i, mul(v, embedding_scale));
      }
    thread_pool_.barrier();
    for (int64_t l = 0; l < m_.layers; ++l) {
      const Layer& layer = m_.layer[l];
      each_pair(layer.qkv, normed(layer.input_norm, layer.qkv), b_.tokens, layer.output, kUnread,
                [&](int64_t r, int64_t n, const Floats& v, Mask mask) { store(qkv(r) + n, v, mask); });
      thread_pool_.barrier();
      attend(layer, l);
      thread_pool_.barrier();
      add_to_residual(layer.output, attended_, layer.experts ? layer.experts->router : layer.gate_up,
                      layer.output_norm);
      thread_pool_.barrier();
      const Linear& then = l + 1 < m_.layers ? m_.layer[l + 1].qkv : m_.head;
      if (layer.experts) {
        through_experts(layer, l, then);
      } else {
        activate(layer, normed(layer.network_norm, layer.gate_up));
        thread_pool_.barrier();
        add_to_residual(layer.down, activated_, then, layer.down_norm);
      }
      thread_pool_.barrier();
    }
    const Rows last = normed_rows(b_.sampled, m_.norm, m_.head, [&](int64_t r) { return x(b_.rows[r]); });
    const Floats logit_scale = set(static_cast<float>(m_.logit_scale));
    const float cap = static_cast<float>(m_.logit_cap);
    each_pair(m_.head, last, b_.sampled, m_.layer[0].qkv, kUnread,
              [&](int64_t r, int64_t n, const Floats& v, Mask mask) {
                const Floats logits = mul(v, logit_scale);
                store(b_.logits + r * m_.vocab + n, cap > 0 ? capped(logits, cap) : logits, mask);
              });
    thread_pool_.barrier();
    if (b_.masked >= 0) supplied_.reach(static_cast<uint32_t>(b_.masked));
    Sampler sampler(m_.vocab, b_.last_drawn);
    const auto [first, end] = share(b_.sampled);
    for (int64_t r = first; r < end; ++r) {
      const float* const logits = b_.logits + r * m_.vocab;
      b_.drawn[r] = b_.draws ? sampler(logits, b_.draws[r]) : likeliest(logits, m_.vocab);
    }
  }

 private:
  float* x(int64_t row) const { return s_.x.data() + row * m_.hidden; }
  bf16* qkv(int64_t row) const { return s_.qkv.data() + row * width_; }
  std::pair<int64_t, int64_t> share(int64_t count) const {
    return {count * thread_ / threads_, count * (thread_ + 1) / threads_};
  }

  Rows normed(const bf16* weight, const Linear& next) {
    return normed_rows(b_.tokens, weight, next, [&](int64_t r) { return x(r); });
  }

  Norm norm(const bf16* weight) const {
    return {weight, static_cast<float>(m_.norm_offset), static_cast<float>(m_.eps), m_.centered != 0};
  }

  // All rows for a projection, normed if there is a norm. One row is done by each thread for itself:
  // no barrier.
  template <typename From>
  Rows normed_rows(int64_t count, const bf16* weight, const Linear& next, From&& source) {
    Rows rows = (count == 1 ? own_ : s_.normed).rows(count == 1 ? 1 : 0, m_.hidden);
    const auto [from, to] = count == 1 ? std::pair<int64_t, int64_t>{0, 1} : share(count);
    for (int64_t r = from; r < to; ++r) {
      if (weight)
        normalize(source(r), norm(weight), m_.hidden, rows.row(r));
      else
        for (int64_t i = 0; i < m_.hidden; i += kLanes) store(rows.row(r) + i, load(source(r) + i));
      if (next.bits < 16) round_inputs(rows, r, 0, m_.hidden);
    }
    if (count > 1) thread_pool_.barrier();
    return rows;
  }

  // This thread's pairs; `then` is what comes after `w`.
  template <typename Soon, typename Out>
  void each_pair(const Linear& w, const Rows& rows, int64_t count, const Linear& then, Soon&& soon, Out&& out) {
    const auto [first, last] = share(w.pairs());
    each_chunk(count, tile_of(w.bits), [&](int64_t from, int64_t to) {
      const uint8_t* const after = to < count ? w.pair(first) : first_of(then);
      for (int64_t pair = first; pair < last; ++pair)
        project(w, rows, from, to, pair, pair + 1 < last ? w.pair(pair + 1) : after, soon, out);
    });
  }

  const uint8_t* first_of(const Linear& w) const { return w.pair(share(w.pairs()).first); }

  void add_to_residual(const Linear& w, const Rows& rows, const Linear& then, const bf16* after) {
    const Floats scale = set(static_cast<float>(m_.residual_scale));
    if (after) return add_normed(w, rows, then, norm(after), scale);
    // Other threads wrote these rows, far apart: without a prefetch each access would stall.
    const auto soon = [&](int64_t r, int64_t n) { fetch(x(r) + n); };
    each_pair(w, rows, b_.tokens, then, soon, [&](int64_t r, int64_t n, const Floats& v, Mask mask) {
      store(x(r) + n, fma(v, scale, load(x(r) + n, mask)), mask);
    });
  }

  void add_normed(const Linear& w, const Rows& rows, const Linear& then, const Norm& after, const Floats& scale) {
    const auto added = [&](int64_t r) { return s_.added.data() + r * m_.hidden; };
    each_pair(w, rows, b_.tokens, then, kUnread,
              [&](int64_t r, int64_t n, const Floats& v, Mask mask) { store(added(r) + n, v, mask); });
    thread_pool_.barrier();
    const auto [from, to] = share(b_.tokens);
    for (int64_t r = from; r < to; ++r)
      each_normed(added(r), after, m_.hidden,
                  [&](int64_t i, const Floats& v) { store(x(r) + i, fma(v, scale, load(x(r) + i))); });
  }

  // Each thread norms and routes its rows; one row is done by each thread for itself.
  void through_experts(const Layer& layer, int64_t l, const Linear& then) {
    const Experts& experts = *layer.experts;
    const bool alone = b_.tokens == 1;
    const Rows rows = (alone ? own_ : s_.normed).rows(alone ? 1 : 0, m_.hidden);
    Values<Choice>& choices = alone ? own_choices_ : s_.choices;
    if (alone) choices.resize(experts.taken());
    const auto [from, to] = alone ? std::pair<int64_t, int64_t>{0, 1} : share(b_.tokens);
    for (int64_t r = from; r < to; ++r) {
      normalize(x(r), norm(layer.network_norm), m_.hidden, rows.row(r));
      if (experts.rounded) round_inputs(rows, r, 0, m_.hidden);
    }
    experts_.route(experts, rows, from, to, choices.data());
    if (b_.choices && (!alone || thread_ == 0))
      for (int64_t r = from; r < to; ++r)
        for (int64_t i = 0; i < experts.chosen; ++i)
          b_.choices[(l * b_.tokens + r) * experts.chosen + i] = choices[r * experts.taken() + i].expert;
    if (!alone) thread_pool_.barrier();
    experts_.activate(experts, rows, choices.data(), activated_);
    thread_pool_.barrier();
    const float scale = static_cast<float>(m_.residual_scale);
    experts_.project_down(
        experts, activated_, first_of(then), [&](int64_t r, int64_t n) { fetch(x(r) + n); },
        [&](int64_t r, float weight, int64_t n, const Floats& v, Mask mask) {
          store(x(r) + n, fma(set(weight * scale), v, load(x(r) + n, mask)), mask);
        });
  }

  void activate(const Layer& layer, const Rows& rows) {
    if (m_.activation == kSilu) return activate(layer, rows, [](const Floats& gate) { return silu(gate); });
    activate(layer, rows, [this](const Floats& gate) { return activation(m_.activation, gate); });
  }

  template <typename F>
  void activate(const Layer& layer, const Rows& rows, F&& function) {
    const Linear& w = layer.gate_up;
    const auto [first, last] = share(m_.inner / (kPair * kLanes));
    each_chunk(b_.tokens, tile_of(w.bits), [&](int64_t from, int64_t to) {
      const Next then = to < b_.tokens ? pair_of(w, first) : after(w, first_of(layer.down));
      for (int64_t pair = first; pair < last; ++pair)
        activate_pair(w, rows, from, to, pair, pair + 1 < last ? pair_of(w, pair + 1) : then, activated_,
                      layer.down.bits < 16, function);
    });
  }

  template <typename Code>
  HeadCache<Code> cache(int64_t layer, int64_t head) const {
    const int64_t at = (layer * m_.blocks * m_.kv_heads + head) * 2 * kBlock;
    return {static_cast<Code*>(m_.cache) + at * m_.head_dim, m_.cache_scales + at, m_.head_dim, m_.kv_heads};
  }

  void attend(const Layer& layer, int64_t l) {
    m_.cache_scales ? attend<int8_t>(layer, l) : attend<bf16>(layer, l);
  }

  // Rows of one sequence, for one KV head.
  struct Task {
    int64_t sequence, head, from, to;
  };

  // What this thread attends to in each layer: first single rows (decodes), which it prepares itself
  // without a barrier; then rows of chunks (prefill). Later rows attend to more tokens, so they are
  // dealt out one by one: every thread gets equal work.
  void deal() {
    int64_t dealt = 0;
    const auto add = [&](int64_t sequence, int64_t step) {
      for (int64_t row = b_.firsts[sequence], end = b_.firsts[sequence + 1]; row < end; row += step)
        for (int64_t head = 0; head < m_.kv_heads; ++head, ++dealt)
          if (dealt % threads_ == thread_)
            tasks_.push_back({sequence, head, row, std::min(row + step, end)});
    };
    for (int64_t s = 0; s < b_.sequences; ++s)
      if (is_alone(s)) add(s, 1);
    alone_ = tasks_.size();
    for (int64_t s = 0; s < b_.sequences; ++s)
      if (!is_alone(s)) add(s, std::max<int64_t>(1, kQueries / group_));
  }

  bool is_alone(int64_t sequence) const { return b_.firsts[sequence + 1] - b_.firsts[sequence] == 1; }

  template <typename Code>
  void attend(const Layer& layer, int64_t l) {
    if (layer.query_norm && m_.whole_qk_norm) normalize_whole(layer);
    if (b_.tokens != b_.sequences)
      for (int64_t pair = thread_; pair < b_.tokens * m_.kv_heads; pair += threads_)
        if (const int64_t row = pair / m_.kv_heads; !is_alone(b_.owners[row]))
          prepare<Code>(layer, l, row, pair % m_.kv_heads);
    for (size_t i = 0; i < alone_; ++i) {
      // Not earlier: the previous task prefetched the line that the key is written to.
      prepare<Code>(layer, l, tasks_[i].from, tasks_[i].head);
      attend<Code>(layer, l, i);
    }
    if (b_.tokens == b_.sequences) return;
    thread_pool_.barrier();  // a token of a chunk reads keys that other threads have just written
    for (size_t i = alone_; i < tasks_.size(); ++i) attend<Code>(layer, l, i);
  }

  // Queries and keys of this thread's rows over all heads, before others take single heads of them.
  void normalize_whole(const Layer& layer) {
    const auto [from, to] = share(b_.tokens);
    const int64_t queries = m_.heads * m_.head_dim, keys = m_.kv_heads * m_.head_dim;
    for (int64_t r = from; r < to; ++r) {
      normalize(qkv(r), norm(layer.query_norm), queries, qkv(r));
      normalize(qkv(r) + queries, norm(layer.key_norm), keys, qkv(r) + queries);
    }
    thread_pool_.barrier();
  }

  // Norms and rotates the queries and the key of a KV head, and stores key and value.
  template <typename Code>
  void prepare(const Layer& layer, int64_t l, int64_t row, int64_t head) {
    const int64_t d = m_.head_dim, position = b_.positions[row], sequence = b_.owners[row];
    const int64_t at = (b_.cosines ? row : position) * m_.rotary / 2;
    const float* const cosines = (b_.cosines ? b_.cosines : layer.cosines) + at;
    const float* const sines = (b_.cosines ? b_.sines : layer.sines) + at;
    const bool is_rotated = layer.cosines, is_normed = layer.query_norm && !m_.whole_qk_norm;
    for (int64_t q = head * group_; q < (head + 1) * group_; ++q) {
      bf16* query = qkv(row) + q * d;
      if (is_normed) normalize(query, norm(layer.query_norm), d, query);
      if (is_rotated) rotate(query, cosines, sines, m_.rotary);
    }
    bf16* key = qkv(row) + (m_.heads + head) * d;
    if (is_normed) normalize(key, norm(layer.key_norm), d, key);
    if (is_rotated) rotate(key, cosines, sines, m_.rotary);
    const bf16* value = qkv(row) + (m_.heads + m_.kv_heads + head) * d;
    const bool alone = position % 2 == 0 && row + 1 == b_.firsts[sequence + 1];
    put(cache<Code>(l, head), b_.tables[b_.table_starts[sequence] + position / kBlock], position % kBlock, key, value, alone);
  }

  template <typename Code>
  void attend(const Layer& layer, int64_t l, size_t index) {
    const auto [sequence, head, from, to] = tasks_[index];
    const int64_t d = m_.head_dim, count = (to - from) * group_;
    const Context<Code> own = context<Code>(l, tasks_[index]);
    const int64_t start = first_block(l, tasks_[index]) * kBlock;
    const bool more = index + 1 < tasks_.size();  // after the last one: the first one of the next layer
    Context<Code> next = context<Code>(more ? l : std::min(l + 1, m_.layers - 1), tasks_[more ? index + 1 : 0]);
    if (next.bytes() > kNear) next = own.blocks > kAhead ? own.after(kAhead) : own;
    const Scoring scoring{static_cast<float>(m_.attention_scale), static_cast<float>(m_.attention_cap)};
    Query queries[kQueries];
    for (int64_t first = 0; first < count; first += kQueries) {
      const int64_t some = std::min<int64_t>(kQueries, count - first);
      for (int64_t i = 0; i < some; ++i) {
        const int64_t row = from + (first + i) / group_, q = head * group_ + (first + i) % group_;
        const int64_t position = b_.positions[row];
        queries[i] = {qkv(row) + q * d, attended_.row(row) + q * d, position + 1 - start,
                      first_seen(l, position) - start};
      }
      modelfleet::attend(some, own, next, queries, scoring, scratch_);
    }
    if (layer.output.bits < 16)
      for (int64_t row = from; row < to; ++row) round_inputs(attended_, row, head * group_ * d, (head + 1) * group_ * d);
  }

  template <typename Code>
  Context<Code> context(int64_t layer, const Task& task) const {
    const int64_t first = first_block(layer, task);
    return {cache<Code>(layer, task.head), b_.tables + b_.table_starts[task.sequence] + first,
            b_.positions[task.to - 1] / kBlock + 1 - first};
  }

  // The first token that the token at `position` sees, and the block of the first row's.
  int64_t first_seen(int64_t layer, int64_t position) const {
    const int64_t window = m_.layer[layer].window;
    return window ? std::max<int64_t>(0, position + 1 - window) : 0;
  }
  int64_t first_block(int64_t layer, const Task& task) const {
    return first_seen(layer, b_.positions[task.from]) / kBlock;
  }

  const Model& m_;
  const Batch& b_;
  Shared& s_;
  Counter& supplied_;  // how many steps' masks are written
  ThreadPool& thread_pool_;
  const int thread_, threads_;
  const int64_t group_, width_;
  const Rows attended_, activated_;
  std::vector<Task> tasks_;
  size_t alone_ = 0;  // of them are single rows
  Buffer own_;
  ExpertPass experts_;
  Values<Choice> own_choices_;
  Scratch scratch_;
};

// A model and the threads that compute it. One thread at a time may call it.
class Stepper {
 public:
  Stepper(const Model& model, int threads) : model_(model), inner_(model.inner), thread_pool_(threads) {
    for (int64_t l = 0; l < model.layers; ++l)
      if (const Experts* const experts = model.layer[l].experts) {
        inner_ = std::max(inner_, experts->inner());
        taken_ = std::max(taken_, experts->taken());
      }
  }

  void launch(const Batch& batch) {
    thread_pool_.launch([this, batch](int thread) {
      if (thread == 0) make_room(batch.tokens);
      thread_pool_.barrier();
      Pass(model_, batch, shared_, supplied_, thread_pool_, thread).run();
    });
  }

  // The masks of the next step that needs some are written.
  void supply() { supplied_.advance(); }

  void wait(uint32_t steps) { thread_pool_.wait(steps); }

 private:
  void make_room(int64_t tokens) {
    const int64_t heads = model_.heads + 2 * model_.kv_heads;
    at_least(shared_.x, tokens * model_.hidden);
    if (model_.layer[0].output_norm) at_least(shared_.added, tokens * model_.hidden);
    at_least(shared_.qkv, tokens * heads * model_.head_dim);
    shared_.normed.rows(tokens, model_.hidden);
    shared_.attended.rows(tokens, model_.heads * model_.head_dim);
    shared_.activated.rows(tokens, inner_);
    at_least(shared_.choices, tokens * taken_);
  }

  template <typename T>
  static void at_least(Values<T>& values, size_t size) {
    if (values.size() < size) values.resize(size);
  }

  const Model model_;
  int64_t inner_, taken_ = 0;  // the most that a token has between two projections, and experts
  Shared shared_;  // grows to the largest step
  Counter supplied_;
  ThreadPool thread_pool_;
};

}  // namespace modelfleet

MODELFLEET_EXPORT modelfleet::Stepper* modelfleet_start(const modelfleet::Model* model, int threads) {
  return new modelfleet::Stepper(*model, threads);
}
MODELFLEET_EXPORT void modelfleet_launch(modelfleet::Stepper* stepper, const modelfleet::Batch* batch) { stepper->launch(*batch); }
MODELFLEET_EXPORT void modelfleet_supply(modelfleet::Stepper* stepper) { stepper->supply(); }
MODELFLEET_EXPORT void modelfleet_wait(modelfleet::Stepper* stepper, uint32_t steps) { stepper->wait(steps); }
MODELFLEET_EXPORT void modelfleet_stop(modelfleet::Stepper* stepper) { delete stepper; }
MODELFLEET_EXPORT void modelfleet_project(const modelfleet::Linear* weight, const uint16_t* x, int64_t rows, uint16_t* y) {
  modelfleet::project_all(weight, x, rows, y);
}
MODELFLEET_EXPORT void modelfleet_project_float32(const modelfleet::Linear* weight, const uint16_t* x, int64_t rows, float* y) {
  modelfleet::project_all(weight, x, rows, y);
}
