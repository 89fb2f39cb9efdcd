// One step of a Llama-family model in bfloat16: a flat batch of tokens, a paged KV cache.
//
// All threads go through `Pass::run` together and meet at barriers. Every value of a token is
// computed in one order, whatever else is in the batch and however its prompt was cut into chunks:
// equal requests give equal bits.
//
// No OpenMP library is linked: the symbols are torch's own, so that both share one pool of threads.
#include <immintrin.h>
#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "attention.h"
#include "projections.h"
#include "sampling.h"

namespace modelfleet {

constexpr int kChunk = 128;  // rows that stay in a core's cache while weights pass by

struct Layer {
  const bf16 *input_norm, *post_norm, *query_norm, *key_norm;  // the last two may be null
  Linear qkv, output, gate_up, down;
};

struct Model {
  int64_t layers, hidden, heads, kv_heads, head_dim, inner, vocab, blocks;
  double eps;
  const bf16 *embeddings, *norm;
  const float *cosines, *sines;  // [context, D / 2]
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
  float* logits;                            // [sampled, vocab]
  int64_t* drawn;                           // [sampled], tokens
};

class Barrier {
 public:
  explicit Barrier(int size) : size_(size) {}
  void wait() {
    const int phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      return;
    }
    // Whoever we wait for may not be running: after some microseconds its core may be ours.
    for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; ++spins)
      spins < 2000 ? _mm_pause() : static_cast<void>(sched_yield());
  }

 private:
  const int size_;
  std::atomic<int> arrived_{0}, phase_{0};
};

struct Buffer {
  std::vector<bf16> values;
  std::vector<int8_t> codes;
  std::vector<float> scales;
  std::vector<int32_t> sums;
  Rows rows(int64_t count, int64_t inputs) {
    const size_t size = count * inputs;
    if (values.size() < size) {
      values.resize(size);
      codes.resize(size);
      scales.resize(size / kStep);
      sums.resize(size / kStep);
    }
    return {values.data(), codes.data(), scales.data(), sums.data(), inputs};
  }
};

template <typename T>
void normalize(const T* x, const bf16* weight, int64_t size, double eps, bf16* y) {
  __m512 squares = _mm512_setzero_ps();
  for (int64_t i = 0; i < size; i += kLanes) {
    const __m512 v = load(x + i);
    squares = _mm512_fmadd_ps(v, v, squares);
  }
  const float mean = _mm512_reduce_add_ps(squares) / static_cast<float>(size);
  const __m512 factor = _mm512_set1_ps(1.0f / std::sqrt(mean + static_cast<float>(eps)));
  for (int64_t i = 0; i < size; i += kLanes)
    store(y + i, _mm512_mul_ps(_mm512_mul_ps(load(x + i), factor), load(weight + i)));
}

