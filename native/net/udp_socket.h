// A bound, non-blocking UDP socket that receives in batches. It knows neither Node nor SIP, waits
// for nothing and keeps nothing that it sends. One thread. Linux: recvmmsg(2).
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "address.h"

namespace tandem {

/// What the kernel refused, with the name of the call.
struct SocketError {
  const char* call;
  int error;
};

/// An IP literal with its zone ("fe80::1%eth0"), which `Address` leaves out; unset when it is none.
Address parse_ip(const std::string& ip, uint16_t port);
/// The literal that `parse_ip` reads.
std::string ip_text(const Address& address);

/// Room for what one call receives. Memory is touched only as far as datagrams fill it.
class DatagramBatch {
 public:
  static constexpr size_t kDatagramsMax = 32;
  /// No UDP datagram is longer (RFC 768), so none is ever cut: whoever reads it sees its true size.
  static constexpr size_t kBytesMax = 65'535;

  DatagramBatch();
  DatagramBatch(const DatagramBatch&) = delete;
  DatagramBatch& operator=(const DatagramBatch&) = delete;

  std::string_view text(size_t i) const { return {&bytes_[i * kBytesMax], headers_[i].msg_len}; }
  const Address& source(size_t i) const { return sources_[i]; }

 private:
  friend class UdpSocket;

  std::unique_ptr<char[]> bytes_;
  std::array<Address, kDatagramsMax> sources_;
  std::array<iovec, kDatagramsMax> slots_{};
  std::array<mmsghdr, kDatagramsMax> headers_{};
};

class UdpSocket {
 public:
  /// Binds, to this family only; port 0 takes any. `receive_buffer_bytes` 0 leaves the system's.
  /// Throws SocketError.
  UdpSocket(const std::string& ip, uint16_t port, int receive_buffer_bytes);
  ~UdpSocket();
  UdpSocket(const UdpSocket&) = delete;
  UdpSocket& operator=(const UdpSocket&) = delete;

  int descriptor() const { return fd_; }
  Address local() const { return Address::of_socket(fd_); }

  /// How many datagrams `batch` now has, 0 when none waits; below 0: minus the error.
  int receive(DatagramBatch& batch);
  /// Whatever the kernel cannot take now is lost, as any datagram may be.
  void send(std::string_view text, const Address& to);

 private:
  int fd_;
};

}  // namespace tandem
