// 16 lanes as several registers: operations of one register applied to each part. See vectors.h.
#pragma once
#include <cstddef>
#include <utility>

namespace modelfleet {

struct Floats {
  FloatRegister part[kParts];
};
struct Ints {
  IntRegister part[kParts];
};

inline FloatRegister& part(Floats& v, int p) { return v.part[p]; }
inline const FloatRegister& part(const Floats& v, int p) { return v.part[p]; }

template <size_t... P, typename F>
inline Floats floats_of(std::index_sequence<P...>, F&& f) {
  return {{f(static_cast<int>(P))...}};
}
template <size_t... P, typename F>
inline Ints ints_of(std::index_sequence<P...>, F&& f) {
  return {{f(static_cast<int>(P))...}};
}
template <typename F>
inline Floats each_float(F&& f) {
  return floats_of(std::make_index_sequence<kParts>(), f);
}
template <typename F>
inline Ints each_int(F&& f) {
  return ints_of(std::make_index_sequence<kParts>(), f);
}

inline Floats set(float x) {
  return each_float([=](int) { return set_register(x); });
}
inline Floats load(const float* x) {
  return each_float([=](int p) { return load_register(x + p * kWidth); });
}
inline Floats load(const bf16* x) {
  return each_float([=](int p) { return load_register(x + p * kWidth); });
}
inline void store(float* y, const Floats& value) {
  for (int p = 0; p < kParts; ++p) store_register(y + p * kWidth, value.part[p]);
}
inline void store(bf16* y, const Floats& value) {
  for (int p = 0; p < kParts; ++p) store_register(y + p * kWidth, value.part[p]);
}
// Lanes outside of a mask are neither read nor written. Masks that are not full are rare: not inline,
// or the loops around them would not be unrolled.
template <typename T>
[[gnu::noinline, gnu::cold]] Floats load_some(const T* x, Mask mask) {
  T some[kLanes] = {};
  for (int i = 0; i < kLanes; ++i)
    if (mask >> i & 1) some[i] = x[i];
  return load(some);
}
template <typename T>
[[gnu::noinline, gnu::cold]] void store_some(T* y, const Floats& value, Mask mask) {
  T some[kLanes];
  store(some, value);
  for (int i = 0; i < kLanes; ++i)
    if (mask >> i & 1) y[i] = some[i];
}
template <typename T>
inline Floats load(const T* x, Mask mask) {
  return mask == 0xffff ? load(x) : load_some(x, mask);
}
template <typename T>
inline void store(T* y, const Floats& value, Mask mask) {
  mask == 0xffff ? store(y, value) : store_some(y, value, mask);
}

#define MODELFLEET_EACH(name)                                                      \
  inline Floats name(const Floats& a, const Floats& b) {                           \
    return each_float([&](int p) { return name(a.part[p], b.part[p]); });          \
  }
MODELFLEET_EACH(add)
MODELFLEET_EACH(sub)
MODELFLEET_EACH(mul)
MODELFLEET_EACH(div)
MODELFLEET_EACH(max)
#undef MODELFLEET_EACH
#define MODELFLEET_EACH(name)                                                             \
  inline Floats name(const Floats& a, const Floats& b, const Floats& c) {                 \
    return each_float([&](int p) { return name(a.part[p], b.part[p], c.part[p]); });      \
  }
MODELFLEET_EACH(fma)
MODELFLEET_EACH(fms)
MODELFLEET_EACH(fnma)
#undef MODELFLEET_EACH

inline Floats abs(const Floats& a) {
  return each_float([&](int p) { return abs(a.part[p]); });
}
inline Floats nearest(const Floats& a) {
  return each_float([&](int p) { return nearest(a.part[p]); });
}
inline Floats mul_or(const Floats& otherwise, Mask mask, const Floats& a, const Floats& b) {
  return each_float([&](int p) {
    return select(mask >> p * kWidth, mul(a.part[p], b.part[p]), otherwise.part[p]);
  });
}
// p * 2^n where x is not below the bound, else 0.
inline Floats times_power(const Floats& value, const Floats& n, const Floats& x, float bound) {
  return each_float([&](int p) { return times_power(value.part[p], n.part[p], x.part[p], bound); });
}

inline Ints to_ints(const Floats& a) {
  return each_int([&](int p) { return to_ints(a.part[p]); });
}
inline Ints add(const Ints& a, const Ints& b) {
  return each_int([&](int p) { return add(a.part[p], b.part[p]); });
}

}  // namespace modelfleet
