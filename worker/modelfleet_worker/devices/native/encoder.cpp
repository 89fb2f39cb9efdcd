// A BERT encoder: sequences of token ids in, a vector of each out.
//
// A batch is flat: tokens of all sequences one after another, without padding. Threads go through
// `Encoding::run` together and meet at barriers; what they share of a projection is rows where there
// are many, else outputs, so that each weight is read once.
//
// Numbers are float32. Projections multiply them in one of three ways (Arithmetic):
//   kFloats   float32 with fused sums, on any processor
//   kSplit    in three products of bfloat16 by tiles: the numbers' first 8 bits, and their next 8
//   kHalf     in one, of the first 8 bits
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <thread>
#include <vector>

#include "activations.h"
#include "buffer.h"
#include "export.h"
#include "thread_pool.h"
#include "tiles.h"

namespace modelfleet {
namespace {

constexpr int kPanel = 2 * kLanes;                  // outputs whose weights lie together
constexpr int kRows = kWidth == kLanes ? 12 : 6;    // of floats that are multiplied at once,
constexpr int kBlocks = kWidth == kLanes ? 2 : 1;   // and blocks of lanes: what registers hold
constexpr int kTileRows = 2 * kTile;
constexpr int kMany = 64;                           // rows for each thread from which they are shared

enum Arithmetic : int64_t { kFloats, kSplit, kHalf };
enum Pooling : int64_t { kMean, kFirst, kMost, kMeanRoot };  // as in models/encoder.py

}  // namespace

// Weights are float32 [N / 32][K][32], or bfloat16 [N / 32][K / 2][32][2] and what that lacks.
struct Matrix {
  const float* floats;
  const bf16 *half, *rest;
  const float* bias;
  int64_t outputs, inputs;
};

struct AffineNorm {
  const float *weight, *bias;
};

struct EncoderLayer {
  Matrix qkv, output, up, down;
  AffineNorm attention_norm, network_norm;
};

struct EncoderModel {
  int64_t layers, hidden, heads, inner, arithmetic, function, pooling, normalize;
  double eps;
  const float *words, *positions;
  AffineNorm norm;
  const EncoderLayer* layer;
};

struct EncoderBatch {
  int64_t tokens, sequences;
  const int64_t *ids, *firsts;  // [tokens]; [sequences + 1], of each one's rows
  float* vectors;               // [sequences, hidden]
};

namespace {

// Rows that a projection reads: as floats, or as bfloat16 and its rest.
struct Inputs {
  Values<float> floats;
  Values<bf16> half, rest;
  int64_t width = 0;

  void resize(int64_t rows, int64_t size, int64_t arithmetic) {
    width = size;
    const size_t count = (rows + kTileRows) * size;  // tiles read whole ones
    const auto grow = [&](auto& values) {
      if (values.size() < count) values.resize(count);
    };
    if (arithmetic == kFloats) return grow(floats);
    grow(half);
    if (arithmetic == kSplit) grow(rest);
  }

