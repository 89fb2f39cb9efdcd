// One projection, for modules of torch that have a packed weight.
//
// Its threads are torch's own, so that both share one pool: no OpenMP library is linked, and what
// torch has brought into the process is found when it is first needed. Without one, the thread that
// asks computes all.
#pragma once
#include <dlfcn.h>

#include <algorithm>
#include <cstdint>

#include "buffer.h"
#include "projections.h"

namespace modelfleet {

template <typename F>
F find(const char* name) {
  return reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
}

// Calls f(index, count) in each of `count` threads.
template <typename F>
void in_threads(F&& f) {
  using Number = int (*)();
  static const auto parallel = find<void (*)(void (*)(void*), void*, unsigned, unsigned)>("GOMP_parallel");
  static const auto index = find<Number>("omp_get_thread_num");
  static const auto count = find<Number>("omp_get_num_threads");
  if (!parallel || !index || !count) return f(0, 1);
  const auto run = [](void* data) { (*static_cast<F*>(data))(index(), count()); };
  parallel(run, &f, 0, 0);
}

template <typename Y>
void project_all(const Linear* weight, const bf16* x, int64_t rows, Y* y) {
  static thread_local Buffer buffer;
  const Rows all = buffer.rows(rows, weight->inputs);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < weight->inputs; i += kLanes) store(all.row(r) + i, load(x + r * weight->inputs + i));
    if (weight->bits < 16) round_inputs(all, r, 0, weight->inputs);
  }
  in_threads([&](int64_t thread, int64_t threads) {
    const int64_t pairs = weight->pairs();
    for (int64_t pair = pairs * thread / threads; pair < pairs * (thread + 1) / threads; ++pair)
      project(*weight, all, 0, rows, pair, weight->pair(std::min(pair + 1, pairs - 1)), kUnread,
              [&](int64_t r, int64_t n, const Floats& v, Mask mask) { store(y + r * weight->outputs + n, v, mask); });
  });
}

}  // namespace modelfleet
