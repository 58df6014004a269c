// What each port is equipped with: decoder, encoder and their rates are made on the control thread
// exactly when something needs them, so that a relayed call carries neither.
#include "engine.h"

namespace tandem {
namespace {

/// The rate at which a codec alone is best heard.
int natural_rate_hz(CodecId codec) { return codec <= CodecId::kPcma ? 8000 : 16000; }

bool is_joined_by_relay(const std::optional<PortSettings>& a,
                        const std::optional<PortSettings>& b) {
  return a && b && can_relay(*a, *b);
}

}  // namespace

/// The rate a port works at. Opus and G.722 are opened at the rate of the peer, which saves both
/// the resampler and most of Opus' cost when that is a telephone; between two Opus legs that cannot
/// be relayed it is the full band; alone 16 kHz, which is all that prompts and recordings carry.
int Engine::rate_hz(const Slot& slot) const {
  const CodecId codec = slot.settings->codec;
  const Slot* const peer = find(slot.peer, Kind::kPort);
  if (natural_rate_hz(codec) == 8000 || peer == nullptr || !peer->settings) {
    return natural_rate_hz(codec);
  }
  const CodecId other = peer->settings->codec;
  if (codec == CodecId::kOpus && other == CodecId::kOpus) return 48000;
  return natural_rate_hz(other);
}

bool Engine::needs_listener(const Slot& slot) const {
  if (!slot.settings) return false;
  if (slot.recorders > 0 || slot.settings->listens_for_tones()) return true;
  const Slot* const peer = find(slot.peer, Kind::kPort);
  if (peer == nullptr) return false;
  // A relay that something is played over, or whose other side is recorded, is decoded too; and
  // digits that the peer must hear as tones interrupt the relay.
  return !is_joined_by_relay(slot.settings, peer->settings) || peer->players > 0 ||
         peer->recorders > 0 || (slot.settings->has_dtmf && !peer->settings->has_dtmf);
}

bool Engine::needs_speaker(const Slot& slot) const {
  if (!slot.settings) return false;
  if (slot.players > 0) return true;
  const Slot* const peer = find(slot.peer, Kind::kPort);
  if (peer == nullptr || !peer->settings) return false;
  return !is_joined_by_relay(slot.settings, peer->settings) ||
         (peer->settings->has_dtmf && !slot.settings->has_dtmf);
}

/// The parts that are missing or no longer fit. What is not needed any more stays: it costs memory
/// only, and a second prompt finds it ready.
std::unique_ptr<PortChange> Engine::plan(Slot& slot) {
  auto change = std::make_unique<PortChange>();
  if (needs_listener(slot)) {
    const PortSettings& settings = *slot.settings;
    ListenerOptions options;
    options.codec = settings.codec;
    options.rate_hz = rate_hz(slot);
    options.ptime_ms = usable_ptime_ms(settings.codec, settings.ptime_ms);
    options.jitter_min_ms = settings.jitter_min_ms;
    options.jitter_max_ms = settings.jitter_max_ms;
    options.inband = settings.listens_for_tones();
    if (slot.listener != options) {
      change->has_listener = true;
      change->listener = std::make_unique<Listener>(options);
      if (!change->listener->is_valid()) throw EngineError("MEDIA_COMMAND", "no decoder");
      slot.listener = options;
    }
  }
  if (needs_speaker(slot)) {
    const PortSettings& settings = *slot.settings;
    SpeakerOptions options;
    options.codec = settings.codec;
    options.rate_hz = rate_hz(slot);
    options.ptime_ms = usable_ptime_ms(settings.codec, settings.ptime_ms);
    options.opus_bitrate_bps = settings.opus_bitrate_bps;
    options.opus_complexity = settings.opus_complexity;
    options.opus_fec = settings.opus_fec;
    options.opus_dtx = settings.opus_dtx;
    if (slot.speaker != options) {
      change->has_speaker = true;
      change->speaker = std::make_unique<Speaker>(options);
      if (!change->speaker->is_valid()) throw EngineError("MEDIA_COMMAND", "no encoder");
      slot.speaker = options;
    }
  }
  // Parts of an old codec must not meet packets of the new one.
  if (slot.listener && slot.settings && slot.listener->codec != slot.settings->codec) {
    slot.listener.reset();
    change->has_listener = true;
  }
  if (slot.speaker && slot.settings && slot.speaker->codec != slot.settings->codec) {
    slot.speaker.reset();
    change->has_speaker = true;
  }
  return change;
}

void Engine::equip(Handle handle) {
  Slot* const slot = find(handle, Kind::kPort);
  if (slot == nullptr) return;
  auto change = plan(*slot);
  if (!change->has_listener && !change->has_speaker) return;
  push({CommandKind::kChangePort, handle, 0, false, std::move(change)});
}

void Engine::equip_pair(Handle handle) {
  equip(handle);
  if (const Slot* const slot = find(handle, Kind::kPort)) equip(slot->peer);
}

std::shared_ptr<const std::vector<uint8_t>> Engine::silence(CodecId codec, int ptime_ms) {
  auto& known = silences_[{codec, usable_ptime_ms(codec, ptime_ms)}];
  if (known == nullptr) {
    known = std::make_shared<const std::vector<uint8_t>>(encode_silence(codec, ptime_ms));
  }
  return known;
}

}  // namespace tandem
