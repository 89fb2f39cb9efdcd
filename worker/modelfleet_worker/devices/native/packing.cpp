// Lays weights out for the step, straight from the bytes of a checkpoint: bfloat16, float16 or float32
// as they are stored, rounded on the way where 8 or 4 bits are asked for, or codes that were rounded
// before. projections.h has the layout of projections; embeddings and norms are rows of bfloat16.
// Plain C++: memory sets the pace.
//
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "export.h"

namespace modelfleet {
namespace {

constexpr int kPairLanes = 32;  // outputs that lie side by side
constexpr int kLanes = 16;      // of a block of scales

enum Type : int64_t { kBFloat16, kFloat16, kFloat32, kCodes };

}  // namespace

// As in packed.py. Some outputs of a projection, [outputs, inputs] row by row.
struct StoredPart {
  const void* rows;
  int64_t outputs, type;  // kCodes: int8, rounded already
};

// As in packed.py. Where scales are given with the codes, those and the zeros are not written.
struct Packing {
  const StoredPart* parts;
  int64_t num_parts;
  int64_t bits, group, inputs, outputs, symmetric;  // bits 0: rows of bfloat16 as they come
  void* codes;
  float* scales;   // [N / 16][G][16]
  int32_t* zeros;  // likewise, of the unsigned codes; null if symmetric
};

namespace {

float as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

uint16_t to_bfloat16(float value) {  // to nearest even
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t up = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return value == value ? static_cast<uint16_t>(up) : 0x7fc0;
}

// Compilers before GCC 12 have no type for it.
float from_float16(uint16_t bits) {
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fff) << 13;
  const bool finite = (bits & 0x7c00) != 0x7c00;
  const float value = finite ? as_float(magnitude) * 0x1p112f : as_float(magnitude | 0x7f800000);
  return bits & 0x8000 ? -value : value;
}

float from_bfloat16(uint16_t bits) { return as_float(static_cast<uint32_t>(bits) << 16); }

// Between -2^22 and 2^22, to nearest even.
float rounded(float value) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: of what is added to it, no fraction is left
  return (value + kMagic) - kMagic;
}

float bounded(float value, float low, float high) {  // not a number is `low`
  const float least = value > low ? value : low;
  return least < high ? least : high;
}

// A float32 that is a bfloat16, and not 0.
float scale_of(float value) {
  const float scale = from_bfloat16(to_bfloat16(value));
  return scale > 0 ? scale : 1.0f;
}

// Rounds the inputs that share a scale, as quantization/weights.py does it, to unsigned codes.
class Rounding {
 public:
  Rounding(int64_t bits, bool symmetric) : bits_(bits), symmetric_(symmetric) {}

  void round(const uint16_t* values, int64_t count, uint8_t* codes, float& scale, int32_t& zero) const {
    const float middle = static_cast<float>(1 << (bits_ - 1)), low = -middle, high = middle - 1;
    float shift = 0;
    if (symmetric_) {
      scale = scale_of(from_bfloat16(most(values, count)) / (bits_ == 8 ? high : high + 0.5f));
    } else {
      const auto [least, greatest] = range(values, count);
      scale = scale_of((greatest - least) / (high - low));
      shift = bounded(rounded(low - least / scale), low, high);
    }
    zero = static_cast<int32_t>(shift + middle);
    for (int64_t i = 0; i < count; ++i) {
      const float code = bounded(rounded(from_bfloat16(values[i]) / scale) + shift, low, high);
      codes[i] = static_cast<uint8_t>(static_cast<int32_t>(code + middle));
    }
  }

 private:
  // Magnitudes of bfloat16 are in the order of their bits.
  static uint16_t most(const uint16_t* values, int64_t count) {
    uint16_t found = 0;
    for (int64_t i = 0; i < count; ++i) found = std::max<uint16_t>(found, values[i] & 0x7fff);
    return found;
  }

  // Of the values and 0.
  static std::pair<float, float> range(const uint16_t* values, int64_t count) {
    int16_t least = 0, greatest = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int16_t bits = static_cast<int16_t>(values[i]);
      const int16_t ordered = static_cast<int16_t>(bits ^ ((bits >> 15) & 0x7fff));
      least = std::min(least, ordered);
      greatest = std::max(greatest, ordered);
    }
    const auto value = [](int16_t ordered) {
      return from_bfloat16(static_cast<uint16_t>(ordered ^ ((ordered >> 15) & 0x7fff)));
    };
    return {value(least), value(greatest)};
  }

  const int64_t bits_;
  const bool symmetric_;
};

// One pair of blocks at a time; each thread has one of its own.
class Packer {
 public:
  void pack(const Packing& p, int64_t pair) {
    values_.resize(p.inputs);
    if (p.bits == 0) return copy(p, pair * kPairLanes, std::min<int64_t>(p.outputs, (pair + 1) * kPairLanes));
    const int64_t words = p.inputs * p.bits / 32;
    const uint32_t* rows[kPairLanes];
    codes_.resize(p.inputs);
    words_.resize(kPairLanes * words);
    for (int lane = 0; lane < kPairLanes; ++lane) {
      const int64_t output = pair * kPairLanes + lane;
      rows[lane] = words_.data() + lane * words;
      if (output < p.outputs) {
        rows[lane] = row(p, output, words_.data() + lane * words);
      } else {
        std::fill_n(words_.data() + lane * words, words, 0);
        if (!given(p)) set_scales(p, output, [](int64_t) { return std::pair<float, int32_t>{0, 0}; });
      }
    }
    transpose(rows, words, static_cast<uint32_t*>(p.codes) + pair * kPairLanes * words);
  }

