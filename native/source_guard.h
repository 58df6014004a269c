// Whose packets a port believes (RTP bleed and injection, and NAT latching).
// Rules: the address that signaling gave always wins; another source is believed only in the
// latch modes that allow it, only after kConsecutive packets in a row of one SSRC with a
// negotiated payload type, and (for a foreign IP) only inside the learning window; packets of a
// candidate are not played. Once locked, only new settings open it again.
// Sans I/O; real-time thread.
#pragma once

#include <array>
#include <cstdint>

#include "address.h"
#include "rtp.h"

namespace tandem {

enum class LatchMode : uint8_t { kSignalled = 0, kSameIp = 1, kAnySource = 2 };

class SourceGuard {
 public:
  static constexpr int64_t kLearningUs = 5'000'000;
  static constexpr uint32_t kConsecutive = 4;

  enum class Verdict : uint8_t {
    kAccept,   // from the locked source
    kLatched,  // accepted, and the lock was made or improved by this packet
    kReject,
  };

  /// Takes new settings. Learning starts over when the remote address or the mode changed, or
  /// when nothing is locked yet.
  void configure(const Address& remote, LatchMode mode, int64_t now_us);
  Verdict check(const Address& from, const RtpPacket& packet, int64_t now_us);

  /// RTCP is believed from the IP that media is believed from.
  bool allows_rtcp(const Address& from) const {
    return from.same_ip(is_locked() ? locked_ : remote_);
  }
  bool is_locked() const { return rank_ > 0; }
  /// The lock cannot improve any more: the socket may be connected to it.
  bool is_final(int64_t now_us) const;
  /// Where to send media: the locked source, else the signalled address (may be unset).
  const Address& peer() const { return is_locked() ? locked_ : remote_; }

 private:
  struct Candidate {
    Address from;
    uint32_t ssrc = 0;
    uint16_t next_sequence = 0;
    uint32_t count = 0;
  };

  int rank(const Address& from) const;
  bool has_proved(const Address& from, const RtpPacket& packet);
  bool is_learning(int64_t now_us) const;

  Address remote_;
  LatchMode mode_ = LatchMode::kSignalled;
  Address locked_;
  int rank_ = 0;
  int64_t configured_us_ = 0;
  int64_t first_packet_us_ = 0;
  std::array<Candidate, 4> candidates_;
  uint32_t next_candidate_ = 0;
};

}  // namespace tandem