inline void rotate(bf16* x, const float* cosines, const float* sines, int64_t size) {
  const int64_t half = size / 2;
  for (int64_t i = 0; i < half; i += kLanes) {
    const __m512 a = load(x + i), b = load(x + half + i), c = load(cosines + i), s = load(sines + i);
    store(x + i, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
    store(x + half + i, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
  }
}

// What the threads of a pass share.
struct Shared {
  std::vector<float> x;   // [tokens, hidden], the residual stream
  std::vector<bf16> qkv;  // [tokens, heads and KV heads twice, D]
  Buffer normed, attended, activated;
};

class Pass {
 public:
  Pass(const Model& model, const Batch& batch, Shared& shared, Barrier& barrier, int thread, int threads)
      : m_(model), b_(batch), s_(shared), barrier_(barrier), thread_(thread), threads_(threads),
        group_(m_.heads / m_.kv_heads), width_((m_.heads + 2 * m_.kv_heads) * m_.head_dim),
        attended_(s_.attended.rows(0, m_.heads * m_.head_dim)), activated_(s_.activated.rows(0, m_.inner)) {}

  void run() {
    const auto [from, to] = share(b_.tokens);
    for (int64_t r = from; r < to; ++r)
      for (int64_t i = 0; i < m_.hidden; i += kLanes)
        _mm512_storeu_ps(x(r) + i, load(m_.embeddings + b_.ids[r] * m_.hidden + i));
    barrier_.wait();
    for (int64_t l = 0; l < m_.layers; ++l) {
      const Layer& layer = m_.layer[l];
      each_pair(layer.qkv, normed(layer.input_norm, layer.qkv), b_.tokens,
                [&](int64_t r, int64_t n, __m512 v, __mmask16 mask) { store(qkv(r) + n, v, mask); });
      barrier_.wait();
      attend(layer, l);
      barrier_.wait();
      add_to_residual(layer.output, attended_);
      barrier_.wait();
      activate(layer, normed(layer.post_norm, layer.gate_up));
      barrier_.wait();
      add_to_residual(layer.down, activated_);
      barrier_.wait();
    }
    const Rows last = normed_rows(b_.sampled, m_.norm, m_.head, [&](int64_t r) { return x(b_.rows[r]); });
    each_pair(m_.head, last, b_.sampled, [&](int64_t r, int64_t n, __m512 v, __mmask16 mask) {
      store(b_.logits + r * m_.vocab + n, v, mask);
    });
    barrier_.wait();
    Sampler sampler(m_.vocab);
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

  // All rows normed, for a projection. One row is done by each thread for itself: no barrier.
  template <typename From>
  Rows normed_rows(int64_t count, const bf16* weight, const Linear& next, From&& source) {
    Rows rows = (count == 1 ? own_ : s_.normed).rows(count == 1 ? 1 : 0, m_.hidden);
    const auto [from, to] = count == 1 ? std::pair<int64_t, int64_t>{0, 1} : share(count);
    for (int64_t r = from; r < to; ++r) {
      normalize(source(r), weight, m_.hidden, m_.eps, rows.row(r));
      if (next.bits < 16) round_inputs(rows, r, 0, m_.hidden);
    }
    if (count > 1) barrier_.wait();
    return rows;
  }

  template <typename Out>
  void each_pair(const Linear& w, const Rows& rows, int64_t count, Out&& out) {
    const auto [first, last] = share(w.pairs());
    for (int64_t from = 0; from < count; from += kChunk)
      for (int64_t pair = first; pair < last; ++pair)
        project(w, rows, from, std::min<int64_t>(from + kChunk, count), pair, out);
  }

  void add_to_residual(const Linear& w, const Rows& rows) {
    each_pair(w, rows, b_.tokens, [&](int64_t r, int64_t n, __m512 v, __mmask16 mask) {
      store(x(r) + n, _mm512_add_ps(_mm512_maskz_loadu_ps(mask, x(r) + n), v), mask);
    });
  }

  // silu(gate) * up. The gate's outputs come first, and a pair of blocks is a step of `down`.
  void activate(const Layer& layer, const Rows& rows) {
    const Linear& w = layer.gate_up;
    const int64_t pairs = m_.inner / (kPair * kLanes);
    const auto [first, last] = share(pairs);
    for (int64_t from = 0; from < b_.tokens; from += kChunk)
      for (int64_t pair = first; pair < last; ++pair)
        in_tiles(w, from, std::min<int64_t>(from + kChunk, b_.tokens), [&]<int Bits, bool Grouped, int R>(int64_t row) {
          __m512 gate[R][kPair], up[R][kPair];
          sums_of<Bits, Grouped, R>(w, rows, row, pair, gate);
          sums_of<Bits, Grouped, R>(w, rows, row, pairs + pair, up);
          const int64_t n = pair * kPair * kLanes;
          for (int r = 0; r < R; ++r) {
            for (int b = 0; b < kPair; ++b) {
              const __m512 g = gate[r][b];
              const __m512 e = exponential(_mm512_sub_ps(_mm512_setzero_ps(), g));
              const __m512 silu = _mm512_div_ps(g, _mm512_add_ps(_mm512_set1_ps(1), e));
              store(activated_.row(row + r) + n + b * kLanes, _mm512_mul_ps(silu, up[r][b]));
            }
            if (layer.down.bits < 16) round_inputs(activated_, row + r, n, n + kStep);
          }
        });
  }

  template <typename Code>
  HeadCache<Code> cache(int64_t layer, int64_t head) const {
    const int64_t at = (layer * m_.blocks * m_.kv_heads + head) * 2 * kBlock;
    return {static_cast<Code*>(m_.cache) + at * m_.head_dim, m_.cache_scales + at, m_.head_dim, m_.kv_heads};
  }
  const int64_t* table(int64_t sequence) const { return b_.tables + b_.table_starts[sequence]; }

  void attend(const Layer& layer, int64_t l) {
    m_.cache_scales ? attend<int8_t>(layer, l) : attend<bf16>(layer, l);
  }

  template <typename Code>
  void attend(const Layer& layer, int64_t l) {
    for (int64_t task = thread_; task < b_.tokens * m_.kv_heads; task += threads_) {
      const int64_t row = task / m_.kv_heads, head = task % m_.kv_heads, sequence = b_.owners[row];
      prepare(layer, cache<Code>(l, head), row, head);
      if (b_.firsts[sequence + 1] - b_.firsts[sequence] == 1) attend_rows(layer, cache<Code>(l, head), sequence, head, row, row + 1);
    }
    if (b_.tokens == b_.sequences) return;
    barrier_.wait();  // a token of a chunk reads keys that other threads have just written
    const int64_t step = std::max<int64_t>(1, kQueries / group_);
    int64_t task = 0;
    for (int64_t s = 0; s < b_.sequences; ++s) {
      if (b_.firsts[s + 1] - b_.firsts[s] == 1) continue;
      // The last rows see most: dealt out one by one, every thread gets as much.
      for (int64_t row = b_.firsts[s]; row < b_.firsts[s + 1]; row += step)
        for (int64_t head = 0; head < m_.kv_heads; ++head)
          if (task++ % threads_ == thread_)
            attend_rows(layer, cache<Code>(l, head), s, head, row, std::min(row + step, b_.firsts[s + 1]));
    }
  }

  // Rotates the queries and the key of a KV head, and stores key and value.
  template <typename Code>
  void prepare(const Layer& layer, const HeadCache<Code>& cache, int64_t row, int64_t head) {
    const int64_t d = m_.head_dim, position = b_.positions[row], sequence = b_.owners[row];
    const float *cosines = m_.cosines + position * d / 2, *sines = m_.sines + position * d / 2;
    for (int64_t q = head * group_; q < (head + 1) * group_; ++q) {
      bf16* query = qkv(row) + q * d;
      if (layer.query_norm) normalize(query, layer.query_norm, d, m_.eps, query);
      rotate(query, cosines, sines, d);
    }
    bf16* key = qkv(row) + (m_.heads + head) * d;
    if (layer.key_norm) normalize(key, layer.key_norm, d, m_.eps, key);
    rotate(key, cosines, sines, d);
    const bf16* value = qkv(row) + (m_.heads + m_.kv_heads + head) * d;
    const bool alone = position % 2 == 0 && row + 1 == b_.firsts[sequence + 1];
    put(cache, table(sequence)[position / kBlock], position % kBlock, key, value, alone);
  }

  // Rows `from` to `to` of a sequence, for the heads of one KV head.
  template <typename Code>
  void attend_rows(const Layer& layer, const HeadCache<Code>& cache, int64_t sequence, int64_t head, int64_t from,
                   int64_t to) {
    const int64_t d = m_.head_dim, count = (to - from) * group_;
    Query queries[kQueries];
    for (int64_t first = 0; first < count; first += kQueries) {
      const int64_t some = std::min<int64_t>(kQueries, count - first);
      for (int64_t i = 0; i < some; ++i) {
        const int64_t row = from + (first + i) / group_, q = head * group_ + (first + i) % group_;
        queries[i] = {qkv(row) + q * d, attended_.row(row) + q * d, b_.positions[row] + 1};
      }
      modelfleet::attend(some, cache, table(sequence), queries, scratch_);
    }
    if (layer.output.bits < 16)
      for (int64_t row = from; row < to; ++row) round_inputs(attended_, row, head * group_ * d, (head + 1) * group_ * d);
  }

  const Model& m_;
  const Batch& b_;
  Shared& s_;
  Barrier& barrier_;
  const int thread_, threads_;
  const int64_t group_, width_;
  const Rows attended_, activated_;
  Buffer own_;
  Scratch scratch_;
};

}  // namespace modelfleet

extern "C" void modelfleet_forward(const modelfleet::Model* model, const modelfleet::Batch* batch, int threads) {
  using namespace modelfleet;
  static thread_local Shared shared;  // of the engine's thread; grows to the largest step
  const int64_t tokens = batch->tokens, width = (model->heads + 2 * model->kv_heads) * model->head_dim;
  const auto at_least = [](auto& v, size_t size) { if (v.size() < size) v.resize(size); };
  at_least(shared.x, tokens * model->hidden);
  at_least(shared.qkv, tokens * width);
  shared.normed.rows(tokens, model->hidden);
  shared.attended.rows(tokens, model->heads * model->head_dim);
  shared.activated.rows(tokens, model->inner);
  Shared* const common = &shared;
  std::optional<Barrier> barrier;
#pragma omp parallel num_threads(threads)
  {
#pragma omp single
    barrier.emplace(omp_get_num_threads());  // there may be fewer, by a limit of the environment's
    Pass(*model, *batch, *common, *barrier, omp_get_thread_num(), omp_get_num_threads()).run();
  }
}

extern "C" void modelfleet_project(const modelfleet::Linear* weight, const uint16_t* x, int64_t rows, uint16_t* y) {
  using namespace modelfleet;
  static thread_local Buffer buffer;
  const Rows all = buffer.rows(rows, weight->inputs);
  std::memcpy(all.values, x, rows * weight->inputs * sizeof(bf16));
  if (weight->bits < 16)
    for (int64_t r = 0; r < rows; ++r) round_inputs(all, r, 0, weight->inputs);
#pragma omp parallel for schedule(static)
  for (int64_t pair = 0; pair < weight->pairs(); ++pair)
    project(*weight, all, 0, rows, pair,
            [&](int64_t r, int64_t n, __m512 v, __mmask16 mask) { store(y + r * weight->outputs + n, v, mask); });
}
