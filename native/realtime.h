// The real-time thread of one worker: sockets, the wheel, and the table of live objects. It owns
// every port, player and recorder while they live; commands come in by a ring, events and dead
// objects go out by rings. It never allocates, locks or waits for another thread.
#pragma once

#include <array>
#include <atomic>
#include <future>
#include <thread>
#include <vector>

#include "io_thread.h"
#include "port.h"
#include "reactor.h"

namespace tandem {

class Realtime final : public PortHost, private WakeHandler {
 public:
  enum class Scheduling : uint8_t { kFifo, kNice, kNormal };

  /// `events_max`: waiting to be drained before those that may be are dropped.
  Realtime(std::unique_ptr<Reactor> reactor, IoThread& io, uint32_t events_max,
           std::atomic<bool>& pending, const std::function<void()>& notify);
  ~Realtime() override { stop(); }

  // Control thread:
  /// Starts the thread and returns how the kernel lets it run. `priority` 0: an ordinary thread.
  Scheduling start(int priority);
  /// Ends everything that lives and joins.
  void stop();
  /// False (and `command` untouched) when the ring is full. Takes effect within a slot of the
  /// wheel, and before any packet that comes later: a thread that turns anyway is not woken.
  bool push(Command&& command);
  /// Where the thread watches sockets.
  Reactor& reactor() override { return *reactor_; }
  const char* backend() const { return reactor_->name(); }
  uint64_t events_dropped() const { return events_.dropped(); }

  // For ports:
  EventRing& events() override { return events_; }
  Wheel<Port>& wheel() override { return wheel_; }
  std::span<uint8_t> scratch() override { return scratch_; }
  void retire(Handle handle) override;

 private:
  static constexpr uint32_t kCommandsMax = 8192;
  static constexpr uint32_t kPortsPerPhase = 1 << 14;
  /// Most objects one command can kill: a port with its players and recorders, and itself.
  static constexpr uint64_t kGarbagePerCommand = 2 + Port::kPlayersMax + Port::kRecordersMax;

  enum class Kind : uint8_t { kNone, kPort, kPlayer, kRecorder };
  struct Entry {
    Handle handle = 0;
    Kind kind = Kind::kNone;
    Port* owner = nullptr;  // of a player or recorder
    std::unique_ptr<Resource> object;
  };

  void run();
  void on_wake() override {
    if (is_asked_.load(std::memory_order_acquire)) drain();
  }
  int64_t wait_until_us();
  void drain();
  void execute(Command& command, int64_t now_us);
  void add_port(Command& command);
  void add_player(Command& command);
  void add_recorder(Command& command);
  void close(Handle handle, int64_t now_us);
  void close_all(int64_t now_us);
  Entry* find(Handle handle);
  Port* find_port(Handle handle);
  Entry* place(Handle handle, Kind kind, Port* owner, std::unique_ptr<Resource> object);
  void discard(std::unique_ptr<Resource> object);

  std::unique_ptr<Reactor> reactor_;
  IoThread& io_;
  EventRing events_;
  SpscRing<Command> commands_{kCommandsMax};
  std::atomic<bool> is_asked_{false};   // commands were pushed since the last drain
  std::atomic<bool> is_dozing_{false};  // the wheel is empty: only a wake-up ends the wait soon
  Wheel<Port> wheel_{kPortsPerPhase};
  std::vector<Entry> entries_;
  std::vector<std::unique_ptr<Resource>> undiscarded_;
  std::array<uint8_t, kPacketBytesMax> scratch_{};
  bool is_stopping_ = false;
  std::thread thread_;
};

}  // namespace tandem