  template <Arithmetic A>
  void put(int64_t row, int64_t at, const Floats& v) {
    const int64_t i = row * width + at;
    if constexpr (A == kFloats) {
      store(floats.data() + i, v);
    } else {
      store(half.data() + i, v);
      if constexpr (A == kSplit) store(rest.data() + i, sub(v, load(half.data() + i)));
    }
  }
};

// Sums of R rows and B blocks of lanes of a panel, from the block `first` on.
template <int R, int B>
inline void sums_of_floats(const float* w, const float* x, int64_t stride, int64_t inputs, int first,
                           Floats (&out)[R][2]) {
  constexpr int N = B * kParts;
  FloatRegister sums[R][N];
  UNROLLED for (int r = 0; r < R; ++r)
    UNROLLED for (int j = 0; j < N; ++j) sums[r][j] = set_register(0.0f);
  w += first * kLanes;
  for (int64_t k = 0; k < inputs; ++k, w += kPanel) {
    FloatRegister weights[N];
    UNROLLED for (int j = 0; j < N; ++j) weights[j] = load_register(w + j * kWidth);
    UNROLLED for (int r = 0; r < R; ++r) {
      const FloatRegister own = set_register(x[r * stride + k]);
      UNROLLED for (int j = 0; j < N; ++j) sums[r][j] = fma(weights[j], own, sums[r][j]);
    }
  }
  UNROLLED for (int r = 0; r < R; ++r)
    UNROLLED for (int j = 0; j < N; ++j) part(out[r][first + j / kParts], j % kParts) = sums[r][j];
}

// Calls out(row, block of the panel, 16 sums) for `count` rows, kRows at most.
template <typename Out>
inline void panel_of_floats(const float* w, const float* x, int64_t stride, int64_t inputs, int64_t count, Out&& out) {
  const auto rows = [&]<int R>() {
    Floats sums[R][2];
    for (int first = 0; first < 2; first += kBlocks) sums_of_floats<R, kBlocks>(w, x, stride, inputs, first, sums);
    for (int r = 0; r < R; ++r)
      for (int b = 0; b < 2; ++b) out(r, b, sums[r][b]);
  };
  switch (count) {
    case 1: return rows.template operator()<1>();
    case 2: return rows.template operator()<2>();
    case 3: return rows.template operator()<3>();
    case 4: return rows.template operator()<4>();
    case 5: return rows.template operator()<5>();
    case 6: return rows.template operator()<6>();
    case 7: if constexpr (kRows > 6) return rows.template operator()<7>();
    case 8: if constexpr (kRows > 6) return rows.template operator()<8>();
    case 9: if constexpr (kRows > 6) return rows.template operator()<9>();
    case 10: if constexpr (kRows > 6) return rows.template operator()<10>();
    case 11: if constexpr (kRows > 6) return rows.template operator()<11>();
    case 12: if constexpr (kRows > 6) return rows.template operator()<12>();
  }
}

// What the threads of a batch share.
struct EncoderShared {
  Values<float> x;    // [tokens, hidden]
  Values<float> qkv;  // [tokens, 3 hidden]
  Inputs normed, attended, activated;
};

// What one thread attends with.
struct AttentionScratch {
  Values<float> keys, values, queries, scores;
};

template <Arithmetic A>
class Encoding {
 public:
  Encoding(const EncoderModel& model, const EncoderBatch& batch, EncoderShared& shared, AttentionScratch& scratch,
           ThreadPool& pool, int thread)
      : m_(model), b_(batch), s_(shared), scratch_(scratch), pool_(pool), thread_(thread), threads_(pool.size()),
        by_rows_(batch.tokens >= kMany * pool.size()), head_dim_(model.hidden / model.heads) {}

  void run() {
    embed();
    pool_.barrier();
    for (int64_t l = 0; l < m_.layers; ++l) {
      const EncoderLayer& layer = m_.layer[l];
      project(layer.qkv, s_.normed, [&](int64_t r, int64_t n, const Floats& v) {
        store(s_.qkv.data() + r * 3 * m_.hidden + n, v);
      });
      pool_.barrier();
      attend();
      pool_.barrier();
      add_projection(layer.output, s_.attended);
      pool_.barrier();
      norm(layer.attention_norm);
      pool_.barrier();
      project(layer.up, s_.normed, [&](int64_t r, int64_t n, const Floats& v) {
        s_.activated.template put<A>(r, n, activation(m_.function, v));
      });
      pool_.barrier();
      add_projection(layer.down, s_.activated);
      pool_.barrier();
      norm(layer.network_norm);
      pool_.barrier();
    }
    pool();
  }

 private:
  float* x(int64_t row) const { return s_.x.data() + row * m_.hidden; }

  std::pair<int64_t, int64_t> share(int64_t count, int64_t step = 1) const {
    const int64_t steps = (count + step - 1) / step;
    return {std::min(steps * thread_ / threads_ * step, count), std::min(steps * (thread_ + 1) / threads_ * step, count)};
  }

  void embed() {
    for (int64_t s = 0; s < b_.sequences; ++s)
      for (int64_t r = b_.firsts[s]; r < b_.firsts[s + 1]; ++r) {
        if (r % threads_ != thread_) continue;
        const float* const word = m_.words + b_.ids[r] * m_.hidden;
        const float* const position = m_.positions + (r - b_.firsts[s]) * m_.hidden;
        for (int64_t i = 0; i < m_.hidden; i += kLanes) store(x(r) + i, add(load(word + i), load(position + i)));
        norm_row(r, m_.norm);
      }
  }

