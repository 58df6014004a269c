// Sequence numbers and timestamps of an outgoing stream; see out_stream.h.
#include "out_stream.h"

#include <algorithm>
#include <cstdlib>

namespace tandem {

void OutStream::start(uint32_t ssrc, uint16_t first_sequence, uint32_t first_timestamp) {
  ssrc_ = ssrc;
  next_sequence_ = int64_t{first_sequence} + 65536;
  last_timestamp_ = int64_t{first_timestamp} + (int64_t{1} << 32);
}

int64_t OutStream::elapsed_ticks(int64_t now_us) const {
  if (last_us_ == 0) return 0;
  return (now_us - last_us_) * clock_rate_hz_ / 1'000'000;
}

int64_t OutStream::next_timestamp(uint64_t source, int64_t now_us) const {
  const int64_t steady = last_timestamp_ + last_ticks_;
  const int64_t elapsed = last_timestamp_ + elapsed_ticks(now_us);
  // The same source runs steadily unless it paused (a stalled thread, DTX, hold).
  const bool has_paused = elapsed - steady > 3 * int64_t{std::max(last_ticks_, 160u)};
  if (source == source_ && !has_paused) return steady;
  return std::max(steady, elapsed);
}

uint32_t OutStream::local_timestamp(int64_t now_us) const {
  return static_cast<uint32_t>(next_timestamp(kLocal, now_us));
}

RtpPacket OutStream::local(uint8_t payload_type, uint32_t ticks, int64_t now_us) {
  const int64_t timestamp = next_timestamp(kLocal, now_us);
  const bool is_switch = source_ != kLocal;
  const RtpPacket packet =
      event(payload_type, static_cast<uint32_t>(timestamp), is_switch, 0, now_us);
  last_timestamp_ = timestamp;
  last_ticks_ = ticks;
  return packet;
}

RtpPacket OutStream::event(uint8_t payload_type, uint32_t timestamp, bool marker, uint32_t ticks,
                           int64_t now_us) {
  RtpPacket packet;
  packet.payload_type = payload_type;
  packet.marker = marker;
  packet.sequence = static_cast<uint16_t>(next_sequence_++);
  packet.timestamp = timestamp;
  packet.ssrc = ssrc_;
  if (ticks > 0) {
    last_timestamp_ = next_timestamp(kLocal, now_us);
    last_ticks_ = ticks;
  }
  source_ = kLocal;
  last_us_ = now_us;
  sent_us_ = now_us;
  return packet;
}

void OutStream::pass(uint32_t ticks, int64_t now_us) {
  last_timestamp_ = next_timestamp(kLocal, now_us);
  last_ticks_ = ticks;
  last_us_ = now_us;
}

/// The source's clock has left real time: its timestamps have to be joined to ours anew. Not asked
/// while they stand still, which says nothing about a clock.
bool OutStream::has_slipped(int64_t timestamp, int64_t now_us) const {
  const int64_t out_timestamp = timestamp + timestamp_offset_;
  if (out_timestamp == last_timestamp_) return false;
  const int64_t slip = std::abs(out_timestamp - last_timestamp_ - elapsed_ticks(now_us));
  return slip > kTimestampSlipUs * clock_rate_hz_ / 1'000'000;
}

bool OutStream::relay_event(uint64_t source, int64_t sequence, int64_t timestamp, bool marker,
                            int64_t now_us, RtpPacket& out) {
  const bool is_same = source == source_ && timestamp == event_timestamp_;
  event_timestamp_ = timestamp;
  return join(source, !is_same && has_slipped(timestamp, now_us), sequence, timestamp, marker,
              now_us, out);
}

bool OutStream::relay(uint64_t source, int64_t sequence, int64_t timestamp, bool marker,
                      int64_t now_us, RtpPacket& out) {
  return join(source, has_slipped(timestamp, now_us), sequence, timestamp, marker, now_us, out);
}

bool OutStream::join(uint64_t source, bool has_slipped, int64_t sequence, int64_t timestamp,
                     bool marker, int64_t now_us, RtpPacket& out) {
  const bool is_new = source != source_ || has_slipped;
  if (is_new) {
    timestamp_offset_ = next_timestamp(source_ == source ? 0 : source, now_us) - timestamp;
    sequence_offset_ = next_sequence_ - sequence;
    source_begin_ = sequence;
    source_ = source;
  }
  if (sequence < source_begin_) return false;
  const int64_t out_sequence = sequence + sequence_offset_;
  const int64_t out_timestamp = timestamp + timestamp_offset_;
  out.marker = marker || is_new;
  out.sequence = static_cast<uint16_t>(out_sequence);
  out.timestamp = static_cast<uint32_t>(out_timestamp);
  out.ssrc = ssrc_;
  sent_us_ = now_us;
  next_sequence_ = std::max(next_sequence_, out_sequence + 1);
  if (out_timestamp > last_timestamp_) {
    last_ticks_ = static_cast<uint32_t>(
        std::min<int64_t>(out_timestamp - last_timestamp_, clock_rate_hz_ / 8));
    last_timestamp_ = out_timestamp;
    last_us_ = now_us;
  }
  return true;
}

void OutStream::skip(uint64_t source, int64_t sequence) {
  if (source != source_ || sequence + sequence_offset_ != next_sequence_) return;
  sequence_offset_--;
  source_begin_ = sequence + 1;
}

uint32_t OutStream::timestamp_at(int64_t now_us) const {
  return static_cast<uint32_t>(last_timestamp_ + elapsed_ticks(now_us));
}

}  // namespace tandem
