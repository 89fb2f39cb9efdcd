// Threads that run one job together and synchronize at some hundred barriers.
#pragma once
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <thread>
#include <vector>

#include "vectors.h"

namespace modelfleet {

// A number that only grows, and that threads wait for.
class Counter {
 public:
  uint32_t now() const { return count_.load(std::memory_order_acquire); }

  void advance() {
    count_.fetch_add(1);
    if (sleepers_.load()) futex(FUTEX_WAKE_PRIVATE, std::numeric_limits<int>::max());
  }

  // Until it is no longer `seen`: spins for `keep`, then sleeps.
  void wait(uint32_t seen, std::chrono::microseconds keep) {
    if (keep.count() && spin(seen, keep)) return;
    ++sleepers_;
    while (count_.load() == seen) futex(FUTEX_WAIT_PRIVATE, seen);
    --sleepers_;
  }

  // Until it is at least `count`, which is at most 2^31 away.
  void reach(uint32_t count) {
    for (uint32_t seen; static_cast<int32_t>((seen = now()) - count) < 0;) wait(seen, kBriefly);
  }

 private:
  static constexpr std::chrono::microseconds kBriefly{20};

  bool spin(uint32_t seen, std::chrono::microseconds keep) const {
    const auto end = std::chrono::steady_clock::now() + keep;
    do
      for (int i = 0; i < 64; ++i) {
        if (now() != seen) return true;
        pause();
      }
    while (std::chrono::steady_clock::now() < end);
    return false;
  }
  void futex(int what, uint32_t value) { syscall(SYS_futex, &count_, what, value, nullptr, nullptr, 0); }

  std::atomic<uint32_t> count_{0};
  std::atomic<int> sleepers_{0};
};

class ThreadPool {
 public:
  using Job = std::function<void(int)>;
  static constexpr int kUnfinished = 8;  // jobs at most

  explicit ThreadPool(int size) : size_(size) {
    for (int i = 0; i < size; ++i) threads_.emplace_back([this, i] { serve(i); });
    pin();
  }
  ~ThreadPool() {
    launch(nullptr);
    for (std::thread& thread : threads_) thread.join();
  }

  int size() const { return size_; }

  // Has job(i) called in each thread i, once those launched before have ended. Returns at once,
  // unless there are too many of them.
  void launch(Job job) {
    wait(launched_.now() + 1 - kUnfinished);
    jobs_[launched_.now() % kUnfinished] = std::move(job);
    launched_.advance();
  }

  // Until the first `count` jobs have ended.
  void wait(uint32_t count) {
    for (uint32_t ended; static_cast<int32_t>((ended = ended_.now()) - count) < 0;) ended_.wait(ended, {});
  }

  // Called by all threads inside of a job: returns once all have called it.
  void barrier() {
    const uint32_t seen = barriers_.now();
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
      arrived_.store(0, std::memory_order_relaxed);
      barriers_.advance();
    } else {
      barriers_.wait(seen, kKeep);
    }
  }

 private:
  // How long a thread spins. Once it sleeps, Linux may give its core away for milliseconds, so
  // spinning is cheaper; but not for long, since the other threads may not be running at all.
  static constexpr std::chrono::microseconds kKeep{100};

  void serve(int index) {
    for (uint32_t turn = 0;; ++turn) {
      launched_.wait(turn, {});
      const Job& job = jobs_[turn % kUnfinished];
      if (!job) return;
      job(index);
      barrier();
      if (index == 0) ended_.advance();
    }
  }

  // One core for each thread, if there are exactly as many: two threads on one core would alternate
  // at each barrier.
  void pin() {
    cpu_set_t usable;
    if (sched_getaffinity(0, sizeof usable, &usable) || CPU_COUNT(&usable) != size_) return;
    int cpu = -1;
    for (std::thread& thread : threads_) {
      do ++cpu;
      while (!CPU_ISSET(cpu, &usable));
      cpu_set_t own;
      CPU_ZERO(&own);
      CPU_SET(cpu, &own);
      pthread_setaffinity_np(thread.native_handle(), sizeof own, &own);
    }
  }

  const int size_;
  Counter launched_, barriers_, ended_;
  std::atomic<int> arrived_{0};
  std::array<Job, kUnfinished> jobs_;
  std::vector<std::thread> threads_;
};

}  // namespace modelfleet
