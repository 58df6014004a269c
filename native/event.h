// What the engine tells JavaScript: 32-byte little-endian records, drained in batches.
// Two rings (real-time thread, I/O thread) feed one notification; the control thread drains both.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

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

/// One producer thread's way out. Several rings share the `pending` flag and the notification.
class EventRing {
 public:
  EventRing(uint32_t capacity, std::atomic<bool>& pending, const std::function<void()>& notify)
      : ring_(capacity), pending_(pending), notify_(notify) {}

  /// Producer thread. A full ring drops and counts: the consumer is stuck, memory must not grow.
  void post(EventType type, Handle handle, double a = 0, double b = 0) {
    EventRecord record{static_cast<uint32_t>(type), 0, static_cast<double>(handle), a, b};
    if (ring_.push(record)) {
      dirty_ = true;
    } else {
      dropped_.fetch_add(1, std::memory_order_relaxed);
    }
  }

  /// Producer thread, once per turn of its loop: at most one wake-up however many were posted.
  void flush() {
    if (!dirty_) return;
    dirty_ = false;
    if (!pending_.exchange(true, std::memory_order_acq_rel)) notify_();
  }

  /// Consumer thread.
  bool pop(EventRecord& out) { return ring_.pop(out); }
  uint64_t dropped() const { return dropped_.load(std::memory_order_relaxed); }

 private:
  SpscRing<EventRecord> ring_;
  std::atomic<bool>& pending_;
  const std::function<void()>& notify_;
  std::atomic<uint64_t> dropped_{0};
  bool dirty_ = false;
};

}  // namespace tandem
