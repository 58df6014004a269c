// The send pipeline of a port; see port.h.
#include "clock.h"
#include "g711.h"
#include "mixer.h"
#include "port.h"

namespace tandem {

/// A packet of the peer leaves by this port with a new header, in the memory it came in.
void Port::relay_media(uint64_t source, const RtpPacket& packet, CodecId codec, int64_t sequence,
                       int64_t timestamp, int64_t now_us) {
  // While a digit of ours is on the line, or the direction forbids, packets are left out so that
  // the receiver sees no loss.
  if (is_sending_event_ || !may_send()) {
    out_.skip(source, sequence);
    return;
  }
  RtpPacket out = packet;
  out.payload_type = settings_.payload_type;
  if (!out_.relay(source, sequence, timestamp, packet.marker, now_us, out)) return;
  if (codec == CodecId::kPcmu && settings_.codec == CodecId::kPcma) {
    ulaw_to_alaw(packet.payload, packet.payload);
  } else if (codec == CodecId::kPcma && settings_.codec == CodecId::kPcmu) {
    alaw_to_ulaw(packet.payload, packet.payload);
  }
  transmit(packet.payload.data() - kRtpHeaderBytes, out, packet.payload.size());
}

/// False when this side has no events or counts them by another clock: then the digit is made
/// anew when it has ended.
bool Port::relay_event(uint64_t source, const RtpPacket& packet, int clock_rate_hz,
                       int64_t sequence, int64_t timestamp, int64_t now_us) {
  if (!settings_.has_dtmf || settings_.dtmf_clock_rate_hz != clock_rate_hz) return false;
  if (is_sending_event_ || !may_send()) return false;
  RtpPacket out = packet;
  out.payload_type = settings_.dtmf_payload_type;
  if (!out_.relay_event(source, sequence, timestamp, packet.marker, now_us, out)) return false;
  transmit(packet.payload.data() - kRtpHeaderBytes, out, packet.payload.size());
  return true;
}

/// The stages of 20 ms of speech, in order: digits, else players and bridged audio mixed, else
/// silence. `bridged` is empty when there is no peer to decode.
void Port::speak(const AudioFrame& bridged, int64_t now_us) {
  feed_digits();
  if (send_event(now_us)) return;
  if (bridged.empty() && !wants_voice()) {
    send_silence(now_us);
    return;
  }
  if (speaker_ == nullptr) return;
  std::span<int16_t> frame;
  if (tone_.busy()) {
    std::array<int16_t, 160> tone;
    tone_.generate(tone);
    frame = speaker_->convert({tone, 8000});
  } else {
    frame = bridged.empty() ? speaker_->silence() : speaker_->convert(bridged);
    mix_players(frame);
  }
  say_tap({frame, speaker_->rate_hz()});
  silence_due_ms_ = 0;
  speaker_->say(frame, [&](std::span<uint8_t> payload, uint32_t ticks) {
    if (payload.empty() || !may_send()) {
      out_.pass(ticks, now_us);
      return;
    }
    const RtpPacket packet = out_.local(settings_.payload_type, ticks, now_us);
    transmit(payload.data() - kRtpHeaderBytes, packet, payload.size());
  });
}

/// The peer relays to this port: only digits are added, and a sign of life when nothing comes.
void Port::speak_relayed(int64_t now_us) {
  feed_digits();
  if (send_event(now_us)) return;
  if (now_us >= keep_alive_us()) send_silence(now_us);
}

bool Port::wants_voice() const {
  if (tone_.busy()) return true;
  for (size_t i = 0; i < player_count_; i++) {
    if (!players_[i]->is_digits() || !event_sender_) return true;
  }
  return false;
}

void Port::mix_players(std::span<int16_t> frame) {
  FrameBuffer buffer;
  const std::span<int16_t> own = std::span(buffer).first(frame.size());
  for (size_t i = player_count_; i > 0; i--) {
    Player* const player = players_[i - 1];
    if (player->is_digits()) continue;
    const Player::State state = player->fill(own, speaker_->rate_hz());
    mix_saturate(frame, own, frame);
    if (state == Player::State::kPlaying) continue;
    stop_player(player, state == Player::State::kFinished ? PlayReason::kFinished
                                                          : PlayReason::kFailed);
  }
}

/// Moves the steps of the first digit player into the sender, as far as it has room.
void Port::feed_digits() {
  Player* player = nullptr;
  for (size_t i = 0; i < player_count_ && player == nullptr; i++) {
    if (players_[i]->is_digits()) player = players_[i];
  }
  if (player == nullptr) return;
  const auto push = [this](const Player::DigitStep& step) {
    if (event_sender_) {
      return step.key == kNoKey ? event_sender_->push_pause(step.duration_ms)
                                : event_sender_->push(step.key, step.duration_ms);
    }
    return step.key == kNoKey ? tone_.push_pause(step.duration_ms)
                              : tone_.push(step.key, step.duration_ms);
  };
  const bool had_steps = player->next_step() != nullptr;
  while (const Player::DigitStep* step = player->next_step()) {
    if (!push(*step)) break;
    player->take_step();
  }
  const bool is_busy = event_sender_ ? event_sender_->busy() : tone_.busy();
  if (!had_steps && !is_busy) {
    stop_player(player, PlayReason::kFinished);
  } else {
    player->count_ms(kFrameMs);
  }
}

/// One packet of a telephone event instead of audio; false when there is none to send.
bool Port::send_event(int64_t now_us) {
  is_sending_event_ = false;
  if (!event_sender_ || !event_sender_->busy()) return false;
  EventSender::Packet event;
  if (event_sender_->next(out_.local_timestamp(now_us), event) != EventSender::Step::kEvent) {
    return false;
  }
  is_sending_event_ = true;
  if (speaker_ != nullptr) speaker_->restart();
  silence_due_ms_ = 0;
  const auto ticks = static_cast<uint32_t>(clock_rate_hz(settings_.codec) / 1000 * kFrameMs);
  if (!may_send()) {
    out_.pass(ticks, now_us);
    return true;
  }
  const RtpPacket packet = out_.event(settings_.dtmf_payload_type, event.timestamp, event.marker,
                                      ticks, now_us);
  const std::span<uint8_t> datagram = host_->scratch();
  std::copy(event.payload.begin(), event.payload.end(), datagram.begin() + kRtpHeaderBytes);
  transmit(datagram.data(), packet, event.payload.size());
  return true;
}

void Port::send_silence(int64_t now_us) {
  if (!may_send() || silence_ == nullptr || silence_->empty()) return;
  const std::span<uint8_t> datagram = host_->scratch();
  const auto ticks = static_cast<uint32_t>(clock_rate_hz(settings_.codec) / 1000 * packet_ms_);
  for (silence_due_ms_ += kFrameMs; silence_due_ms_ >= packet_ms_; silence_due_ms_ -= packet_ms_) {
    const RtpPacket packet = out_.local(settings_.payload_type, ticks, now_us);
    std::copy(silence_->begin(), silence_->end(), datagram.begin() + kRtpHeaderBytes);
    transmit(datagram.data(), packet, silence_->size());
  }
}

/// A digit that the peer heard and that could not be relayed.
void Port::send_digit(const DtmfDigit& digit) {
  if (event_sender_) {
    event_sender_->push(digit.key, digit.duration_ms);
  } else if (speaker_ != nullptr) {
    tone_.push(digit.key, digit.duration_ms);
    update_bridge();
  }
}

void Port::transmit(uint8_t* header, const RtpPacket& packet, size_t payload_bytes) {
  write_rtp_header(header, packet);
  const std::span<const uint8_t> datagram(header, kRtpHeaderBytes + payload_bytes);
  const Address* const to = is_connected_ ? nullptr : &guard_.peer();
  if (send(sockets_.rtp.fd(), datagram, to)) out_.count(payload_bytes);
  stir();
}

/// Everything leaves here, so that nothing escapes the allowance of an unproven remote.
bool Port::send(int fd, std::span<const uint8_t> datagram, const Address* to) {
  if (!may_aim()) return false;
  if (!settings_.proven && !is_heard_) unproven_packets_++;
  return host_->reactor().send(fd, datagram, to);
}

void Port::say_tap(const AudioFrame& frame) {
  for (size_t i = 0; i < recorder_count_; i++) recorders_[i]->say(frame);
}

/// Where signaling says that reports go: named, or next to the media (RFC 3550 §11).
Address Port::signalled_rtcp() const {
  const Address& media = guard_.peer();
  if (settings_.remote_rtcp.is_set() && settings_.remote_rtcp.same_ip(media)) {
    return settings_.remote_rtcp;
  }
  Address next = media;
  next.set_port(static_cast<uint16_t>(media.port() + 1));
  return next;
}

Address Port::rtcp_peer() const {
  if (settings_.rtcp_mux) return guard_.peer();
  return learnt_rtcp_.is_set() ? learnt_rtcp_ : signalled_rtcp();
}

void Port::send_report(int64_t now_us, bool bye) {
  SenderInfo sender;
  sender.ssrc = out_.ssrc();
  sender.rtp_timestamp = out_.timestamp_at(now_us);
  sender.packets = static_cast<uint32_t>(out_.packets());
  sender.octets = static_cast<uint32_t>(out_.octets());
  ReceptionStats* const reception = sequence_.is_started() ? &reception_ : nullptr;
  const std::span<uint8_t> out = host_->scratch();
  const uint32_t size = rtcp_.build(out, sender, reception, sequence_.ssrc(), wall_now_ntp(),
                                    now_us, bye);
  const Address to = rtcp_peer();
  if (size == 0 || !to.is_set() || to.port() == 0) return;
  const std::span<const uint8_t> datagram = out.first(size);
  if (is_mux_ || settings_.rtcp_mux) {
    send(sockets_.rtp.fd(), datagram, is_connected_ ? nullptr : &to);
  } else {
    send(sockets_.rtcp.fd(), datagram, &to);
  }
}

}  // namespace tandem
