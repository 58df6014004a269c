// One outgoing RTP stream (one SSRC): where its sequence numbers and timestamps come from, so that
// the receiver sees one unbroken stream whatever feeds it. A relayed packet keeps the spacing of
// its source (loss and jitter stay visible); a switch of source begins with a marker, at a
// timestamp advanced by the time that has passed. Pure bookkeeping; real-time thread.
#pragma once

#include <cstdint>

#include "rtp.h"

namespace tandem {

class OutStream {
 public:
  void start(uint32_t ssrc, uint16_t first_sequence, uint32_t first_timestamp);
  void set_clock_rate(uint32_t clock_rate_hz) { clock_rate_hz_ = clock_rate_hz; }

  /// Header for the next packet of locally made audio lasting `ticks`.
  RtpPacket local(uint8_t payload_type, uint32_t ticks, int64_t now_us);
  /// Timestamp that local() would give now.
  uint32_t local_timestamp(int64_t now_us) const;
  /// Header for a packet whose timestamp is given (a telephone event); time moves on by `ticks`.
  RtpPacket event(uint8_t payload_type, uint32_t timestamp, bool marker, uint32_t ticks,
                  int64_t now_us);
  /// Nothing is sent for `ticks` of local audio (DTX).
  void pass(uint32_t ticks, int64_t now_us);

  /// Header for a relayed packet; false when it is from before the source became ours.
  /// `source` names one uninterrupted stream; `sequence` and `timestamp` are unwrapped.
  bool relay(uint64_t source, int64_t sequence, int64_t timestamp, bool marker, int64_t now_us,
             RtpPacket& out);
  /// The same for a packet of a telephone event, all of which bear the time the key went down:
  /// however long it is held, and whatever is sent in between, they stay one event.
  bool relay_event(uint64_t source, int64_t sequence, int64_t timestamp, bool marker,
                   int64_t now_us, RtpPacket& out);
  /// A packet of that source is left out on purpose: no gap shows.
  void skip(uint64_t source, int64_t sequence);

  void count(size_t payload_bytes) {
    packets_++;
    octets_ += payload_bytes;
    bytes_ += payload_bytes + kRtpHeaderBytes;
  }
  uint64_t packets() const { return packets_; }
  uint64_t octets() const { return octets_; }
  uint64_t bytes() const { return bytes_; }
  uint32_t ssrc() const { return ssrc_; }
  int64_t last_sent_us() const { return sent_us_; }
  /// RTP time at `now_us`, for sender reports.
  uint32_t timestamp_at(int64_t now_us) const;

 private:
  static constexpr uint64_t kLocal = 1;
  /// A source's timestamps may leave real time by this much before it counts as a new one.
  static constexpr int64_t kTimestampSlipUs = 5'000'000;

  int64_t elapsed_ticks(int64_t now_us) const;
  bool has_slipped(int64_t timestamp, int64_t now_us) const;
  bool join(uint64_t source, bool has_slipped, int64_t sequence, int64_t timestamp, bool marker,
            int64_t now_us, RtpPacket& out);
  int64_t next_timestamp(uint64_t source, int64_t now_us) const;

  uint32_t ssrc_ = 0;
  uint32_t clock_rate_hz_ = 8000;
  uint64_t source_ = 0;
  int64_t next_sequence_ = 0;
  int64_t last_timestamp_ = 0;
  int64_t last_us_ = 0;  // when last_timestamp_ was now
  int64_t sent_us_ = 0;
  uint32_t last_ticks_ = 0;
  int64_t sequence_offset_ = 0;
  int64_t timestamp_offset_ = 0;
  int64_t source_begin_ = 0;
  int64_t event_timestamp_ = 0;  // of the source's latest event
  uint64_t packets_ = 0;
  uint64_t octets_ = 0;
  uint64_t bytes_ = 0;
};

}  // namespace tandem
