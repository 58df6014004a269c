// Whose packets a port believes (RTP bleed and injection, and NAT latching).
//
// The address that signaling gave always wins: its first packet takes the lock, whoever held it and
// however late it is, and then nobody else can have it. Another source is believed only in the
// latch modes that allow it, and only after kConsecutive packets in a row of one SSRC with a
// negotiated payload type; packets of a candidate are not played.
//
// The learning window begins with the settings that name the remote, and again with each settings
// that come while nothing is locked (an answer, its acknowledgement). It never begins with a
// packet: then whoever sends first would choose the time. What it bounds:
// - A foreign IP is learnt inside it only.
// - The signalled IP from another port (a NAT that renumbers) may be learnt later, as long as
//   nothing is locked: a phone may begin to talk late, and until then its own IP is all there is.
// - Once locked, a better source that is not the signalled address may replace a worse one inside
//   it only.
// Otherwise only new settings open a lock again. Sans I/O; real-time thread.
#pragma once

#include <array>
#include <cstdint>

#include "address.h"
#include "rtp.h"

namespace tandem {

enum class LatchMode : uint8_t { kSignalled = 0, kSameIp = 1, kAnySource = 2 };

class SourceGuard {
 public:
  static constexpr int64_t kLearningUs = 1'000'000;
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
  /// Addresses that signaling did not give may still be learnt, in the modes that learn any.
  bool may_learn(int64_t now_us) const {
    return mode_ != LatchMode::kSignalled && is_learning(now_us);
  }
  /// The signalled address is heard: nothing can take its place, the socket may be connected.
  /// Never so for a lesser source, whose place the signalled address must be able to take.
  bool is_final() const;
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
  bool may_be_candidate(int rank, int64_t now_us) const;
  bool has_proved(const Address& from, const RtpPacket& packet);
  bool is_learning(int64_t now_us) const { return now_us - configured_us_ < kLearningUs; }

  Address remote_;
  LatchMode mode_ = LatchMode::kSignalled;
  Address locked_;
  int rank_ = 0;
  int64_t configured_us_ = 0;
  std::array<Candidate, 4> candidates_;
  uint32_t next_candidate_ = 0;
};

}  // namespace tandem
