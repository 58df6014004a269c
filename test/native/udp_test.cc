// The UDP socket without Node: batches, whole datagrams, literals with a zone, refusals.
// `udp_test [part of a name]`; TAP on standard output.
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "check.h"
#include "net/udp_socket.h"

namespace tandem::test {
namespace {

std::optional<int> refusal_of(const std::string& ip, uint16_t port) {
  try {
    const UdpSocket socket(ip, port, 0);
    return std::nullopt;
  } catch (const SocketError& refusal) {
    return refusal.error;
  }
}

TEST("a batch is full, then holds the rest, then nothing") {
  UdpSocket to("127.0.0.1", 0, 1 << 20);
  UdpSocket from("127.0.0.1", 0, 0);
  const auto batch = std::make_unique<DatagramBatch>();
  constexpr int kMore = 8;
  const int full = DatagramBatch::kDatagramsMax;
  for (int i = 0; i < full + kMore; i++) from.send(std::to_string(i), to.local());

  CHECK(to.receive(*batch) == full);
  CHECK(batch->text(full - 1) == std::to_string(full - 1));
  CHECK(batch->source(0) == from.local());
  CHECK(to.receive(*batch) == kMore);
  CHECK(batch->text(0) == std::to_string(full));
  CHECK(to.receive(*batch) == 0);
}

TEST("each slot takes the largest datagram of both families") {
  const auto batch = std::make_unique<DatagramBatch>();
  for (const auto& [ip, bytes] : {std::pair("127.0.0.1", 65'507), std::pair("::1", 65'527)}) {
    UdpSocket to(ip, 0, 4 << 20);
    UdpSocket from(ip, 0, 0);
    const std::string text(bytes, '\xff');
    for (const std::string& each : {text, text + "x", std::string(), text}) {
      from.send(each, to.local());
    }

    CHECK(to.receive(*batch) == 3);
    CHECK(batch->text(0) == text && batch->text(1).empty() && batch->text(2) == text);
    CHECK(ip_text(batch->source(2)) == ip);
  }
}

TEST("a literal is read and printed with its zone") {
  const std::string text = "fe80::1%lo";
  const Address local = parse_ip(text, 5060);
  CHECK(local.is_set() && local.port() == 5060);
  CHECK(ip_text(local) == text);
  for (const char* wrong :
       {"", "%", "%lo", "localhost", "127.0.0.1%lo", "fe80::1%", "fe80::1%no"}) {
    CHECK(!parse_ip(wrong, 1).is_set());
  }
}

TEST("what cannot be bound is told, and leaves nothing open") {
  const UdpSocket taken("127.0.0.1", 0, 0);
  const int before = dup(taken.descriptor());
  ::close(before);
  CHECK(refusal_of("127.0.0.1", taken.local().port()) == EADDRINUSE);
  CHECK(refusal_of("192.0.2.1", 0) == EADDRNOTAVAIL);
  CHECK(refusal_of("nobody", 0) == EINVAL);
  const int after = dup(taken.descriptor());
  ::close(after);
  CHECK(before == after);
}

TEST("a wildcard of IPv6 leaves IPv4 alone") {
  const UdpSocket six("::", 0, 0);
  CHECK(refusal_of("0.0.0.0", six.local().port()) == std::nullopt);
}

}  // namespace
}  // namespace tandem::test

int main(int argc, char** argv) { return tandem::test::run(argc, argv); }
