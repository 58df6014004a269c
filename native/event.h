// What the engine tells JavaScript: 32-byte little-endian records, drained in batches.
// Two rings (real-time thread, I/O thread) feed one notification; the control thread drains both.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "queue.h"

namespace tandem {

/// Index in the low 20 bits, generation above: 52 bits, exact in a double. 0 = none.
using Handle = uint64_t;

constexpr uint32_t kHandleIndexBits = 20;
constexpr uint32_t handle_index(Handle handle) {
  return static_cast<uint32_t>(handle & ((1u << kHandleIndexBits) - 1));
}
constexpr Handle make_handle(uint32_t index, uint32_t generation) {
  return (static_cast<Handle>(generation) << kHandleIndexBits) | index;
}

/// Objects with a handle that one engine can have at a time.
constexpr uint32_t kObjectsMax = 1 << 16;

enum class EventType : uint32_t {
  kDigit = 1,        // a = key index in "0123456789*#ABCD", b = durationMs * 2 + (1 when in-band)
  kPlayDone = 2,     // a = DoneReason of a player, b = played ms
  kRecordDone = 3,   // a = RecordReason, b = duration ms of the file
  kFirstPacket = 4,  // first RTP packet accepted on the port
  kSilent = 5,       // a = ms without RTP
  kActive = 6,       // RTP again after kSilent
  kLatched = 7,      // the peer's address is learnt and locked
};

enum class PlayReason : uint8_t { kFinished = 0, kStopped = 1, kFailed = 2 };
enum class RecordReason : uint8_t {
  kStopped = 0,
  kMaxLength = 1,
  kSilence = 2,
  kFailed = 3,
  kPortClosed = 4,
};

struct EventRecord {
  uint32_t type = 0;
  uint32_t reserved = 0;
  double handle = 0;
  double a = 0;
  double b = 0;
};
static_assert(sizeof(EventRecord) == 32);

/// Whoever waits for one of these waits for ever when it is lost.
constexpr bool must_arrive(EventType type) {
  return type == EventType::kDigit || type == EventType::kPlayDone ||
         type == EventType::kRecordDone;
}

/// One producer thread's way out. Several rings share the `pending` flag and the notification.
///
/// A consumer that is stuck must neither grow memory nor lose what must arrive. So a quarter of
/// the ring is kept for that, and what finds even this full waits, in order, in room reserved at
/// construction. Every player and recorder ends once and keeps its handle until that was drained:
/// `objects_max` of them can never be too many. Digits have room of their own beside it.
class EventRing {
 public:
  EventRing(uint32_t capacity, uint32_t objects_max, std::atomic<bool>& pending,
            const std::function<void()>& notify)
      : ring_(capacity), digits_max_(capacity), pending_(pending), notify_(notify) {
    waiting_.reserve(size_t{capacity} + objects_max);
  }

  /// Producer thread. What need not arrive is dropped, and counted, when the consumer is behind.
  void post(EventType type, Handle handle, double a = 0, double b = 0) {
    const EventRecord record{static_cast<uint32_t>(type), 0, static_cast<double>(handle), a, b};
    const uint64_t kept = must_arrive(type) ? 0 : ring_.capacity() / 4;
    if (waited() == 0 && ring_.room() > kept) {
      ring_.push(record);
      is_dirty_ = true;
      return;
    }
    const bool is_digit = type == EventType::kDigit;
    const bool has_room = is_digit ? waiting_digits_ < digits_max_ : waited() < waiting_.capacity();
    if (!must_arrive(type) || !has_room) {
      dropped_.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    if (is_digit) waiting_digits_++;
    if (waiting_.size() == waiting_.capacity()) {
      waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<long>(next_waiting_));
      next_waiting_ = 0;
    }
    waiting_.push_back(record);
  }

  /// Producer thread, once per turn of its loop: at most one wake-up however many were posted.
  void flush() {
    while (waited() > 0 && ring_.push(waiting_[next_waiting_])) {
      const auto type = static_cast<EventType>(waiting_[next_waiting_++].type);
      if (type == EventType::kDigit) waiting_digits_--;
      is_dirty_ = true;
    }
    if (waited() == 0) {
      waiting_.clear();
      next_waiting_ = 0;
    }
    if (!is_dirty_) return;
    is_dirty_ = false;
    if (!pending_.exchange(true, std::memory_order_acq_rel)) notify_();
  }

  /// Producer thread: some wait for the consumer to make room; `flush` again soon.
  bool is_behind() const { return waited() > 0; }

  /// Consumer thread.
  bool pop(EventRecord& out) { return ring_.pop(out); }
  uint64_t dropped() const { return dropped_.load(std::memory_order_relaxed); }

 private:
  size_t waited() const { return waiting_.size() - next_waiting_; }

  SpscRing<EventRecord> ring_;
  uint32_t digits_max_;
  std::vector<EventRecord> waiting_;  // from next_waiting_ on; never grows past its reserve
  size_t next_waiting_ = 0;
  uint32_t waiting_digits_ = 0;
  std::atomic<bool>& pending_;
  const std::function<void()>& notify_;
  std::atomic<uint64_t> dropped_{0};
  bool is_dirty_ = false;
};

}  // namespace tandem
