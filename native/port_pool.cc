// RTP port pairs with quarantine; see port_pool.h.
#include "port_pool.h"

#include <netinet/ip.h>

#include "address.h"

namespace tandem {
namespace {

/// Room for 2 s of one stream's packets while the thread is held up; the kernel doubles it.
constexpr int kReceiveBufferBytes = 64 * 1024;
/// DSCP EF (RFC 3246) for voice.
constexpr int kTosExpedited = 0xb8;

Socket bind_udp(const std::string& ip, uint16_t port) {
  const Address address = Address::parse(ip, port);
  if (!address.is_set()) return Socket();
  Socket socket(::socket(address.family(), SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket.is_open()) return socket;
  const int yes = 1;
  if (address.family() == AF_INET6) {
    setsockopt(socket.fd(), IPPROTO_IPV6, IPV6_V6ONLY, &yes, sizeof yes);
    setsockopt(socket.fd(), IPPROTO_IPV6, IPV6_TCLASS, &kTosExpedited, sizeof kTosExpedited);
  } else {
    setsockopt(socket.fd(), IPPROTO_IP, IP_TOS, &kTosExpedited, sizeof kTosExpedited);
  }
  setsockopt(socket.fd(), SOL_SOCKET, SO_RCVBUF, &kReceiveBufferBytes, sizeof kReceiveBufferBytes);
  if (bind(socket.fd(), address.data(), address.size()) != 0) socket.reset();
  return socket;
}

}  // namespace

PortPool::PortPool(const PortPoolOptions& options)
    : options_(options), random_(std::random_device{}()) {
  first_port_ = (uint32_t{options.port_min} + 1) & ~1u;
  const uint32_t end = uint32_t{options.port_max} + 1;
  free_at_us_.assign(end > first_port_ ? (end - first_port_) / 2 : 0, 0);
}

std::optional<PortPair> PortPool::take(const std::string& address, bool rtcp_mux, int64_t now_us) {
  const size_t count = free_at_us_.size();
  if (count == 0) return std::nullopt;
  const size_t begin = random_() % count;
  for (size_t i = 0; i < count; i++) {
    const size_t pair = (begin + i) % count;
    if (free_at_us_[pair] > now_us) continue;
    const auto rtp_port = static_cast<uint16_t>(first_port_ + 2 * pair);
    auto bound = bind_pair(address.empty() ? options_.address : address, rtp_port, rtcp_mux);
    if (!bound) {
      free_at_us_[pair] = now_us + kForeignRetryUs;
      continue;
    }
    free_at_us_[pair] = kInUse;
    in_use_++;
    return bound;
  }
  return std::nullopt;
}

std::optional<PortPair> PortPool::take_exactly(uint16_t rtp_port, const std::string& address,
                                               bool rtcp_mux) {
  const size_t pair = (rtp_port - first_port_) / 2;
  if (rtp_port < first_port_ || (rtp_port & 1) != 0 || pair >= free_at_us_.size()) {
    return std::nullopt;
  }
  if (free_at_us_[pair] == kInUse) return std::nullopt;
  auto bound = bind_pair(address.empty() ? options_.address : address, rtp_port, rtcp_mux);
  if (bound) {
    free_at_us_[pair] = kInUse;
    in_use_++;
  }
  return bound;
}

std::optional<PortPair> PortPool::bind_pair(const std::string& address, uint16_t rtp_port,
                                            bool rtcp_mux) {
  PortPair pair;
  pair.rtp_port = rtp_port;
  pair.rtcp_port = rtcp_mux ? rtp_port : static_cast<uint16_t>(rtp_port + 1);
  pair.rtp = bind_udp(address, rtp_port);
  if (!pair.rtp.is_open()) return std::nullopt;
  if (!rtcp_mux) {
    pair.rtcp = bind_udp(address, pair.rtcp_port);
    if (!pair.rtcp.is_open()) return std::nullopt;
  }
  return pair;
}

void PortPool::give_back(uint16_t rtp_port, int64_t now_us) {
  const size_t pair = (rtp_port - first_port_) / 2;
  if (rtp_port < first_port_ || pair >= free_at_us_.size() || free_at_us_[pair] != kInUse) return;
  free_at_us_[pair] = now_us + options_.quarantine_us;
  in_use_--;
}

}  // namespace tandem
