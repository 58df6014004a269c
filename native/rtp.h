// RTP fixed header (RFC 3550 §5.1): reading with every length checked, writing, and sequence and
// timestamp bookkeeping (appendix A.1). Pure data code: no sockets, no clock.
#pragma once

#include <cstdint>
#include <span>

namespace tandem {

constexpr uint32_t kRtpHeaderBytes = 12;
/// Largest datagram the engine takes or makes: above any audio packet, below Ethernet's MTU.
constexpr uint32_t kPacketBytesMax = 1500;

struct RtpPacket {
  uint8_t payload_type = 0;
  bool marker = false;
  uint16_t sequence = 0;
  uint32_t timestamp = 0;
  uint32_t ssrc = 0;
  /// Inside the datagram, never closer than kRtpHeaderBytes to its start, so that a relay can
  /// write a new plain header in front of it in place.
  std::span<uint8_t> payload;
};

/// False for anything that is not a whole, well-formed RTP packet.
bool parse_rtp(std::span<uint8_t> datagram, RtpPacket& out);

/// Writes the 12 bytes of a header without CSRCs or extension.
void write_rtp_header(uint8_t* at, const RtpPacket& packet);

/// True when a datagram on a multiplexed port is RTCP (RFC 5761 §4).
bool is_rtcp(std::span<const uint8_t> datagram);

/// Extends 16- or 32-bit counters to 64 bits, taking the nearest value to the last one.
template <typename Narrow>
class Unwrapper {
 public:
  int64_t unwrap(Narrow value) {
    if (!started_) {
      started_ = true;
      // One cycle up, so that packets from before the first one do not become negative.
      last_ = static_cast<int64_t>(value) + (int64_t{1} << (8 * sizeof(Narrow)));
      return last_;
    }
    using Signed = std::make_signed_t<Narrow>;
    const auto delta = static_cast<Signed>(static_cast<Narrow>(value - static_cast<Narrow>(last_)));
    const int64_t result = last_ + delta;
    if (delta > 0) last_ = result;
    return result;
  }
  void reset() { started_ = false; }

 private:
  int64_t last_ = 0;
  bool started_ = false;
};

/// Validity of one synchronisation source's sequence numbers (RFC 3550 A.1). A new source, or a
/// jump beyond the window, is believed only when two packets in a row agree.
class SequenceGuard {
 public:
  enum class Verdict : uint8_t { kAccept, kAcceptNew, kDrop };

  /// kAcceptNew: this packet begins a new stream (first source, new SSRC, or a confirmed jump).
  Verdict update(uint32_t ssrc, uint16_t sequence);
  uint32_t ssrc() const { return ssrc_; }
  bool is_started() const { return started_; }
  void reset() { *this = SequenceGuard(); }

 private:
  static constexpr uint16_t kDropoutMax = 3000;
  static constexpr uint16_t kMisorderMax = 100;

  bool started_ = false;
  uint32_t ssrc_ = 0;
  uint16_t highest_ = 0;
  bool has_candidate_ = false;
  uint32_t candidate_ssrc_ = 0;
  uint16_t candidate_next_ = 0;
};

}  // namespace tandem
