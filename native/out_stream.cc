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
  return packet;
}

void OutStream::pass(uint32_t ticks, int64_t now_us) {
  last_timestamp_ = next_timestamp(kLocal, now_us);
  last_ticks_ = ticks;
  last_us_ = now_us;
}

bool OutStream::relay(uint64_t source, int64_t sequence, int64_t timestamp, bool marker,
                      int64_t now_us, RtpPacket& out) {
  bool is_new = source != source_;
  if (!is_new) {
    const int64_t expected = last_timestamp_ + elapsed_ticks(now_us);
    const int64_t slip = std::abs(timestamp + timestamp_offset_ - expected);
    is_new = slip > kTimestampSlipUs * clock_rate_hz_ / 1'000'000;
  }
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
