// The UDP ports of one worker: even RTP and odd RTCP pairs out of [portMin, portMax], taken at a
// random place (RFC 6056) and kept out of use for a while after they are given back, so that a new
// call never hears the packets of an old one. When every pair is in use or resting, the one that
// rested longest is used early rather than a call refused, as long as it rested kRestMinUs: the
// source check of a port (source_guard.h) refuses what an old call still sends.
// Control thread only. The sockets belong to the caller once taken.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "socket.h"

namespace tandem {

struct PortPoolOptions {
  std::string address = "127.0.0.1";
  uint16_t port_min = 20000;
  uint16_t port_max = 29999;
  int64_t quarantine_us = 30'000'000;
};

struct PortPair {
  Socket rtp;
  Socket rtcp;  // not open when RTCP is multiplexed
  uint16_t rtp_port = 0;
  uint16_t rtcp_port = 0;
};

class PortPool {
 public:
  /// The quarantine is never cut shorter: packets under way, and our own sockets being closed.
  static constexpr int64_t kRestMinUs = 500'000;

  explicit PortPool(const PortPoolOptions& options);

  /// Binds a free pair on `address` (empty: the pool's own); nothing when every pair is taken, has
  /// hardly rested or is held by another program, or when no socket can be made (refusal()).
  std::optional<PortPair> take(const std::string& address, bool rtcp_mux, int64_t now_us);
  /// Exactly this pair, quarantined or not: the port of a worker that died is made again.
  std::optional<PortPair> take_exactly(uint16_t rtp_port, const std::string& address,
                                       bool rtcp_mux);
  /// Begins the quarantine of the pair whose RTP port is `rtp_port`.
  void give_back(uint16_t rtp_port, int64_t now_us);
  uint32_t in_use() const { return in_use_; }
  /// Pairs that were used again before their quarantine was over.
  uint64_t early_reuses() const { return early_reuses_; }
  /// errno of the socket that the last take was refused for (no descriptors, no memory); 0: none.
  int refusal() const { return refusal_; }

 private:
  enum class State : uint8_t { kReady, kResting, kInUse };
  struct Pair {
    State state = State::kReady;
    uint32_t place = 0;    // in ready_
    int64_t since_us = 0;  // of resting
  };
  /// Waits in a queue until `since_us` plus what the queue asks; stale when the pair went on since.
  struct Rest {
    uint32_t pair;
    int64_t since_us;
  };
  /// A pair that another program holds is tried again after that.
  static constexpr int64_t kForeignRetryUs = 1'000'000;

  uint16_t port_of(uint32_t pair) const {
    return static_cast<uint16_t>(first_port_ + 2 * pair);
  }
  std::optional<uint32_t> pair_of(uint16_t rtp_port) const;
  const Rest* front(std::deque<Rest>& queue);
  void wake(std::deque<Rest>& queue, int64_t rest_us, int64_t now_us);
  std::optional<uint32_t> pick(int64_t now_us);
  void make_ready(uint32_t pair);
  void unready(uint32_t pair);
  void rest(std::deque<Rest>& queue, uint32_t pair, int64_t now_us);
  void use(uint32_t pair);
  Socket bind_udp(const std::string& ip, uint16_t port, bool is_media);
  std::optional<PortPair> bind_pair(const std::string& address, uint16_t rtp_port, bool rtcp_mux);

  PortPoolOptions options_;
  uint32_t first_port_ = 0;
  std::vector<Pair> pairs_;
  std::vector<uint32_t> ready_;  // in no order
  std::deque<Rest> resting_;     // longest first
  std::deque<Rest> foreign_;     // longest first
  std::mt19937_64 random_;
  uint32_t in_use_ = 0;
  uint64_t early_reuses_ = 0;
  int refusal_ = 0;
};

}  // namespace tandem
