// Socket address values; see address.h.
#include "address.h"

#include <arpa/inet.h>

#include <cstring>

namespace tandem {

Address Address::parse(const std::string& ip, uint16_t port) {
  Address out;
  if (inet_pton(AF_INET, ip.c_str(), &out.storage_.v4.sin_addr) == 1) {
    out.storage_.v4.sin_family = AF_INET;
    out.storage_.v4.sin_port = htons(port);
    return out;
  }
  out = Address();
  if (inet_pton(AF_INET6, ip.c_str(), &out.storage_.v6.sin6_addr) == 1) {
    out.storage_.v6.sin6_family = AF_INET6;
    out.storage_.v6.sin6_port = htons(port);
    return out;
  }
  return Address();
}

Address Address::of_socket(int fd) {
  Address out;
  socklen_t size = kSizeMax;
  if (getsockname(fd, out.data(), &size) != 0) return Address();
  return out;
}

uint16_t Address::port() const {
  if (family() == AF_INET) return ntohs(storage_.v4.sin_port);
  if (family() == AF_INET6) return ntohs(storage_.v6.sin6_port);
  return 0;
}

void Address::set_port(uint16_t port) {
  if (family() == AF_INET) storage_.v4.sin_port = htons(port);
  if (family() == AF_INET6) storage_.v6.sin6_port = htons(port);
}

bool Address::is_any() const {
  if (family() == AF_INET) return storage_.v4.sin_addr.s_addr == INADDR_ANY;
  return family() == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&storage_.v6.sin6_addr);
}

bool Address::same_ip(const Address& other) const {
  if (family() != other.family()) return false;
  if (family() == AF_INET) {
    return storage_.v4.sin_addr.s_addr == other.storage_.v4.sin_addr.s_addr;
  }
  return family() == AF_INET6 && std::memcmp(&storage_.v6.sin6_addr, &other.storage_.v6.sin6_addr,
                                             sizeof(in6_addr)) == 0;
}

std::string Address::text() const {
  char ip[INET6_ADDRSTRLEN] = {};
  const std::string suffix = ":" + std::to_string(port());
  if (family() == AF_INET && inet_ntop(AF_INET, &storage_.v4.sin_addr, ip, sizeof ip)) {
    return ip + suffix;
  }
  if (family() == AF_INET6 && inet_ntop(AF_INET6, &storage_.v6.sin6_addr, ip, sizeof ip)) {
    return "[" + std::string(ip) + "]" + suffix;
  }
  return "";
}

}  // namespace tandem
