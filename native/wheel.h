// The timer wheel of one real-time thread: 5 ms slots, four of them one 20 ms frame. Each ticking
// object lives in one slot (its phase) and is called once a frame, so that the work of many legs
// is spread and each leg is served just after its own packets arrive.
// Real-time thread only; no allocation after construction.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace tandem {

constexpr int64_t kSlotUs = 5'000;
constexpr uint32_t kPhases = 4;
constexpr int64_t kFrameUs = kSlotUs * kPhases;

template <typename T>
class Wheel {
 public:
  explicit Wheel(uint32_t capacity) {
    for (auto& phase : phases_) phase.reserve(capacity);
  }

  void start(int64_t now_us) { next_slot_ = now_us / kSlotUs + 1; }
  int64_t next_us() const { return next_slot_ * kSlotUs; }
  bool empty() const { return count_ == 0; }

  /// The phase with the fewest members, for one whose packets have not been seen.
  uint32_t lightest() const {
    uint32_t best = 0;
    for (uint32_t i = 1; i < kPhases; i++) {
      if (phases_[i].size() < phases_[best].size()) best = i;
    }
    return best;
  }

  /// The phase whose slot comes at least `kMarginUs` after a packet that arrives at `arrival_us`.
  static uint32_t after(int64_t arrival_us) {
    return static_cast<uint32_t>(((arrival_us + kMarginUs) / kSlotUs + 1) % kPhases);
  }

  void add(T* member, uint32_t phase) {
    phases_[phase % kPhases].push_back(member);
    count_++;
  }

  void remove(T* member, uint32_t phase) {
    auto& list = phases_[phase % kPhases];
    for (size_t i = 0; i < list.size(); i++) {
      if (list[i] != member) continue;
      list[i] = list.back();
      list.pop_back();
      count_--;
      return;
    }
  }

  /// Calls `tick(member, slot time)` for every slot due. After a stall longer than kCatchUpSlots
  /// the rest is skipped: late audio helps nobody, and senders see the time that has passed.
  template <typename Tick>
  void advance(int64_t now_us, Tick&& tick) {
    const int64_t due = now_us / kSlotUs;
    if (due - next_slot_ > kCatchUpSlots) next_slot_ = due - kCatchUpSlots;
    for (; next_slot_ <= due; next_slot_++) {
      auto& list = phases_[static_cast<uint32_t>(next_slot_ % kPhases)];
      for (size_t i = 0; i < list.size(); i++) tick(list[i], next_slot_ * kSlotUs);
    }
  }

 private:
  static constexpr int64_t kMarginUs = 1'000;
  static constexpr int64_t kCatchUpSlots = 3 * kPhases;

  std::array<std::vector<T*>, kPhases> phases_;
  int64_t next_slot_ = 0;
  uint32_t count_ = 0;
};

}  // namespace tandem
