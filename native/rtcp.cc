// RTCP reading, building and scheduling; see rtcp.h.
#include "rtcp.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "bytes.h"

namespace tandem {
namespace {

constexpr uint8_t kSenderReport = 200;
constexpr uint8_t kReceiverReport = 201;
constexpr uint8_t kSourceDescription = 202;
constexpr uint8_t kBye = 203;
constexpr uint32_t kBlockBytes = 24;

/// Middle 32 bits of an NTP timestamp, as LSR carries them.
uint32_t ntp_middle(uint64_t ntp) { return static_cast<uint32_t>(ntp >> 16); }

/// Report blocks of one SR or RR: takes the one about us.
void read_blocks(std::span<const uint8_t> blocks, uint32_t count, uint32_t own_ssrc,
                 RtcpReport& out) {
  for (uint32_t i = 0; i < count && (i + 1) * kBlockBytes <= blocks.size(); i++) {
    const uint8_t* at = &blocks[size_t{i} * kBlockBytes];
    if (read_u32(at) != own_ssrc) continue;
    out.has_block = true;
    out.fraction_lost = at[4];
    out.last_sr = read_u32(at + 16);
    out.delay_since_last_sr = read_u32(at + 20);
  }
}

/// One packet of the compound; false when its own counts do not fit its length.
bool read_packet(std::span<const uint8_t> packet, uint32_t own_ssrc, RtcpReport& out) {
  const uint32_t count = packet[0] & 0x1f;
  switch (packet[1]) {
    case kSenderReport:
      if (packet.size() < 28 + size_t{count} * kBlockBytes) return false;
      out.has_sender_info = true;
      out.sender_ssrc = read_u32(&packet[4]);
      out.ntp = (static_cast<uint64_t>(read_u32(&packet[8])) << 32) | read_u32(&packet[12]);
      read_blocks(packet.subspan(28), count, own_ssrc, out);
      return true;
    case kReceiverReport:
      if (packet.size() < 8 + size_t{count} * kBlockBytes) return false;
      out.sender_ssrc = read_u32(&packet[4]);
      read_blocks(packet.subspan(8), count, own_ssrc, out);
      return true;
    case kBye:
      out.bye = true;
      return packet.size() >= 4 + size_t{count} * 4;
    default:
      return true;  // SDES, APP and unknown types are skipped by their length (§6.1)
  }
}

}  // namespace

bool parse_rtcp(std::span<const uint8_t> datagram, uint32_t own_ssrc, RtcpReport& out) {
  // A.2: version 2, first packet SR or RR without padding, lengths that add up exactly.
  if (datagram.size() < 8 || (datagram[0] & 0xe0) != 0x80) return false;
  if (datagram[1] != kSenderReport && datagram[1] != kReceiverReport) return false;
  size_t at = 0;
  while (at < datagram.size()) {
    if (datagram.size() - at < 4 || (datagram[at] >> 6) != 2) return false;
    const size_t size = 4 * (size_t{read_u16(&datagram[at + 2])} + 1);
    if (size > datagram.size() - at) return false;
    const bool is_padded = (datagram[at] & 0x20) != 0;
    if (is_padded && at + size != datagram.size()) return false;
    if (!read_packet(datagram.subspan(at, size), own_ssrc, out)) return false;
    at += size;
  }
  return true;
}

void ReceptionStats::start(uint16_t sequence) {
  reset();
  started_ = true;
  base_ = highest_ = int64_t{sequence} + 65536;
}

void ReceptionStats::update(int64_t unwrapped_sequence, uint32_t timestamp, int64_t arrival_us,
                            uint32_t clock_rate_hz, bool is_timed) {
  if (!started_) return;
  received_++;
  highest_ = std::max(highest_, unwrapped_sequence);
  if (!is_timed) return;
  // A.8; the difference is taken modulo 2^32 as the timestamps are.
  const double arrival = static_cast<double>(arrival_us) * clock_rate_hz / 1e6;
  const double transit = std::fmod(arrival, 4294967296.0) - timestamp;
  if (has_transit_) {
    double change = std::fabs(transit - transit_);
    change = std::min(change, std::fabs(4294967296.0 - change));
    // A step of more than ten seconds is a new time base, not jitter.
    if (change < 10.0 * clock_rate_hz) jitter_ += (change - jitter_) / 16;
  }
  transit_ = transit;
  has_transit_ = true;
}

int64_t ReceptionStats::lost_total() const {
  return started_ ? highest_ - base_ + 1 - received_ : 0;
}

double ReceptionStats::jitter_ms(uint32_t clock_rate_hz) const {
  return clock_rate_hz == 0 ? 0 : jitter_ * 1000 / clock_rate_hz;
}

uint8_t ReceptionStats::take_fraction_lost() {
  const int64_t expected = started_ ? highest_ - base_ + 1 : 0;
  const int64_t expected_now = expected - expected_prior_;
  const int64_t lost_now = expected_now - (received_ - received_prior_);
  expected_prior_ = expected;
  received_prior_ = received_;
  if (expected_now <= 0 || lost_now <= 0) return 0;
  return static_cast<uint8_t>(std::min<int64_t>(255, (lost_now << 8) / expected_now));
}

void RtcpSession::start(uint32_t ssrc, std::string_view cname, uint64_t seed, int64_t now_us) {
  *this = RtcpSession();
  ssrc_ = ssrc;
  cname_size_ = static_cast<uint8_t>(std::min(cname.size(), cname_.size() - 1));
  std::memcpy(cname_.data(), cname.data(), cname_size_);
  random_ = seed | 1;
  schedule(now_us);
}

double RtcpSession::chance() {
  random_ ^= random_ << 13;
  random_ ^= random_ >> 7;
  random_ ^= random_ << 17;
  return static_cast<double>(random_ >> 11) / 9007199254740992.0;
}

void RtcpSession::schedule(int64_t now_us) {
  // §6.3.1: half the minimum for the first report, 0.5 to 1.5 of it at random, divided by
  // e - 3/2 to make up for timer reconsideration.
  const double interval = static_cast<double>(kIntervalUs) * (is_initial_ ? 0.5 : 1.0);
  is_initial_ = false;
  due_us_ = now_us + static_cast<int64_t>(interval * (0.5 + chance()) / 1.21828);
}

uint32_t RtcpSession::build(std::span<uint8_t> out, const SenderInfo& sender,
                            ReceptionStats* reception, uint32_t remote_ssrc, uint64_t ntp,
                            int64_t now_us, bool bye) {
  const bool is_sender = sender.packets != packets_at_report_;
  packets_at_report_ = sender.packets;
  const uint32_t sdes_bytes = (4 + 4 + 2 + cname_size_ + 1 + 3) & ~3u;
  const uint32_t report_bytes = (is_sender ? 28 : 8) + (reception != nullptr ? kBlockBytes : 0);
  const uint32_t total = report_bytes + sdes_bytes + (bye ? 8 : 0);
  schedule(now_us);
  if (out.size() < total) return 0;
  std::memset(out.data(), 0, total);
  uint8_t* at = out.data();
  at[0] = static_cast<uint8_t>(0x80 | (reception != nullptr ? 1 : 0));
  at[1] = is_sender ? kSenderReport : kReceiverReport;
  write_u16(at + 2, static_cast<uint16_t>(report_bytes / 4 - 1));
  write_u32(at + 4, ssrc_);
  at += 8;
  if (is_sender) {
    write_u32(at, static_cast<uint32_t>(ntp >> 32));
    write_u32(at + 4, static_cast<uint32_t>(ntp));
    write_u32(at + 8, sender.rtp_timestamp);
    write_u32(at + 12, sender.packets);
    write_u32(at + 16, sender.octets);
    at += 20;
  }
  if (reception != nullptr) {
    const int64_t lost = std::clamp<int64_t>(reception->lost_total(), -0x800000, 0x7fffff);
    write_u32(at, remote_ssrc);
    write_u32(at + 4, (static_cast<uint32_t>(reception->take_fraction_lost()) << 24) |
                          (static_cast<uint32_t>(lost) & 0xffffff));
    // Our unwrapped numbers begin one cycle up; the wire counts cycles from zero.
    write_u32(at + 8, reception->highest_sequence() - 65536);
    write_u32(at + 12, reception->jitter_units());
    if (last_sr_middle_ != 0) {
      write_u32(at + 16, last_sr_middle_);
      write_u32(at + 20, static_cast<uint32_t>((now_us - last_sr_us_) * 65536 / 1'000'000));
    }
    at += kBlockBytes;
  }
  at[0] = 0x81;
  at[1] = kSourceDescription;
  write_u16(at + 2, static_cast<uint16_t>(sdes_bytes / 4 - 1));
  write_u32(at + 4, ssrc_);
  at[8] = 1;  // CNAME
  at[9] = cname_size_;
  std::memcpy(at + 10, cname_.data(), cname_size_);
  at += sdes_bytes;
  if (bye) {
    at[0] = 0x81;
    at[1] = kBye;
    write_u16(at + 2, 1);
    write_u32(at + 4, ssrc_);
  }
  return total;
}

void RtcpSession::receive(const RtcpReport& report, uint64_t ntp, int64_t now_us) {
  if (report.has_sender_info) {
    last_sr_middle_ = ntp_middle(report.ntp);
    last_sr_us_ = now_us;
  }
  if (!report.has_block) return;
  has_remote_report_ = true;
  remote_loss_ = report.fraction_lost / 256.0;
  if (report.last_sr == 0) return;
  const uint32_t elapsed = ntp_middle(ntp) - report.last_sr - report.delay_since_last_sr;
  const double round_trip_ms = static_cast<double>(static_cast<int32_t>(elapsed)) * 1000 / 65536;
  // A peer's clock slip can make it slightly negative; a nonsense LSR makes it huge.
  if (round_trip_ms > -10 && round_trip_ms < 60'000) {
    round_trip_ms_ = std::max(0.0, round_trip_ms);
  }
}

}  // namespace tandem
