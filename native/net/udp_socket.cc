// UDP with batches; see udp_socket.h.
#include "net/udp_socket.h"

#include <net/if.h>
#include <netdb.h>
#include <unistd.h>

#include <cerrno>

namespace tandem {

Address parse_ip(const std::string& ip, uint16_t port) {
  const size_t percent = ip.find('%');
  if (percent == std::string::npos) return Address::parse(ip, port);
  Address out = Address::parse(ip.substr(0, percent), port);
  const unsigned zone = if_nametoindex(ip.c_str() + percent + 1);
  if (out.family() != AF_INET6 || zone == 0) return Address();
  reinterpret_cast<sockaddr_in6*>(out.data())->sin6_scope_id = zone;
  return out;
}

std::string ip_text(const Address& address) {
  char text[NI_MAXHOST] = {};
  getnameinfo(address.data(), address.size(), text, sizeof text, nullptr, 0, NI_NUMERICHOST);
  return text;
}

DatagramBatch::DatagramBatch()
    : bytes_(std::make_unique_for_overwrite<char[]>(kDatagramsMax * kBytesMax)) {
  for (size_t i = 0; i < kDatagramsMax; i++) {
    slots_[i] = {.iov_base = &bytes_[i * kBytesMax], .iov_len = kBytesMax};
    headers_[i].msg_hdr.msg_name = sources_[i].data();
    headers_[i].msg_hdr.msg_iov = &slots_[i];
    headers_[i].msg_hdr.msg_iovlen = 1;
  }
}

UdpSocket::UdpSocket(const std::string& ip, uint16_t port, int receive_buffer_bytes) {
  const Address at = parse_ip(ip, port);
  if (!at.is_set()) throw SocketError{"bind", EINVAL};
  fd_ = socket(at.family(), SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd_ < 0) throw SocketError{"socket", errno};
  const auto must = [this](const char* call, int result) {
    if (result == 0) return;
    const SocketError refusal{call, errno};
    ::close(fd_);
    throw refusal;
  };
  const auto option = [&](int level, int name, int value) {
    must("setsockopt", setsockopt(fd_, level, name, &value, sizeof value));
  };
  // `::` must leave IPv4 to a socket of its own: mapped addresses pass as other ones.
  if (at.family() == AF_INET6) option(IPPROTO_IPV6, IPV6_V6ONLY, 1);
  if (receive_buffer_bytes > 0) option(SOL_SOCKET, SO_RCVBUF, receive_buffer_bytes);
  must("bind", bind(fd_, at.data(), at.size()));
}

UdpSocket::~UdpSocket() { ::close(fd_); }

int UdpSocket::receive(DatagramBatch& batch) {
  for (mmsghdr& header : batch.headers_) header.msg_hdr.msg_namelen = Address::kSizeMax;
  const int count = recvmmsg(fd_, batch.headers_.data(), DatagramBatch::kDatagramsMax,
                             MSG_DONTWAIT, nullptr);
  if (count >= 0) return count;
  return errno == EAGAIN || errno == EINTR ? 0 : -errno;
}

void UdpSocket::send(std::string_view text, const Address& to) {
  if (!to.is_set()) return;
  sendto(fd_, text.data(), text.size(), MSG_DONTWAIT, to.data(), to.size());
}

}  // namespace tandem
