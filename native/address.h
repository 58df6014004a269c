// A UDP socket address, IPv4 or IPv6, as a plain value: parsed, compared, printed.
// Not name resolution: text must be an IP literal.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <string>

namespace tandem {

class Address {
 public:
  Address() = default;

  /// An address from an IP literal; `is_set()` is false when `ip` is not one.
  static Address parse(const std::string& ip, uint16_t port);
  /// The local address of a bound socket.
  static Address of_socket(int fd);

  bool is_set() const { return storage_.base.sa_family != AF_UNSPEC; }
  int family() const { return storage_.base.sa_family; }
  uint16_t port() const;
  void set_port(uint16_t port);
  /// 0.0.0.0 or ::, which an old-style hold names (RFC 3264 §8.4): no place to send to.
  bool is_any() const;
  bool same_ip(const Address& other) const;
  bool operator==(const Address& other) const {
    return same_ip(other) && port() == other.port();
  }

  const sockaddr* data() const { return &storage_.base; }
  sockaddr* data() { return &storage_.base; }
  socklen_t size() const {
    return family() == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  }
  static constexpr socklen_t kSizeMax = sizeof(sockaddr_in6);

  /// "192.0.2.1:4000" or "[2001:db8::1]:4000"; "" when unset.
  std::string text() const;

 private:
  union Storage {
    sockaddr base;
    sockaddr_in v4;
    sockaddr_in6 v6;
  };
  Storage storage_{.v6 = {}};
};

}  // namespace tandem
