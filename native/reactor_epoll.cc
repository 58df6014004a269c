// Reactor over epoll, level-triggered with one recvfrom for each readiness: for one leg a socket
// holds one packet at a time, so draining to EAGAIN only adds a system call.
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <vector>

#include "clock.h"
#include "reactor.h"
#include "rtp.h"
#include "socket.h"

namespace tandem {
namespace {

class EpollReactor final : public Reactor {
 public:
  explicit EpollReactor(size_t descriptors_max)
      : epoll_(epoll_create1(EPOLL_CLOEXEC)),
        wakeup_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
        entries_(descriptors_max) {}

  bool start() {
    if (!epoll_.is_open() || !wakeup_.is_open()) return false;
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = wakeup_.fd();
    return epoll_ctl(epoll_.fd(), EPOLL_CTL_ADD, wakeup_.fd(), &event) == 0;
  }

  const char* name() const override { return "epoll"; }

  bool has_room(int fd) const override {
    return fd >= 0 && static_cast<size_t>(fd) < entries_.size();
  }

  bool add(int fd, DatagramHandler* handler, uint32_t channel) override {
    Entry& entry = entries_[static_cast<size_t>(fd)];
    entry.channel = channel;
    // First the entry: an event nobody takes would make the wait spin.
    entry.handler.store(handler, std::memory_order_release);
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (epoll_ctl(epoll_.fd(), EPOLL_CTL_ADD, fd, &event) == 0) return true;
    entry.handler.store(nullptr, std::memory_order_release);
    return false;
  }

  void remove(int fd) override {
    Entry& entry = entries_[static_cast<size_t>(fd)];
    if (entry.handler.exchange(nullptr, std::memory_order_acq_rel) == nullptr) return;
    epoll_ctl(epoll_.fd(), EPOLL_CTL_DEL, fd, nullptr);
  }

  bool send(int fd, std::span<const uint8_t> datagram, const Address* to) override {
    const ssize_t sent = to == nullptr ? ::send(fd, datagram.data(), datagram.size(), 0)
                                       : sendto(fd, datagram.data(), datagram.size(), 0,
                                                to->data(), to->size());
    return sent == static_cast<ssize_t>(datagram.size());
  }

  void wait(int64_t deadline_us, WakeHandler& on_wake) override {
    gather(deadline_us);
    const int count = poll(deadline_us - steady_now_us());
    const int64_t now_us = steady_now_us();
    measure(count, now_us);
    on_wake.on_wake();
    for (int i = 0; i < count; i++) {
      const int fd = events_[static_cast<size_t>(i)].data.fd;
      if (fd == wakeup_.fd()) {
        clear_wakeup();
      } else {
        receive(fd, now_us);
      }
    }
  }

  void wake() override {
    const uint64_t one = 1;
    if (::write(wakeup_.fd(), &one, sizeof one) < 0) return;  // full: a wake-up is under way
  }

 private:
  struct Entry {
    std::atomic<DatagramHandler*> handler = nullptr;
    uint32_t channel = 0;
  };
  static constexpr int kEventsMax = 256;

  /// Under load, lets packets of up to kGatherUs come together before they are asked for: one
  /// wake-up and one epoll_wait for many, at a cost of half that time in delay.
  void gather(int64_t deadline_us) {
    if (!is_busy_) return;
    const int64_t until_us = std::min(deadline_us, harvest_us_ + kGatherUs);
    const int64_t left_us = until_us - steady_now_us();
    if (left_us < kGatherUs / 8) return;
    const timespec until{until_us / 1'000'000, (until_us % 1'000'000) * 1000};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr);
  }

  /// Busy: more than kBusyPackets in kGatherUs on average, over windows of 20 ms.
  void measure(int count, int64_t now_us) {
    harvest_us_ = now_us;
    harvested_ += std::max(0, count);
    const int64_t window_us = now_us - window_us_;
    if (window_us < 20'000) return;
    is_busy_ = harvested_ * kGatherUs > kBusyPackets * window_us;
    window_us_ = now_us;
    harvested_ = 0;
  }

  void clear_wakeup() {
    uint64_t ignored = 0;
    if (::read(wakeup_.fd(), &ignored, sizeof ignored) < 0) return;  // nobody woke us: no matter
  }

  int poll(int64_t timeout_us) {
    if (timeout_us < 0) timeout_us = 0;
    if (has_pwait2_) {
      const timespec timeout{timeout_us / 1'000'000, (timeout_us % 1'000'000) * 1000};
      const int count = epoll_pwait2(epoll_.fd(), events_.data(), kEventsMax, &timeout, nullptr);
      if (count >= 0 || errno != ENOSYS) return count;
      has_pwait2_ = false;  // Linux before 5.11: millisecond waits
    }
    return epoll_wait(epoll_.fd(), events_.data(), kEventsMax,
                      static_cast<int>((timeout_us + 999) / 1000));
  }

  void receive(int fd, int64_t now_us) {
    // Checked first: a handler called earlier in this harvest may have removed this one.
    const Entry& entry = entries_[static_cast<size_t>(fd)];
    DatagramHandler* const handler = entry.handler.load(std::memory_order_acquire);
    if (handler == nullptr) return;
    Address from;
    socklen_t size = Address::kSizeMax;
    // MSG_TRUNC reports the real length, so an oversized datagram is seen and dropped.
    const ssize_t got =
        recvfrom(fd, buffer_.data(), buffer_.size(), MSG_TRUNC, from.data(), &size);
    // ECONNREFUSED is an ICMP answer to something we sent: the peer is not listening yet.
    if (got < 0 || static_cast<size_t>(got) > buffer_.size()) return;
    handler->on_datagram(entry.channel, {buffer_.data(), static_cast<size_t>(got)}, from, now_us);
  }

  static constexpr int64_t kGatherUs = 1'000;
  static constexpr int64_t kBusyPackets = 3;

  Socket epoll_;
  Socket wakeup_;
  bool is_busy_ = false;
  int64_t harvest_us_ = 0;
  int64_t harvested_ = 0;
  int64_t window_us_ = 0;
  bool has_pwait2_ = true;
  std::vector<Entry> entries_;  // by file descriptor
  std::array<epoll_event, kEventsMax> events_{};
  std::array<uint8_t, kPacketBytesMax> buffer_{};
};

}  // namespace

std::unique_ptr<Reactor> make_epoll_reactor(size_t descriptors_max) {
  auto reactor = std::make_unique<EpollReactor>(descriptors_max);
  if (!reactor->start()) return nullptr;
  return reactor;
}

}  // namespace tandem
