// Memory for rows of activations, on lines of the cache.
#pragma once
#include <cstdint>
#include <new>
#include <vector>

#include "projections.h"

namespace modelfleet {

// On lines of the cache: threads that write neighbouring values do not share one, and no vector
// lies across two.
template <typename T>
struct OnLines {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};
  T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kLine)); }
  void deallocate(T* values, size_t) { ::operator delete(values, kLine); }
  friend bool operator==(OnLines, OnLines) { return true; }
};
template <typename T>
using Values = std::vector<T, OnLines<T>>;

struct Buffer {
  Values<Activation> values;
  Values<int8_t> codes;
  Values<int16_t> wide_codes;
  Values<float> scales;
  Values<int32_t> sums;
  Rows rows(int64_t count, int64_t inputs) {
    const size_t size = count * inputs;
    if (values.size() < size) {
      values.resize(size);
      codes.resize(size);
      if (kWideCodes) wide_codes.resize(size);
      scales.resize(size / kStep);
      sums.resize(size / kStep);
    }
    return {values.data(), codes.data(), wide_codes.data(), scales.data(), sums.data(), inputs};
  }
};

}  // namespace modelfleet
