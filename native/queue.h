// Lock-free single-producer single-consumer ring, and a cell one thread writes and another reads
// whole. These are the only ways the real-time thread meets another thread.
// Contract: exactly one thread pushes and one pops; capacity is fixed at construction, so neither
// side allocates. A full ring refuses: the caller decides what a refusal means.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

namespace tandem {

template <typename T>
class SpscRing {
 public:
  /// `capacity` is rounded up to a power of two.
  explicit SpscRing(uint32_t capacity)
      : slots_(std::bit_ceil(capacity)), mask_(slots_.size() - 1) {}

  /// Producer. Leaves `value` untouched when the ring is full.
  bool push(T&& value) {
    const uint64_t tail = tail_.load(std::memory_order_relaxed);
    if (tail - head_.load(std::memory_order_acquire) > mask_) return false;
    slots_[tail & mask_] = std::move(value);
    tail_.store(tail + 1, std::memory_order_release);
    return true;
  }
  bool push(const T& value) {
    T copy = value;
    return push(std::move(copy));
  }

  /// Consumer.
  bool pop(T& out) {
    const uint64_t head = head_.load(std::memory_order_relaxed);
    if (head == tail_.load(std::memory_order_acquire)) return false;
    out = std::move(slots_[head & mask_]);
    head_.store(head + 1, std::memory_order_release);
    return true;
  }

  /// Either side: how many are waiting (exact for the caller's own side).
  uint64_t size() const {
    const uint64_t head = head_.load(std::memory_order_acquire);
    return tail_.load(std::memory_order_acquire) - head;
  }
  uint64_t capacity() const { return slots_.size(); }
  uint64_t room() const { return slots_.size() - size(); }
  bool empty() const { return size() == 0; }

 private:
  std::vector<T> slots_;
  const uint64_t mask_;
  alignas(64) std::atomic<uint64_t> head_{0};
  alignas(64) std::atomic<uint64_t> tail_{0};
};

/// One writer, any reader, whole values, no lock: a sequence lock whose words are atomics, so that
/// it is defined behaviour (and ThreadSanitizer agrees). Writing costs plain stores on x86.
template <typename T>
class SnapshotCell {
  static_assert(std::is_trivially_copyable_v<T>);
  static constexpr size_t kWords = (sizeof(T) + 7) / 8;

 public:
  void store(const T& value) {
    std::array<uint64_t, kWords> raw{};
    std::memcpy(raw.data(), &value, sizeof(T));
    const uint32_t version = version_.load(std::memory_order_relaxed);
    version_.store(version + 1, std::memory_order_relaxed);
    for (size_t i = 0; i < kWords; i++) words_[i].store(raw[i], std::memory_order_release);
    version_.store(version + 2, std::memory_order_release);
  }

  T load() const {
    std::array<uint64_t, kWords> raw{};
    for (;;) {
      const uint32_t before = version_.load(std::memory_order_acquire);
      for (size_t i = 0; i < kWords; i++) raw[i] = words_[i].load(std::memory_order_acquire);
      if ((before & 1) == 0 && version_.load(std::memory_order_relaxed) == before) break;
    }
    T out;
    std::memcpy(static_cast<void*>(&out), raw.data(), sizeof(T));
    return out;
  }

 private:
  std::atomic<uint32_t> version_{0};
  std::array<std::atomic<uint64_t>, kWords> words_{};
};

}  // namespace tandem
