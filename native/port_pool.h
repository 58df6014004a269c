// The UDP ports of one worker: even RTP and odd RTCP pairs out of [portMin, portMax], taken at a
// random place (RFC 6056) and kept out of use for a while after they are given back, so that a new
// call never hears the packets of an old one.
// Control thread only. The sockets belong to the caller once taken.
#pragma once

#include <cstdint>
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
  explicit PortPool(const PortPoolOptions& options);

  /// Binds a free pair on `address` (empty: the pool's own); nothing when every pair is taken,
  /// quarantined or held by another program.
  std::optional<PortPair> take(const std::string& address, bool rtcp_mux, int64_t now_us);
  /// Exactly this pair, quarantined or not: the port of a worker that died is made again.
  std::optional<PortPair> take_exactly(uint16_t rtp_port, const std::string& address,
                                       bool rtcp_mux);
  /// Begins the quarantine of the pair whose RTP port is `rtp_port`.
  void give_back(uint16_t rtp_port, int64_t now_us);
  uint32_t in_use() const { return in_use_; }

 private:
  static constexpr int64_t kInUse = INT64_MAX;
  static constexpr int64_t kForeignRetryUs = 1'000'000;

  std::optional<PortPair> bind_pair(const std::string& address, uint16_t rtp_port, bool rtcp_mux);

  PortPoolOptions options_;
  uint32_t first_port_ = 0;
  std::vector<int64_t> free_at_us_;  // by pair
  std::mt19937_64 random_;
  uint32_t in_use_ = 0;
};

}  // namespace tandem
