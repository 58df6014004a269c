// Life, settings and the tick of a port; see port.h.
#include "port.h"

#include <sys/socket.h>

#include <utility>

namespace tandem {
namespace {

/// More than a receive buffer holds; a flood must not keep us here.
constexpr int kStaleDatagramsMax = 512;

/// Drops what waits in a socket: it was sent to whoever had the port before.
void empty(int fd) {
  for (int i = 0; i < kStaleDatagramsMax; i++) {
    if (recv(fd, nullptr, 0, MSG_DONTWAIT | MSG_TRUNC) < 0) return;
  }
}

}  // namespace

Port::Port(PortPair sockets, const PortIdentity& identity, int64_t now_us)
    : sockets_(std::move(sockets)),
      is_mux_(!sockets_.rtcp.is_open()),
      phase_(identity.phase.value_or(0) % kPhases),
      has_phase_(identity.phase.has_value()),
      stats_cell_(std::make_shared<SnapshotCell<PortStats>>()) {
  out_.start(identity.ssrc, static_cast<uint16_t>(identity.seed),
             static_cast<uint32_t>(identity.seed >> 16));
  rtcp_.start(identity.ssrc, identity.cname, identity.seed, now_us);
  publish();
}

bool Port::attend(Reactor& reactor) {
  empty(sockets_.rtp.fd());
  if (!is_mux_) empty(sockets_.rtcp.fd());
  if (!reactor.add(sockets_.rtp.fd(), this, kRtpChannel)) return false;
  if (is_mux_ || reactor.add(sockets_.rtcp.fd(), this, kRtcpChannel)) return true;
  reactor.remove(sockets_.rtp.fd());
  return false;
}

/// Settings came for the first time: from now on there is work.
void Port::begin() {
  if (!has_phase_) phase_ = host_->wheel().lightest();
  host_->wheel().add(this, phase_);
  has_settings_ = true;
}

void Port::change(PortChange& change, int64_t now_us) {
  if (change.has_listener) {
    std::swap(listener_, change.listener);
    is_listening_ = false;
  }
  if (change.has_speaker) std::swap(speaker_, change.speaker);
  if (change.has_settings) {
    const bool is_new_clock =
        !has_settings_ || change.settings.dtmf_clock_rate_hz != settings_.dtmf_clock_rate_hz ||
        change.settings.has_dtmf != settings_.has_dtmf;
    const Address remote_before = settings_.remote;
    std::swap(silence_, change.silence);
    settings_ = change.settings;
    if (!has_settings_) begin();
    settings_us_ = now_us;
    is_silent_ = false;
    packet_ms_ = usable_ptime_ms(settings_.codec, settings_.ptime_ms);
    out_.set_clock_rate(static_cast<uint32_t>(clock_rate_hz(settings_.codec)));
    if (is_new_clock) {
      event_receiver_.reset();
      event_sender_.reset();
      if (settings_.has_dtmf) {
        event_receiver_.emplace(settings_.dtmf_clock_rate_hz);
        event_sender_.emplace(settings_.dtmf_clock_rate_hz, kFrameMs);
      }
    }
    if (!(settings_.remote == remote_before)) {
      is_heard_ = false;
      learnt_rtcp_ = Address();
    }
    const bool was_locked = guard_.is_locked();
    guard_.configure(settings_.remote, settings_.latch, now_us);
    if (was_locked && !guard_.is_locked()) {
      // A new peer: its stream is a new one, and any source may have to be heard again.
      disconnect_socket();
      sequence_.reset();
      is_phase_placed_ = false;
    }
  }
  update_bridge();
}

void Port::connect(Port* peer, int64_t now_us) {
  if (peer_ == peer) return;
  Port* const before = std::exchange(peer_, peer);
  if (before != nullptr) {
    before->peer_ = nullptr;
    before->update_bridge();
  }
  bridged_us_ = now_us;
  if (peer != nullptr) peer->connect(this, now_us);
  update_bridge();
}

void Port::close(int64_t now_us) {
  connect(nullptr, now_us);
  while (player_count_ > 0) stop_player(players_[0], PlayReason::kStopped);
  while (recorder_count_ > 0) stop_recorder(recorders_[0], RecordReason::kPortClosed);
  if (out_.packets() > 0) send_report(now_us, true);
  host_->reactor().remove(sockets_.rtp.fd());
  if (!is_mux_) host_->reactor().remove(sockets_.rtcp.fd());
  if (has_settings_) host_->wheel().remove(this, phase_);
}

bool Port::add_player(Player* player) {
  if (player_count_ == kPlayersMax) return false;
  players_[player_count_++] = player;
  update_bridge();
  return true;
}

void Port::stop_player(Player* player, PlayReason reason) {
  for (size_t i = 0; i < player_count_; i++) {
    if (players_[i] != player) continue;
    if (player->is_digits() && reason != PlayReason::kFinished) {
      if (event_sender_) event_sender_->cancel();
      tone_.cancel();
    }
    host_->events().post(EventType::kPlayDone, player->handle, static_cast<double>(reason),
                         player->played_ms());
    // Order is kept: digits are sent first come, first served.
    for (size_t j = i + 1; j < player_count_; j++) players_[j - 1] = players_[j];
    players_[--player_count_] = nullptr;
    host_->retire(player->handle);
    update_bridge();
    return;
  }
}

bool Port::add_recorder(Recorder* recorder) {
  if (recorder_count_ == kRecordersMax) return false;
  recorders_[recorder_count_++] = recorder;
  update_bridge();
  return true;
}

void Port::stop_recorder(Recorder* recorder, RecordReason reason) {
  for (size_t i = 0; i < recorder_count_; i++) {
    if (recorders_[i] != recorder) continue;
    recorder->finish(reason);
    recorders_[i] = recorders_[--recorder_count_];
    recorders_[recorder_count_] = nullptr;
    host_->retire(recorder->handle);
    update_bridge();
    return;
  }
}

bool Port::records_said() const {
  for (size_t i = 0; i < recorder_count_; i++) {
    if (recorders_[i]->source() != RecordSource::kIn) return true;
  }
  return false;
}

void Port::update_mode() {
  is_relaying_ = peer_ != nullptr && has_settings_ && peer_->has_settings_ &&
                 can_relay(settings_, peer_->settings_) && !peer_->wants_voice();
  const bool is_wanted =
      recorder_count_ > 0 || settings_.listens_for_tones() ||
      (peer_ != nullptr && (!is_relaying_ || peer_->records_said()));
  const bool is_listening = listener_ != nullptr && has_settings_ && is_wanted;
  if (is_listening && !is_listening_) listener_->reset();
  is_listening_ = is_listening;
}

void Port::update_bridge() {
  update_mode();
  stir();
  if (peer_ == nullptr) return;
  peer_->update_mode();
  peer_->stir();
}

/// The stages of one 20 ms turn, in order.
void Port::tick(int64_t now_us) {
  if (now_us < rest_until_us_) return;
  update_mode();
  listen(now_us);
  if (peer_ != nullptr) hand_over(now_us);
  if (peer_ == nullptr) {
    speak({}, now_us);
  } else if (peer_->is_relaying_) {
    speak_relayed(now_us);
  }
  watch(now_us);
  step_recorders();
  connect_socket();
  if (rtcp_.is_due(now_us)) send_report(now_us, false);
  publish();
  rest_until_us_ = next_work_us();
}

/// When the next tick has something to do, unless something stirs the port before: at once, but
/// for a leg whose packets are relayed both ways and one that stands alone and must not speak.
int64_t Port::next_work_us() const {
  const bool is_relay = peer_ != nullptr && is_relaying_ && peer_->is_relaying_;
  const bool is_mute = peer_ == nullptr && !may_send();
  const bool is_digit = (event_receiver_ && event_receiver_->active()) ||
                        (event_sender_ && event_sender_->busy()) || tone_.busy();
  if (!is_relay && !is_mute) return 0;
  if (is_listening_ || is_digit || player_count_ > 0 || recorder_count_ > 0) return 0;
  int64_t next_us = rtcp_.due_us();
  if (may_send()) next_us = std::min(next_us, keep_alive_us());
  return std::min(next_us, silent_us());
}

/// When a silent remote is to be told of.
int64_t Port::silent_us() const {
  if (settings_.silent_timeout_ms <= 0 || is_silent_) return kNever;
  if (!settings_.can_hear() || !settings_.remote.is_set()) return kNever;
  return std::max(last_packet_us_, settings_us_) + settings_.silent_timeout_ms * 1000;
}

int64_t Port::keep_alive_us() const {
  return std::max(out_.last_sent_us(), bridged_us_) + kKeepAliveUs;
}

void Port::listen(int64_t now_us) {
  heard_ = {};
  if (!is_listening_) return;
  heard_ = listener_->next(now_us);
  for (size_t i = 0; i < recorder_count_; i++) recorders_[i]->hear(heard_);
  if (!settings_.listens_for_tones()) return;
  std::array<DtmfDigit, 2> digits;
  const int count = listener_->digits(digits);
  for (int i = 0; i < count; i++) report_digit(digits[static_cast<size_t>(i)], true);
}

void Port::hand_over(int64_t now_us) {
  if (is_relaying_) {
    peer_->say_tap(heard_);
    return;
  }
  // While a digit is on its way by event, the audio around it is not passed on
  // (RFC 4733 §2.5.1.6): the far side would hear the digit twice.
  const bool is_digit = event_receiver_ && event_receiver_->active();
  static constexpr FrameBuffer kQuiet{};
  if (is_digit) heard_.samples = std::span(kQuiet).first(heard_.samples.size());
  peer_->speak(heard_, now_us);
}

void Port::watch(int64_t now_us) {
  DtmfDigit digit;
  if (event_receiver_ && event_receiver_->poll(now_us, digit) > 0) report_digit(digit, false);
  if (now_us < silent_us()) return;
  const int64_t silent_ms = (now_us - std::max(last_packet_us_, settings_us_)) / 1000;
  is_silent_ = true;
  host_->events().post(EventType::kSilent, handle, static_cast<double>(silent_ms));
}

void Port::step_recorders() {
  for (size_t i = recorder_count_; i > 0; i--) {
    Recorder* const recorder = recorders_[i - 1];
    if (!recorder->step()) stop_recorder(recorder, RecordReason::kStopped);
  }
}

/// Once the signalled source is heard the kernel drops every other one, and sends are cheaper. Not
/// to a source that was only learnt: the signalled one must still get through. Not on a
/// shared port whose peer sends RTCP from another one.
void Port::connect_socket() {
  if (is_connected_ || !guard_.is_final()) return;
  if (is_mux_ && !settings_.rtcp_mux) return;
  const Address& peer = guard_.peer();
  is_connected_ = ::connect(sockets_.rtp.fd(), peer.data(), peer.size()) == 0;
}

void Port::disconnect_socket() {
  if (!is_connected_) return;
  sockaddr none{};
  none.sa_family = AF_UNSPEC;
  is_connected_ = ::connect(sockets_.rtp.fd(), &none, sizeof none) != 0;
}

/// Serves this leg just after its packets come, so that they wait least.
void Port::move_phase(int64_t arrival_us) {
  if (is_phase_placed_ || has_phase_) return;
  is_phase_placed_ = true;
  const uint32_t phase = Wheel<Port>::after(arrival_us);
  if (phase == phase_) return;
  host_->wheel().remove(this, phase_);
  phase_ = phase;
  host_->wheel().add(this, phase_);
}

void Port::publish() {
  const auto clock_rate = static_cast<uint32_t>(clock_rate_hz(settings_.codec));
  PortStats stats;
  stats.packets_received = packets_received_;
  stats.bytes_received = bytes_received_;
  stats.packets_sent = out_.packets();
  stats.bytes_sent = out_.bytes();
  stats.packets_lost = std::max<int64_t>(0, lost_before_ + reception_.lost_total());
  stats.jitter_ms = reception_.jitter_ms(clock_rate);
  stats.round_trip_ms = rtcp_.round_trip_ms();
  stats.remote_loss_fraction = rtcp_.remote_loss();
  if (listener_ != nullptr) {
    const JitterStats& jitter = listener_->stats();
    stats.late_discards = jitter.late_discards;
    stats.concealed_ms = static_cast<double>(jitter.concealed_ticks) * 1000 / clock_rate;
    if (is_listening_) stats.jitter_buffer_ms = listener_->buffered_ms();
  }
  stats.bad_packets = bad_packets_;
  stats.wrong_source = wrong_source_;
  stats.last_packet_us = last_packet_us_;
  stats.ssrc_in = sequence_.ssrc();
  stats.ssrc_out = out_.ssrc();
  stats.peer = guard_.peer();
  if (peer_ != nullptr) {
    stats.mode = is_relaying_ ? PortMode::kRelay : PortMode::kTranscode;
  } else if (may_send() || recorder_count_ > 0) {
    stats.mode = PortMode::kLocal;
  }
  stats_cell_->store(stats);
}

}  // namespace tandem