  void norm(const AffineNorm& norm) {
    const auto [from, to] = share(b_.tokens);
    for (int64_t r = from; r < to; ++r) norm_row(r, norm);
  }

  // In place, and as what the next projection reads.
  void norm_row(int64_t r, const AffineNorm& norm) {
    float* const row = x(r);
    Floats total = set(0), squares = set(0);
    for (int64_t i = 0; i < m_.hidden; i += kLanes) total = add(total, load(row + i));
    const float size = static_cast<float>(m_.hidden);
    const Floats mean = set(sum(total) / size);
    for (int64_t i = 0; i < m_.hidden; i += kLanes) {
      const Floats v = sub(load(row + i), mean);
      squares = fma(v, v, squares);
    }
    const Floats factor = set(1.0f / std::sqrt(sum(squares) / size + static_cast<float>(m_.eps)));
    for (int64_t i = 0; i < m_.hidden; i += kLanes) {
      const Floats v = mul(sub(load(row + i), mean), factor);
      const Floats y = fma(v, load(norm.weight + i), load(norm.bias + i));
      store(row + i, y);
      s_.normed.template put<A>(r, i, y);
    }
  }

  void add_projection(const Matrix& w, const Inputs& rows) {
    project(w, rows, [&](int64_t r, int64_t n, const Floats& v) { store(x(r) + n, add(v, load(x(r) + n))); });
  }

  // Calls out(row, first output, 16 sums) for this thread's share of them.
  template <typename Out>
  void project(const Matrix& w, const Inputs& rows, Out&& out) {
    constexpr int64_t kStep = A == kFloats ? kRows : kTileRows;
    constexpr int64_t kChunk = 96;  // rows that stay in a core's cache while weights pass by
    const int64_t panels = w.outputs / kPanel;
    const auto [from, to] = by_rows_ ? share(b_.tokens, kStep) : std::pair<int64_t, int64_t>{0, b_.tokens};
    const auto [first, last] = by_rows_ ? std::pair<int64_t, int64_t>{0, panels} : share(panels);
    for (int64_t chunk = from; chunk < to; chunk += kChunk)
      for (int64_t panel = first; panel < last; ++panel)
        for (int64_t r = chunk; r < std::min(chunk + kChunk, to); r += kStep)
          project_tile(w, rows, r, std::min({kStep, to - r, chunk + kChunk - r}), panel, out);
  }

  template <typename Out>
  void project_tile(const Matrix& w, const Inputs& rows, int64_t row, int64_t count, int64_t panel, Out&& out) {
    const Floats bias[2] = {load(w.bias + panel * kPanel), load(w.bias + panel * kPanel + kLanes)};
    const auto told = [&](int64_t r, int b, const Floats& v) {
      out(row + r, panel * kPanel + b * kLanes, add(v, bias[b]));
    };
    const int64_t at = panel * kPanel * w.inputs, x = row * w.inputs;
    if constexpr (A == kFloats) {
      panel_of_floats(w.floats + at, rows.floats.data() + x, w.inputs, w.inputs, count, told);
    } else {
      alignas(64) float sums[kTileRows * kPanel];
      const bool split = A == kSplit;
      sums_of_tiles(rows.half.data() + x, split ? rows.rest.data() + x : nullptr, w.inputs, w.half + at,
                    split ? w.rest + at : nullptr, w.inputs, sums);
      for (int64_t r = 0; r < count; ++r)
        for (int b = 0; b < 2; ++b) told(r, b, load(sums + r * kPanel + b * kLanes));
    }
  }

  // Each head of each sequence is one thread's; long sequences are dealt out one by one.
  void attend() {
    int64_t dealt = 0;
    for (int64_t s = 0; s < b_.sequences; ++s)
      for (int64_t head = 0; head < m_.heads; ++head, ++dealt)
        if (dealt % threads_ == thread_) attend(b_.firsts[s], b_.firsts[s + 1] - b_.firsts[s], head);
  }

