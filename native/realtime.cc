// The real-time thread; see realtime.h.
#include "realtime.h"

#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"

namespace tandem {
namespace {

constexpr int kNiceness = -15;
constexpr int64_t kIdleWaitUs = 1'000'000;

Realtime::Scheduling raise_priority(int priority) {
  if (priority <= 0) return Realtime::Scheduling::kNormal;
  sched_param param{};
  param.sched_priority = std::clamp(priority, sched_get_priority_min(SCHED_FIFO),
                                    sched_get_priority_max(SCHED_FIFO));
  if (pthread_setschedparam(pthread_self(), SCHED_FIFO, &param) == 0) {
    return Realtime::Scheduling::kFifo;
  }
  const auto thread = static_cast<id_t>(syscall(SYS_gettid));
  if (setpriority(PRIO_PROCESS, thread, kNiceness) == 0) return Realtime::Scheduling::kNice;
  return Realtime::Scheduling::kNormal;
}

}  // namespace

Realtime::Realtime(std::unique_ptr<Reactor> reactor, IoThread& io, uint32_t events_max,
                   std::atomic<bool>& pending, const std::function<void()>& notify)
    : reactor_(std::move(reactor)), io_(io), events_(events_max, kObjectsMax, pending, notify) {
  entries_.resize(kObjectsMax);
  undiscarded_.reserve(kObjectsMax);
}

Realtime::Scheduling Realtime::start(int priority) {
  std::promise<Scheduling> started;
  std::future<Scheduling> scheduling = started.get_future();
  thread_ = std::thread([this, priority, &started] {
    pthread_setname_np(pthread_self(), "tandem-rt");
    started.set_value(raise_priority(priority));
    run();
  });
  return scheduling.get();
}

void Realtime::stop() {
  if (!thread_.joinable()) return;
  Command command;
  command.kind = CommandKind::kStop;
  while (!push(std::move(command))) std::this_thread::yield();
  thread_.join();
}

bool Realtime::push(Command&& command) {
  if (!commands_.push(std::move(command))) return false;
  if (is_asked_.exchange(true)) return true;
  // Both sides write their own flag, then read the other's, in one total order: either we see it
  // doze, or it sees what we ask before it does.
  if (is_dozing_.load()) reactor_->wake();
  return true;
}

void Realtime::run() {
  wheel_.start(steady_now_us());
  while (!is_stopping_) {
    reactor_->wait(wait_until_us(), *this);
    is_dozing_.store(false, std::memory_order_relaxed);
    wheel_.advance(steady_now_us(), [](Port* port, int64_t slot_us) { port->tick(slot_us); });
    while (!undiscarded_.empty() && io_.discard(std::move(undiscarded_.back()))) {
      undiscarded_.pop_back();
    }
    events_.flush();
  }
  close_all(steady_now_us());
  events_.flush();
}

/// An empty wheel needs no slots: the thread sleeps until a command comes, unless events wait.
int64_t Realtime::wait_until_us() {
  if (!wheel_.empty()) return wheel_.next_us();
  is_dozing_.store(true);
  const bool is_busy = is_asked_.load() || events_.is_behind();
  return steady_now_us() + (is_busy ? kSlotUs : kIdleWaitUs);
}

void Realtime::drain() {
  // Cleared before the ring is read: a command pushed from here on wakes the thread again.
  is_asked_.exchange(false);
  const int64_t now_us = steady_now_us();
  Command command;
  // When the I/O thread is behind, commands wait too, so that nothing must be freed here.
  while (io_.discard_room() >= kGarbagePerCommand && commands_.pop(command)) {
    execute(command, now_us);
    if (command.object != nullptr) discard(std::move(command.object));
  }
  if (!commands_.empty()) is_asked_.store(true, std::memory_order_release);
}

void Realtime::execute(Command& command, int64_t now_us) {
  switch (command.kind) {
    case CommandKind::kAddPort:
      add_port(command);
      break;
    case CommandKind::kChangePort:
      if (Port* const port = find_port(command.a)) {
        port->change(static_cast<PortChange&>(*command.object), now_us);
      }
      break;
    case CommandKind::kConnect:
      if (Port* const port = find_port(command.a)) port->connect(find_port(command.b), now_us);
      break;
    case CommandKind::kAddPlayer:
      add_player(command);
      break;
    case CommandKind::kAddRecorder:
      add_recorder(command);
      break;
    case CommandKind::kPauseRecorder:
      if (Entry* const entry = find(command.a)) {
        if (entry->kind != Kind::kRecorder) break;
        static_cast<Recorder&>(*entry->object).pause(command.flag);
      }
      break;
    case CommandKind::kClose:
      close(command.a, now_us);
      break;
    case CommandKind::kStop:
      is_stopping_ = true;
      break;
    case CommandKind::kNone:
      break;
  }
}

Realtime::Entry* Realtime::find(Handle handle) {
  const uint32_t index = handle_index(handle);
  if (handle == 0 || index >= entries_.size() || entries_[index].handle != handle) return nullptr;
  return &entries_[index];
}

Port* Realtime::find_port(Handle handle) {
  Entry* const entry = find(handle);
  if (entry == nullptr || entry->kind != Kind::kPort) return nullptr;
  return static_cast<Port*>(entry->object.get());
}

Realtime::Entry* Realtime::place(Handle handle, Kind kind, Port* owner,
                                 std::unique_ptr<Resource> object) {
  Entry& entry = entries_[handle_index(handle)];
  entry.handle = handle;
  entry.kind = kind;
  entry.owner = owner;
  entry.object = std::move(object);
  return &entry;
}

void Realtime::add_port(Command& command) {
  auto* const port = static_cast<Port*>(command.object.get());
  place(command.a, Kind::kPort, nullptr, std::move(command.object));
  port->open(*this);
}

void Realtime::add_player(Command& command) {
  auto* const player = static_cast<Player*>(command.object.get());
  Port* const port = find_port(command.b);
  if (port == nullptr || !port->add_player(player)) {
    events_.post(EventType::kPlayDone, command.a, static_cast<double>(PlayReason::kFailed));
    return;
  }
  place(command.a, Kind::kPlayer, port, std::move(command.object));
}

void Realtime::add_recorder(Command& command) {
  auto* const recorder = static_cast<Recorder*>(command.object.get());
  Port* const port = find_port(command.b);
  if (port == nullptr || !port->add_recorder(recorder)) {
    recorder->finish(port == nullptr ? RecordReason::kPortClosed : RecordReason::kFailed);
    return;
  }
  place(command.a, Kind::kRecorder, port, std::move(command.object));
}

void Realtime::close(Handle handle, int64_t now_us) {
  Entry* const entry = find(handle);
  if (entry == nullptr) return;  // a player or recorder that ended by itself meanwhile
  switch (entry->kind) {
    case Kind::kPort:
      static_cast<Port&>(*entry->object).close(now_us);
      retire(handle);
      break;
    case Kind::kPlayer:
      entry->owner->stop_player(static_cast<Player*>(entry->object.get()), PlayReason::kStopped);
      break;
    case Kind::kRecorder:
      entry->owner->stop_recorder(static_cast<Recorder*>(entry->object.get()),
                                  RecordReason::kStopped);
      break;
    case Kind::kNone:
      break;
  }
}

void Realtime::close_all(int64_t now_us) {
  for (Entry& entry : entries_) {
    if (entry.kind == Kind::kPort) close(entry.handle, now_us);
  }
}

void Realtime::retire(Handle handle) {
  Entry* const entry = find(handle);
  if (entry == nullptr) return;
  discard(std::move(entry->object));
  *entry = Entry();
}

void Realtime::discard(std::unique_ptr<Resource> object) {
  if (object == nullptr || io_.discard(std::move(object))) return;
  undiscarded_.push_back(std::move(object));
}

}  // namespace tandem
