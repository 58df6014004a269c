// RTP header reading and writing; see rtp.h.
#include "rtp.h"

#include "bytes.h"

namespace tandem {

bool parse_rtp(std::span<uint8_t> datagram, RtpPacket& out) {
  if (datagram.size() < kRtpHeaderBytes || datagram.size() > kPacketBytesMax) return false;
  const uint8_t first = datagram[0];
  if ((first >> 6) != 2) return false;
  size_t begin = kRtpHeaderBytes + size_t{4} * (first & 0x0f);
  size_t end = datagram.size();
  if ((first & 0x10) != 0) {
    // Header extension (§5.3.1): profile, then a length in words that excludes these four bytes.
    if (begin + 4 > end) return false;
    begin += 4 + size_t{4} * read_u16(&datagram[begin + 2]);
  }
  if (begin > end) return false;
  if ((first & 0x20) != 0) {
    // Padding (§5.1): the last byte counts itself, so zero is malformed.
    if (begin == end) return false;
    const uint8_t padding = datagram[end - 1];
    if (padding == 0 || padding > end - begin) return false;
    end -= padding;
  }
  out.payload_type = datagram[1] & 0x7f;
  out.marker = (datagram[1] & 0x80) != 0;
  out.sequence = read_u16(&datagram[2]);
  out.timestamp = read_u32(&datagram[4]);
  out.ssrc = read_u32(&datagram[8]);
  out.payload = datagram.subspan(begin, end - begin);
  return true;
}

void write_rtp_header(uint8_t* at, const RtpPacket& packet) {
  at[0] = 0x80;
  at[1] = static_cast<uint8_t>((packet.marker ? 0x80 : 0) | packet.payload_type);
  write_u16(at + 2, packet.sequence);
  write_u32(at + 4, packet.timestamp);
  write_u32(at + 8, packet.ssrc);
}

bool is_rtcp(std::span<const uint8_t> datagram) {
  return datagram.size() >= 2 && datagram[1] >= 192 && datagram[1] <= 223;
}

SequenceGuard::Verdict SequenceGuard::update(uint32_t ssrc, uint16_t sequence) {
  if (!started_) {
    started_ = true;
    ssrc_ = ssrc;
    highest_ = sequence;
    return Verdict::kAcceptNew;
  }
  if (ssrc == ssrc_) {
    const auto ahead = static_cast<uint16_t>(sequence - highest_);
    if (ahead < kDropoutMax) {
      highest_ = sequence;
      return Verdict::kAccept;
    }
    if (static_cast<uint16_t>(highest_ - sequence) <= kMisorderMax) return Verdict::kAccept;
  }
  if (has_candidate_ && candidate_ssrc_ == ssrc && candidate_next_ == sequence) {
    ssrc_ = ssrc;
    highest_ = sequence;
    has_candidate_ = false;
    return Verdict::kAcceptNew;
  }
  has_candidate_ = true;
  candidate_ssrc_ = ssrc;
  candidate_next_ = static_cast<uint16_t>(sequence + 1);
  return Verdict::kDrop;
}

}  // namespace tandem