  // Keys become weights of which outputs are tokens, and values those of which inputs are.
  void attend(int64_t first, int64_t length, int64_t head) {
    const int64_t d = head_dim_, width = 3 * m_.hidden, padded = (length + kPanel - 1) / kPanel * kPanel;
    const float* const queries = s_.qkv.data() + first * width + head * d;
    const float *const keys = queries + m_.hidden, *const values = keys + m_.hidden;
    at_least(scratch_.keys, padded * d);
    at_least(scratch_.values, length * d);
    at_least(scratch_.scores, kRows * padded);
    float* const k = scratch_.keys.data();
    float* const v = scratch_.values.data();
    for (int64_t t = 0; t < padded; ++t)
      for (int64_t i = 0; i < d; ++i)
        k[(t / kPanel * d + i) * kPanel + t % kPanel] = t < length ? keys[t * width + i] : 0;
    for (int64_t t = 0; t < length; ++t)
      for (int64_t i = 0; i < d; i += kLanes)
        store(v + (i / kPanel * length + t) * kPanel + i % kPanel, load(values + t * width + i));
    const Floats scale = set(1.0f / std::sqrt(static_cast<float>(d)));
    for (int64_t row = 0; row < length; row += kRows) {
      const int64_t count = std::min<int64_t>(kRows, length - row);
      float* const scores = scratch_.scores.data();
      for (int64_t panel = 0; panel < padded / kPanel; ++panel)
        panel_of_floats(k + panel * kPanel * d, queries + row * width, width, d, count,
                        [&](int64_t r, int b, const Floats& sums) {
                          store(scores + r * padded + panel * kPanel + b * kLanes, mul(sums, scale));
                        });
      for (int64_t r = 0; r < count; ++r) soften(scores + r * padded, length, padded);
      for (int64_t panel = 0; panel < d / kPanel; ++panel)
        panel_of_floats(v + panel * kPanel * length, scores, padded, length, count,
                        [&](int64_t r, int b, const Floats& sums) {
                          s_.attended.template put<A>(first + row + r, head * d + panel * kPanel + b * kLanes, sums);
                        });
    }
  }

  static void soften(float* scores, int64_t length, int64_t padded) {
    for (int64_t t = length; t < padded; ++t) scores[t] = -std::numeric_limits<float>::infinity();
    Floats highest = load(scores), total = set(0);
    for (int64_t t = kLanes; t < padded; t += kLanes) highest = max(highest, load(scores + t));
    const Floats top = set(most(highest));
    for (int64_t t = 0; t < padded; t += kLanes) {
      const Floats e = exponential(sub(load(scores + t), top));
      total = add(total, e);
      store(scores + t, e);
    }
    const Floats inverse = set(1.0f / sum(total));
    for (int64_t t = 0; t < padded; t += kLanes) store(scores + t, mul(load(scores + t), inverse));
  }

  void pool() {
    for (int64_t s = thread_; s < b_.sequences; s += threads_) {
      const int64_t first = b_.firsts[s], length = b_.firsts[s + 1] - first;
      float* const out = b_.vectors + s * m_.hidden;
      Floats squares = set(0);
      for (int64_t i = 0; i < m_.hidden; i += kLanes) {
        const Floats v = pooled(first, length, i);
        squares = fma(v, v, squares);
        store(out + i, v);
      }
      if (!m_.normalize) continue;
      const Floats factor = set(1.0f / std::max(std::sqrt(sum(squares)), 1e-12f));
      for (int64_t i = 0; i < m_.hidden; i += kLanes) store(out + i, mul(load(out + i), factor));
    }
  }

  Floats pooled(int64_t first, int64_t length, int64_t i) const {
    Floats v = load(x(first) + i);
    if (m_.pooling == kFirst) return v;
    for (int64_t r = first + 1; r < first + length; ++r)
      v = m_.pooling == kMost ? max(v, load(x(r) + i)) : add(v, load(x(r) + i));
    if (m_.pooling == kMost) return v;
    const float count = static_cast<float>(length);
    return mul(v, set(1.0f / (m_.pooling == kMeanRoot ? std::sqrt(count) : count)));
  }

