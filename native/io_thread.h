// The thread that may block: reads long clips ahead, writes recordings, frees what the real-time
// thread is done with. It sleeps while nothing is going on and otherwise looks in every 20 ms.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "resource.h"

namespace tandem {

/// Work that goes on until it says otherwise. I/O thread only, after hand-over.
class IoTask {
 public:
  virtual ~IoTask() = default;
  /// One turn; false when there is nothing left to do, now or ever.
  virtual bool pump(EventRing& events) = 0;
};

class IoThread {
 public:
  IoThread(std::atomic<bool>& pending, const std::function<void()>& notify);
  ~IoThread() { stop(); }

  void start();
  /// Finishes every task's waiting work, then joins. Control thread.
  void stop();
  /// Control thread.
  void add(std::shared_ptr<IoTask> task);
  /// Real-time thread: gives an object to be freed. False (and untouched) when the ring is full.
  bool discard(std::unique_ptr<Resource>&& object) { return garbage_.push(std::move(object)); }
  uint64_t discard_room() const { return garbage_.room(); }
  /// Consumer of events is the control thread.
  EventRing& events() { return events_; }
  uint64_t events_dropped() const { return events_.dropped(); }

 private:
  static constexpr uint32_t kGarbageMax = 8192;
  static constexpr uint32_t kEventsMax = 4096;
  static constexpr std::chrono::milliseconds kBusyInterval{20};
  static constexpr std::chrono::milliseconds kIdleInterval{200};

  void run();
  void turn();

  EventRing events_;
  SpscRing<std::unique_ptr<Resource>> garbage_;
  std::mutex mutex_;
  std::condition_variable wakeup_;
  std::vector<std::shared_ptr<IoTask>> added_;  // under mutex_
  bool is_stopping_ = false;                    // under mutex_
  std::vector<std::shared_ptr<IoTask>> tasks_;  // I/O thread
  std::thread thread_;
};

}  // namespace tandem