 private:
  void copy(const Packing& p, int64_t from, int64_t to) {
    uint16_t* const out = static_cast<uint16_t*>(p.codes);
    for (int64_t row = from; row < to; ++row)
      std::memcpy(out + row * p.inputs, bfloat16(p.parts[0], row, p.inputs), p.inputs * sizeof(uint16_t));
  }

  static bool given(const Packing& p) { return p.bits == 16 || p.parts[0].type == kCodes; }

  // A row in words of 32 bits, as its lane holds them one after another.
  const uint32_t* row(const Packing& p, int64_t output, uint32_t* words) {
    const StoredPart* part = p.parts;
    int64_t own = output;
    for (; own >= part->outputs; ++part) own -= part->outputs;
    if (part->type == kCodes) {
      const int8_t* codes = static_cast<const int8_t*>(part->rows) + own * p.inputs;
      const int middle = 1 << (p.bits - 1);
      for (int64_t i = 0; i < p.inputs; ++i) codes_[i] = static_cast<uint8_t>(codes[i] + middle);
      return joined(p, words);
    }
    const uint16_t* values = bfloat16(*part, own, p.inputs);
    if (p.bits == 16) return copied(values, p.inputs, words);
    const Rounding rounding(p.bits, p.symmetric);
    set_scales(p, output, [&](int64_t group) {
      float scale;
      int32_t zero;
      rounding.round(values + group * p.group, p.group, codes_.data() + group * p.group, scale, zero);
      return std::pair{scale, zero};
    });
    return joined(p, words);
  }

  // `of(group)` is a scale and a zero.
  template <typename F>
  static void set_scales(const Packing& p, int64_t output, F&& of) {
    const int64_t groups = p.inputs / p.group, block = output / kLanes, lane = output % kLanes;
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t at = (block * groups + group) * kLanes + lane;
      const auto [scale, zero] = of(group);
      p.scales[at] = scale;
      if (p.zeros) p.zeros[at] = zero;
    }
  }

  const uint16_t* bfloat16(const StoredPart& part, int64_t row, int64_t inputs) {
    const int64_t first = row * inputs;
    if (part.type == kBFloat16) return static_cast<const uint16_t*>(part.rows) + first;
    if (part.type == kFloat16) {
      const uint16_t* values = static_cast<const uint16_t*>(part.rows) + first;
      for (int64_t i = 0; i < inputs; ++i) values_[i] = to_bfloat16(from_float16(values[i]));
    } else {
      const float* values = static_cast<const float*>(part.rows) + first;
      for (int64_t i = 0; i < inputs; ++i) values_[i] = to_bfloat16(values[i]);
    }
    return values_.data();
  }

  // Where they lie, if nothing else is written there meanwhile.
  const uint32_t* copied(const uint16_t* values, int64_t inputs, uint32_t* words) const {
    if (values != values_.data() && reinterpret_cast<uintptr_t>(values) % alignof(uint32_t) == 0)
      return reinterpret_cast<const uint32_t*>(values);
    std::memcpy(words, values, inputs * sizeof(uint16_t));
    return words;
  }

  // The codes of a row, of 4 bits two in a byte: of each 8 inputs the first 4 are the low halves.
  const uint32_t* joined(const Packing& p, uint32_t* words) const {
    if (p.bits == 8) {
      std::memcpy(words, codes_.data(), p.inputs);
      return words;
    }
    uint8_t* bytes = reinterpret_cast<uint8_t*>(words);
    for (int64_t i = 0; i < p.inputs; i += 8)
      for (int j = 0; j < 4; ++j)
        bytes[i / 2 + j] = static_cast<uint8_t>(codes_[i + j] | (codes_[i + 4 + j] << 4));
    return words;
  }

  static void transpose(const uint32_t* const* rows, int64_t words, uint32_t* out) {
    constexpr int64_t kLine = 16;  // words
    for (int64_t from = 0; from < words; from += kLine) {
      const int64_t some = std::min(kLine, words - from);
      for (int lane = 0; lane < kPairLanes; ++lane)
        for (int64_t i = 0; i < some; ++i) out[(from + i) * kPairLanes + lane] = rows[lane][from + i];
    }
  }

  std::vector<uint16_t> values_;
  std::vector<uint8_t> codes_;
  std::vector<uint32_t> words_;
};

}  // namespace
}  // namespace modelfleet

// Packs projections, pair by pair, by as many threads.
MODELFLEET_EXPORT void modelfleet_pack(const modelfleet::Packing* all, int64_t count, int threads) {
  std::vector<int64_t> ends;
  int64_t total = 0;
  for (int64_t i = 0; i < count; ++i) {
    total += (all[i].outputs + modelfleet::kPairLanes - 1) / modelfleet::kPairLanes;
    ends.push_back(total);
  }
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    modelfleet::Packer packer;
    for (int64_t unit; (unit = next.fetch_add(1)) < total;) {
      const auto end = std::upper_bound(ends.begin(), ends.end(), unit);
      packer.pack(all[end - ends.begin()], unit - (end == ends.begin() ? 0 : *(end - 1)));
    }
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(work);
  work();
  for (auto& other : others) other.join();
}