  static void at_least(Values<float>& values, size_t size) {
    if (values.size() < size) values.resize(size);
  }

  const EncoderModel& m_;
  const EncoderBatch& b_;
  EncoderShared& s_;
  AttentionScratch& scratch_;
  ThreadPool& pool_;
  const int thread_, threads_;
  const bool by_rows_;
  const int64_t head_dim_;
};

bf16 rounded(float value) {  // to nearest even
  uint32_t bits;
  static_assert(sizeof bits == sizeof value);
  __builtin_memcpy(&bits, &value, sizeof bits);
  return static_cast<bf16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float widened(bf16 value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float wide;
  __builtin_memcpy(&wide, &bits, sizeof wide);
  return wide;
}

}  // namespace

// A model and the threads that compute it. One thread at a time may call it.
class SentenceEncoder {
 public:
  SentenceEncoder(const EncoderModel& model, int threads) : model_(model), scratch_(threads), pool_(threads) {}

  void encode(const EncoderBatch& batch) {
    make_room(batch.tokens);
    pool_.launch([&](int thread) {
      switch (model_.arithmetic) {
        case kSplit: return run_by_tiles<kSplit>(batch, thread);
        case kHalf: return run_by_tiles<kHalf>(batch, thread);
        default: return run<kFloats>(batch, thread);
      }
    });
    pool_.wait(++batches_);
  }

 private:
  template <Arithmetic A>
  void run(const EncoderBatch& batch, int thread) {
    Encoding<A>(model_, batch, shared_, scratch_[thread], pool_, thread).run();
  }

  template <Arithmetic A>
  void run_by_tiles(const EncoderBatch& batch, int thread) {
    const Tiles tiles;
    run<A>(batch, thread);
  }

  void make_room(int64_t tokens) {
    const auto at_least = [](Values<float>& values, size_t size) {
      if (values.size() < size) values.resize(size);
    };
    at_least(shared_.x, tokens * model_.hidden);
    at_least(shared_.qkv, tokens * 3 * model_.hidden);
    shared_.normed.resize(tokens, model_.hidden, model_.arithmetic);
    shared_.attended.resize(tokens, model_.hidden, model_.arithmetic);
    shared_.activated.resize(tokens, model_.inner, model_.arithmetic);
  }

  const EncoderModel model_;
  EncoderShared shared_;  // grows to the largest batch
  std::vector<AttentionScratch> scratch_;
  uint32_t batches_ = 0;
  ThreadPool pool_;
};

}  // namespace modelfleet

MODELFLEET_EXPORT int modelfleet_has_tiles() { return modelfleet::has_tiles(); }

// Lays rows [outputs, inputs] out as a Matrix has them: as floats, or as bfloat16 and its rest (or null).
MODELFLEET_EXPORT void modelfleet_encoder_pack(const float* rows, int64_t outputs, int64_t inputs, float* floats,
                                               uint16_t* half, uint16_t* rest) {
  using modelfleet::kPanel;
  for (int64_t n = 0; n < outputs; ++n)
    for (int64_t k = 0; k < inputs; ++k) {
      const float value = rows[n * inputs + k];
      const int64_t panel = n / kPanel * kPanel * inputs, lane = n % kPanel;
      if (floats) {
        floats[panel + k * kPanel + lane] = value;
        continue;
      }
      const int64_t at = panel + (k / 2 * kPanel + lane) * 2 + k % 2;
      half[at] = modelfleet::rounded(value);
      if (rest) rest[at] = modelfleet::rounded(value - modelfleet::widened(half[at]));
    }
}

MODELFLEET_EXPORT modelfleet::SentenceEncoder* modelfleet_encoder_start(const modelfleet::EncoderModel* model,
                                                                        int threads) {
  return new modelfleet::SentenceEncoder(*model, threads);
}
MODELFLEET_EXPORT void modelfleet_encoder_encode(modelfleet::SentenceEncoder* encoder,
                                                 const modelfleet::EncoderBatch* batch) {
  encoder->encode(*batch);
}
MODELFLEET_EXPORT void modelfleet_encoder_stop(modelfleet::SentenceEncoder* encoder) { delete encoder; }
