// RTCP (RFC 3550 §6): compound packets read with every length checked and built, reception
// statistics (A.3 loss, A.8 jitter), and the session that decides when a report is due.
// Sans I/O: time and chance are arguments. Each leg's RTCP ends here; nothing is forwarded.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace tandem {

/// What one compound packet told us.
struct RtcpReport {
  bool has_sender_info = false;
  uint32_t sender_ssrc = 0;
  uint64_t ntp = 0;
  bool has_block = false;  // a report block about our own stream
  uint8_t fraction_lost = 0;
  uint32_t last_sr = 0;
  uint32_t delay_since_last_sr = 0;
  bool bye = false;
};

/// False unless the whole compound packet is valid (RFC 3550 A.2).
bool parse_rtcp(std::span<const uint8_t> datagram, uint32_t own_ssrc, RtcpReport& out);

/// Reception of one stream.
class ReceptionStats {
 public:
  void start(uint16_t sequence);
  /// `arrival_us` is on any steady clock. `is_timed` false: the timestamp is not that of sending
  /// (telephone events), so it does not count for jitter.
  void update(int64_t unwrapped_sequence, uint32_t timestamp, int64_t arrival_us,
              uint32_t clock_rate_hz, bool is_timed);

  int64_t lost_total() const;
  double jitter_ms(uint32_t clock_rate_hz) const;
  uint32_t highest_sequence() const { return static_cast<uint32_t>(highest_); }
  /// Fraction lost since the last call, in 1/256 (A.3).
  uint8_t take_fraction_lost();
  uint32_t jitter_units() const { return static_cast<uint32_t>(jitter_); }
  void reset() { *this = ReceptionStats(); }

 private:
  bool started_ = false;
  bool has_transit_ = false;
  int64_t base_ = 0;
  int64_t highest_ = 0;
  int64_t received_ = 0;
  int64_t expected_prior_ = 0;
  int64_t received_prior_ = 0;
  double transit_ = 0;
  double jitter_ = 0;
};

/// What the sender part of a report says.
struct SenderInfo {
  uint32_t ssrc = 0;
  uint32_t rtp_timestamp = 0;
  uint32_t packets = 0;
  uint32_t octets = 0;
};

/// One leg's RTCP: when to report, what to say, round trip.
class RtcpSession {
 public:
  static constexpr int64_t kIntervalUs = 5'000'000;  // §6.2: two members never need less often

  /// `cname` is copied (RFC 7022: random, at most 31 characters here).
  void start(uint32_t ssrc, std::string_view cname, uint64_t seed, int64_t now_us);
  bool is_due(int64_t now_us) const { return now_us >= due_us_; }
  int64_t due_us() const { return due_us_; }

  /// Builds SR (when we sent since the last report) or RR, SDES and, when `bye`, BYE into `out`;
  /// returns its length and sets the next time. `ntp` is wall-clock time in NTP format.
  uint32_t build(std::span<uint8_t> out, const SenderInfo& sender, ReceptionStats* reception,
                 uint32_t remote_ssrc, uint64_t ntp, int64_t now_us, bool bye);

  /// Takes a valid report in; round trip by LSR and DLSR (§6.4.1).
  void receive(const RtcpReport& report, uint64_t ntp, int64_t now_us);

  double round_trip_ms() const { return round_trip_ms_; }
  double remote_loss() const { return remote_loss_; }
  bool has_remote_report() const { return has_remote_report_; }

 private:
  void schedule(int64_t now_us);
  double chance();

  uint32_t ssrc_ = 0;
  std::array<char, 32> cname_{};
  uint8_t cname_size_ = 0;
  uint64_t random_ = 1;
  int64_t due_us_ = 0;
  bool is_initial_ = true;
  uint32_t packets_at_report_ = 0;
  uint32_t last_sr_middle_ = 0;
  int64_t last_sr_us_ = 0;
  double round_trip_ms_ = -1;
  double remote_loss_ = 0;
  bool has_remote_report_ = false;
};

}  // namespace tandem
