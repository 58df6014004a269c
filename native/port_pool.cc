// RTP port pairs with quarantine; see port_pool.h.
#include "port_pool.h"

#include <netinet/ip.h>

#include <cerrno>

#include "address.h"

namespace tandem {
namespace {

/// Room for 2 s of one stream's packets while the thread is held up; the kernel doubles it.
constexpr int kReceiveBufferBytes = 64 * 1024;
/// DSCP EF (RFC 3246) for voice.
constexpr int kTosExpedited = 0xb8;

}  // namespace

PortPool::PortPool(const PortPoolOptions& options)
    : options_(options), random_(std::random_device{}()) {
  first_port_ = (uint32_t{options.port_min} + 1) & ~1u;
  const uint32_t end = uint32_t{options.port_max} + 1;
  pairs_.resize(end > first_port_ ? (end - first_port_) / 2 : 0);
  ready_.reserve(pairs_.size());
  for (uint32_t pair = 0; pair < pairs_.size(); pair++) make_ready(pair);
}

std::optional<PortPair> PortPool::take(const std::string& address, bool rtcp_mux, int64_t now_us) {
  const std::string& ip = address.empty() ? options_.address : address;
  while (const std::optional<uint32_t> pair = pick(now_us)) {
    const bool is_early = pairs_[*pair].state == State::kResting;
    auto bound = bind_pair(ip, port_of(*pair), rtcp_mux);
    if (bound) {
      use(*pair);
      if (is_early) early_reuses_++;
      return bound;
    }
    if (refusal_ != 0) break;
    unready(*pair);
    rest(foreign_, *pair, now_us);
  }
  return std::nullopt;
}

std::optional<PortPair> PortPool::take_exactly(uint16_t rtp_port, const std::string& address,
                                               bool rtcp_mux) {
  const std::optional<uint32_t> pair = pair_of(rtp_port);
  refusal_ = 0;
  if (!pair || pairs_[*pair].state == State::kInUse) return std::nullopt;
  auto bound = bind_pair(address.empty() ? options_.address : address, rtp_port, rtcp_mux);
  if (bound) use(*pair);
  return bound;
}

void PortPool::give_back(uint16_t rtp_port, int64_t now_us) {
  const std::optional<uint32_t> pair = pair_of(rtp_port);
  if (!pair || pairs_[*pair].state != State::kInUse) return;
  rest(resting_, *pair, now_us);
  in_use_--;
}

/// A ready pair at random, else the one that rested longest.
std::optional<uint32_t> PortPool::pick(int64_t now_us) {
  wake(resting_, options_.quarantine_us, now_us);
  wake(foreign_, kForeignRetryUs, now_us);
  refusal_ = 0;
  if (!ready_.empty()) return ready_[random_() % ready_.size()];
  const Rest* const longest = front(resting_);
  if (longest == nullptr || now_us - longest->since_us < kRestMinUs) return std::nullopt;
  return longest->pair;
}

std::optional<uint32_t> PortPool::pair_of(uint16_t rtp_port) const {
  if (rtp_port < first_port_ || (rtp_port & 1) != 0) return std::nullopt;
  const uint32_t pair = (rtp_port - first_port_) / 2;
  if (pair >= pairs_.size()) return std::nullopt;
  return pair;
}

/// The first that still rests, without those that were taken by name meanwhile; null: none.
const PortPool::Rest* PortPool::front(std::deque<Rest>& queue) {
  for (; !queue.empty(); queue.pop_front()) {
    const Pair& pair = pairs_[queue.front().pair];
    if (pair.state == State::kResting && pair.since_us == queue.front().since_us) {
      return &queue.front();
    }
  }
  return nullptr;
}

void PortPool::wake(std::deque<Rest>& queue, int64_t rest_us, int64_t now_us) {
  for (const Rest* rest = front(queue); rest != nullptr; rest = front(queue)) {
    if (now_us - rest->since_us < rest_us) return;
    make_ready(rest->pair);
  }
}

void PortPool::make_ready(uint32_t pair) {
  pairs_[pair].state = State::kReady;
  pairs_[pair].place = static_cast<uint32_t>(ready_.size());
  ready_.push_back(pair);
}

void PortPool::unready(uint32_t pair) {
  if (pairs_[pair].state != State::kReady) return;
  const uint32_t place = pairs_[pair].place;
  ready_[place] = ready_.back();
  pairs_[ready_[place]].place = place;
  ready_.pop_back();
}

void PortPool::rest(std::deque<Rest>& queue, uint32_t pair, int64_t now_us) {
  pairs_[pair].state = State::kResting;
  pairs_[pair].since_us = now_us;
  queue.push_back({pair, now_us});
}

void PortPool::use(uint32_t pair) {
  unready(pair);
  pairs_[pair].state = State::kInUse;
  in_use_++;
}

Socket PortPool::bind_udp(const std::string& ip, uint16_t port, bool is_media) {
  const Address address = Address::parse(ip, port);
  if (!address.is_set()) return Socket();
  Socket socket(::socket(address.family(), SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket.is_open()) {
    refusal_ = errno;
    return socket;
  }
  const int yes = 1;
  if (address.family() == AF_INET6) {
    setsockopt(socket.fd(), IPPROTO_IPV6, IPV6_V6ONLY, &yes, sizeof yes);
    setsockopt(socket.fd(), IPPROTO_IPV6, IPV6_TCLASS, &kTosExpedited, sizeof kTosExpedited);
  } else {
    setsockopt(socket.fd(), IPPROTO_IP, IP_TOS, &kTosExpedited, sizeof kTosExpedited);
  }
  if (is_media) {
    setsockopt(socket.fd(), SOL_SOCKET, SO_RCVBUF, &kReceiveBufferBytes,
               sizeof kReceiveBufferBytes);
  }
  if (bind(socket.fd(), address.data(), address.size()) != 0) socket.reset();
  return socket;
}

std::optional<PortPair> PortPool::bind_pair(const std::string& address, uint16_t rtp_port,
                                            bool rtcp_mux) {
  PortPair pair;
  pair.rtp_port = rtp_port;
  pair.rtcp_port = rtcp_mux ? rtp_port : static_cast<uint16_t>(rtp_port + 1);
  pair.rtp = bind_udp(address, rtp_port, true);
  if (!pair.rtp.is_open()) return std::nullopt;
  if (!rtcp_mux) {
    pair.rtcp = bind_udp(address, pair.rtcp_port, false);
    if (!pair.rtcp.is_open()) return std::nullopt;
  }
  return pair;
}

}  // namespace tandem
