// The datagram I/O of one real-time thread, in completion style: the backend owns the receive
// buffers and hands whole datagrams to their owner; sends are given to the backend, which may do
// them at once (epoll) or queue them to go with the next wait (a ring). Nothing here knows RTP.
// Real-time thread only, but for `has_room()`, `add()` and `wake()`, which any thread may call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "address.h"

namespace tandem {

/// Owner of sockets. `datagram` may be changed in place; it is valid until the call returns.
class DatagramHandler {
 public:
  virtual ~DatagramHandler() = default;
  virtual void on_datagram(uint32_t channel, std::span<uint8_t> datagram, const Address& from,
                           int64_t now_us) = 0;
};

/// Called once in each wait, before any datagram harvested by it: what was asked for first takes
/// effect first.
class WakeHandler {
 public:
  virtual ~WakeHandler() = default;
  virtual void on_wake() = 0;
};

class Reactor {
 public:
  virtual ~Reactor() = default;

  virtual const char* name() const = 0;
  /// Whether `fd` could be watched: who makes a socket learns at once that it would stay deaf.
  virtual bool has_room(int fd) const = 0;
  /// Begins receiving on `fd` for `handler`, which must live until `remove`; `channel` comes back
  /// with each datagram. False: the kernel refuses.
  virtual bool add(int fd, DatagramHandler* handler, uint32_t channel) = 0;
  /// After this no datagram of `fd` is delivered, not even one already harvested. What was never
  /// added costs nothing.
  virtual void remove(int fd) = 0;
  /// `to` null: the socket is connected. False: not sent (buffer full, unreachable); never fatal.
  virtual bool send(int fd, std::span<const uint8_t> datagram, const Address* to) = 0;
  /// Delivers what has come until `deadline_us` (steady clock) or a wake-up, whichever is first.
  virtual void wait(int64_t deadline_us, WakeHandler& on_wake) = 0;
  virtual void wake() = 0;
};

/// Above the file descriptors of a worker's whole port range.
constexpr size_t kDescriptorsMax = 1 << 16;

/// The portable backend. Null when the kernel refuses what it needs. Descriptors from
/// `descriptors_max` up are not watched.
std::unique_ptr<Reactor> make_epoll_reactor(size_t descriptors_max = kDescriptorsMax);

}  // namespace tandem
