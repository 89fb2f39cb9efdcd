// Prints a line for each kind of weights and cache: a checksum of the logits that the step computes for
// a small model of fixed random weights. Built for several sets of instructions, and run in emulators.
#include <cstdio>
#include <cstring>
#include <vector>

#include "forward.cpp"

using namespace modelfleet;

namespace {

uint64_t state = 1;
uint32_t random_bits() {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return state >> 33;
}
float random_value(float scale) { return (static_cast<float>(random_bits() % 4001) - 2000) / 2000 * scale; }
bf16 to_bits(float value) {  // cut off: what is lost does not matter here
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits >> 16;
}

constexpr int64_t kLayers = 3, kHidden = 96, kHeads = 6, kKvHeads = 2, kDim = 32, kInner = 160, kVocab = 97, kExperts = 5;
constexpr int64_t kTokens = 37, kBlocks = 8;

struct Weight {
  std::vector<bf16> plain, bias;
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  std::vector<int32_t> zeros;
  Linear linear;
  Weight(int64_t outputs, int64_t inputs, int64_t bits, int64_t group) {
    const int64_t padded = (outputs + 31) / 32 * 32;
    linear = {nullptr, nullptr, nullptr, nullptr, bits, group ? group : inputs, outputs, inputs};
    if (bits == 16) {
      for (int64_t i = 0; i < padded * inputs; ++i) plain.push_back(to_bits(random_value(0.2f)));
      linear.codes = plain.data();
    } else {
      for (int64_t i = 0; i < padded * inputs * bits / 8; ++i) codes.push_back(random_bits());
      for (int64_t i = 0; i < padded * (inputs / linear.group); ++i) {
        scales.push_back(0.2f / (1 << bits) + random_value(0.0005f));
        zeros.push_back((1 << (bits - 1)) + random_bits() % 5 - 2);
      }
      linear.codes = codes.data();
      linear.scales = scales.data();
      if (group) linear.zeros = zeros.data();
    }
    for (int64_t i = 0; i < outputs; ++i) bias.push_back(to_bits(random_value(0.1f)));
    linear.bias = bias.data();
  }
};

std::vector<bf16> norm(int64_t size) {
  std::vector<bf16> values;
  for (int64_t i = 0; i < size; ++i) values.push_back(to_bits(1 + random_value(0.3f)));
  return values;
}

uint64_t checksum(int64_t bits, int64_t group, bool int8_cache) {
  state = 1;
  std::vector<Weight> weights;
  std::vector<std::vector<bf16>> norms;
  std::vector<Layer> layers;
  weights.reserve(64);
  const auto add = [&](int64_t outputs, int64_t inputs) { return weights.emplace_back(outputs, inputs, bits, group).linear; };
  const auto add_norm = [&](int64_t size) { return norms.emplace_back(norm(size)).data(); };
  norms.reserve(64);
  std::vector<float> cosines, sines;
  for (int64_t i = 0; i < 64 * kDim / 2; ++i) {
    cosines.push_back(random_value(1));
    sines.push_back(random_value(1));
  }
  std::vector<Expert> networks;  // the last one is shared, and narrower
  for (int64_t i = 0; i <= kExperts; ++i) {
    const int64_t inner = i < kExperts ? 64 : 32;
    const Linear gate_up = add(2 * inner, kHidden);
    networks.push_back({gate_up, add(kHidden, inner)});
  }
  const Linear router = weights.emplace_back(kExperts + 1, kHidden, 16, 0).linear;
  const Experts experts{.router = router, .expert = networks.data(), .count = kExperts, .chosen = 2, .shared = 1,
                        .normalized = bits == 8, .rounded = bits < 16};
  for (int64_t l = 0; l < kLayers; ++l) {
    Layer layer{.input_norm = add_norm(kHidden), .network_norm = add_norm(kHidden), .query_norm = add_norm(kDim),
                .key_norm = add_norm(kDim), .window = l ? 20 : 0, .cosines = cosines.data(), .sines = sines.data()};
    layer.qkv = add((kHeads + 2 * kKvHeads) * kDim, kHidden);
    layer.output = add(kHidden, kHeads * kDim);
    if (l == 1) {
      layer.experts = &experts;
    } else {
      layer.gate_up = add(2 * kInner, kHidden);
      layer.down = add(kHidden, kInner);
    }
    layers.push_back(layer);
  }
  std::vector<bf16> embeddings = norm(kVocab * kHidden);
  const int64_t vectors = 2 * kLayers * kBlocks * kKvHeads * kBlock;
  std::vector<bf16> cache(vectors * kDim);
  std::vector<float> cache_scales(vectors);
  const bf16* const last_norm = add_norm(kHidden);
  const Model model{.layers = kLayers, .hidden = kHidden, .heads = kHeads, .kv_heads = kKvHeads, .head_dim = kDim,
                    .inner = kInner, .vocab = kVocab, .blocks = kBlocks, .rotary = kDim, .eps = 1e-5,
                    .embedding_scale = 1, .residual_scale = 1, .attention_scale = 0.17677669, .logit_scale = 1,
                    .embeddings = embeddings.data(), .norm = last_norm, .layer = layers.data(),
                    .head = add(kVocab, kHidden), .cache = cache.data(),
                    .cache_scales = int8_cache ? cache_scales.data() : nullptr};
  Stepper stepper(model, 2);
  std::vector<float> logits;
  // Two sequences: a chunk of a prompt, then its tokens beside another prompt, one by one.
  int64_t done = 0, step = 0;
  for (const int64_t count : {20, 1, 1, 15}) {
    std::vector<int64_t> ids, positions, owners, firsts{0}, starts, tables, rows;
    for (int64_t sequence = 0; sequence < (step ? 2 : 1); ++sequence) {
      const int64_t from = sequence ? step - 1 : done, some = sequence ? 1 : count;
      for (int64_t i = from; i < from + some; ++i) {
        ids.push_back((i * 31 + sequence * 7) % kVocab);
        positions.push_back(i);
        owners.push_back(sequence);
        rows.push_back(rows.size());
      }
      firsts.push_back(ids.size());
      starts.push_back(tables.size());
      for (int64_t b = 0; b < 3; ++b) tables.push_back(sequence * 4 + b);
    }
    const size_t at = logits.size();
    logits.resize(at + rows.size() * kVocab);
    std::vector<int64_t> drawn(rows.size());
    const Batch batch{static_cast<int64_t>(ids.size()), step ? 2 : 1, static_cast<int64_t>(rows.size()), ids.data(),
                      positions.data(), owners.data(), firsts.data(), starts.data(), tables.data(), rows.data(), nullptr,
                      nullptr, logits.data() + at, drawn.data()};
    stepper.launch(batch);
    stepper.wait(++step);
    done += count;
  }
  uint64_t sum = 1469598103934665603u;
  for (const float value : logits) {
    uint32_t word;
    std::memcpy(&word, &value, 4);
    sum = (sum ^ word) * 1099511628211u;
    if (value != value) return 0;
  }
  return sum;
}

}  // namespace

int main() {
  for (const bool int8_cache : {false, true})
    for (const auto [bits, group] : {std::pair{16, 0}, {8, 0}, {8, 32}, {4, 0}, {4, 32}})
      std::printf("%d bits, group %d, %s cache: %016llx\n", bits, group, int8_cache ? "int8" : "bfloat16",
                  static_cast<unsigned long long>(checksum(bits, group, int8_cache)));
}
