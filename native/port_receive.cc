// The receive pipeline of a port; see port.h.
#include "clock.h"
#include "port.h"

namespace tandem {

/// The stages of a received datagram, in order.
void Port::on_datagram(uint32_t channel, std::span<uint8_t> datagram, const Address& from,
                       int64_t now_us) {
  stir();
  if (channel == kRtcpChannel || is_rtcp(datagram)) {
    receive_rtcp(datagram, from, now_us);
    return;
  }
  RtpPacket packet;
  if (!parse_rtp(datagram, packet)) {
    bad_packets_++;
    return;
  }
  if (!has_settings_) {
    wrong_source_++;
    return;
  }
  const Payload kind = classify(packet.payload_type);
  if (kind == Payload::kUnknown) {
    bad_packets_++;
    return;
  }
  if (!admit(packet, from, now_us)) return;
  const int64_t sequence = sequence_unwrapper_.unwrap(packet.sequence);
  const int64_t timestamp = timestamp_unwrapper_.unwrap(packet.timestamp);
  // The timestamp of an event is that of its start: it says nothing about transit time.
  reception_.update(sequence, packet.timestamp, now_us,
                    static_cast<uint32_t>(clock_rate_hz(settings_.codec)), kind == Payload::kMedia);
  note_packet(datagram.size(), now_us);
  if (!settings_.can_hear()) return;
  if (kind == Payload::kEvent) {
    receive_event(packet, sequence, timestamp, now_us);
    return;
  }
  if (kind == Payload::kComfortNoise) {
    if (is_listening_) listener_->comfort_noise(sequence, packet.payload);
    if (is_relaying_) peer_->skip(stream_id(), sequence);
    return;
  }
  // First the copy, then the relay: relaying rewrites the datagram where it lies.
  if (is_listening_) listener_->insert(sequence, timestamp, now_us, packet.payload, packet.marker);
  if (is_relaying_) {
    peer_->relay_media(stream_id(), packet, settings_.codec, sequence, timestamp, now_us);
  }
}

Port::Payload Port::classify(uint8_t payload_type) const {
  if (payload_type == settings_.receive_payload_type) return Payload::kMedia;
  if (settings_.has_dtmf && payload_type == settings_.dtmf_receive_payload_type) {
    return Payload::kEvent;
  }
  if (payload_type == kComfortNoiseType) return Payload::kComfortNoise;
  // Some peers number what they send as they announced it, not as we asked (RFC 3264 §5.1 lets
  // the two differ): their own number is understood as well.
  if (payload_type == settings_.payload_type) return Payload::kMedia;
  if (settings_.has_dtmf && payload_type == settings_.dtmf_payload_type) return Payload::kEvent;
  return Payload::kUnknown;
}

/// Right source, right stream. Makes the lock and begins streams.
bool Port::admit(const RtpPacket& packet, const Address& from, int64_t now_us) {
  switch (guard_.check(from, packet, now_us)) {
    case SourceGuard::Verdict::kReject:
      wrong_source_++;
      return false;
    case SourceGuard::Verdict::kLatched:
      // Another source: a digit that the one before left open is not this one's.
      sequence_.reset();
      learnt_rtcp_ = Address();
      if (event_receiver_) event_receiver_->abandon();
      host_->events().post(EventType::kLatched, handle);
      move_phase(now_us);
      break;
    case SourceGuard::Verdict::kAccept:
      break;
  }
  switch (sequence_.update(packet.ssrc, packet.sequence)) {
    case SequenceGuard::Verdict::kDrop:
      bad_packets_++;
      return false;
    case SequenceGuard::Verdict::kAcceptNew:
      begin_stream(packet);
      return true;
    case SequenceGuard::Verdict::kAccept:
      return true;
  }
  return false;
}

void Port::begin_stream(const RtpPacket& packet) {
  lost_before_ += std::max<int64_t>(0, reception_.lost_total());
  sequence_unwrapper_.reset();
  timestamp_unwrapper_.reset();
  reception_.start(packet.sequence);
  epoch_++;
  if (listener_ != nullptr) listener_->reset();
}

void Port::note_packet(size_t bytes, int64_t now_us) {
  if (packets_received_ == 0) host_->events().post(EventType::kFirstPacket, handle);
  is_heard_ = true;
  packets_received_++;
  bytes_received_ += bytes;
  last_packet_us_ = now_us;
  if (!is_silent_) return;
  is_silent_ = false;
  host_->events().post(EventType::kActive, handle);
}

void Port::receive_event(const RtpPacket& packet, int64_t sequence, int64_t timestamp,
                         int64_t now_us) {
  // DtmfDigit events are reported once, at their end, whether or not they are passed on.
  if (is_listening_) listener_->note(sequence);
  std::array<DtmfDigit, 2> digits;
  const int count = event_receiver_->receive(packet.ssrc, packet.timestamp, packet.marker,
                                             packet.payload, now_us, digits);
  if (is_relaying_) {
    if (peer_->relay_event(stream_id(), packet, settings_.dtmf_clock_rate_hz, sequence, timestamp,
                           now_us)) {
      is_event_relayed_ = true;
    } else {
      peer_->skip(stream_id(), sequence);
    }
  }
  for (int i = 0; i < count; i++) report_digit(digits[static_cast<size_t>(i)], false);
}

void Port::report_digit(const DtmfDigit& digit, bool inband) {
  host_->events().post(EventType::kDigit, handle, digit.key,
                       digit.duration_ms * 2 + (inband ? 1 : 0));
  // In-band digits reach the peer in the audio; events that were not relayed are made anew.
  if (peer_ != nullptr && !inband && !is_event_relayed_) peer_->send_digit(digit);
  if (!inband) is_event_relayed_ = false;
}

/// A NAT may move reports as it moves media. Their address is learnt once and in the learning
/// window, and the signalled one takes its place whenever it is heard: else anybody at the peer's
/// IP could turn our reports away.
void Port::learn_rtcp(const Address& from, int64_t now_us) {
  if (settings_.rtcp_mux) return;
  const bool may_learn = !learnt_rtcp_.is_set() && guard_.may_learn(now_us);
  if (may_learn || from == signalled_rtcp()) learnt_rtcp_ = from;
}

void Port::receive_rtcp(std::span<const uint8_t> datagram, const Address& from, int64_t now_us) {
  if (!has_settings_ || !guard_.allows_rtcp(from)) {
    wrong_source_++;
    return;
  }
  RtcpReport report;
  if (!parse_rtcp(datagram, out_.ssrc(), report)) {
    bad_packets_++;
    return;
  }
  learn_rtcp(from, now_us);
  rtcp_.receive(report, wall_now_ntp(), now_us);
  if (report.has_block && speaker_ != nullptr) {
    speaker_->set_loss(static_cast<float>(rtcp_.remote_loss() * 100));
  }
}

}  // namespace tandem
