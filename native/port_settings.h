// What a port is told and what it tells: plain values that cross threads whole.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "address.h"
#include "codec.h"
#include "listener.h"
#include "resource.h"
#include "source_guard.h"
#include "speaker.h"

namespace tandem {

/// Ours, in the words of RFC 3264; numbers as src/media/binding.ts.
enum class Direction : uint8_t { kSendRecv = 0, kSendOnly = 1, kRecvOnly = 2, kInactive = 3 };

struct PortSettings {
  Address remote;  // unset: nothing is sent and nothing believed
  Address remote_rtcp;
  bool rtcp_mux = false;
  CodecId codec = CodecId::kPcmu;
  uint8_t payload_type = 0;
  uint8_t receive_payload_type = 0;
  int ptime_ms = 20;
  bool has_dtmf = false;
  uint8_t dtmf_payload_type = 101;
  uint8_t dtmf_receive_payload_type = 101;
  int dtmf_clock_rate_hz = 8000;
  Direction direction = Direction::kSendRecv;
  LatchMode latch = LatchMode::kSignalled;
  int opus_bitrate_bps = 0;
  int opus_complexity = 5;
  bool opus_fec = true;
  bool opus_dtx = false;
  int jitter_min_ms = 20;
  int jitter_max_ms = 200;
  int64_t silent_timeout_ms = 0;  // 0: off
  bool inband_dtmf = false;
  /// Whoever gave us `remote` is really there (it acknowledged our answer, or answered us). Until
  /// then, or until RTP comes from it, it gets a few packets only: a forged offer must not aim us
  /// at somebody.
  bool proven = true;

  /// Digits are looked for in the audio only where no events were agreed on: a phone that sends
  /// both would be heard twice.
  bool listens_for_tones() const { return inband_dtmf && !has_dtmf; }
  bool can_send() const {
    return direction == Direction::kSendRecv || direction == Direction::kSendOnly;
  }
  bool can_hear() const {
    return direction == Direction::kSendRecv || direction == Direction::kRecvOnly;
  }
};

/// Packets of one port can leave by the other without being decoded: the same codec, or the two
/// laws of G.711 (translated byte by byte), and the same packet time.
inline bool can_relay(const PortSettings& a, const PortSettings& b) {
  const bool is_law = a.codec <= CodecId::kPcma && b.codec <= CodecId::kPcma;
  return (a.codec == b.codec || is_law) &&
         usable_ptime_ms(a.codec, a.ptime_ms) == usable_ptime_ms(b.codec, b.ptime_ms);
}

/// New settings and the parts they need, made ready off the real-time thread. The port swaps them
/// in, and what it had goes back in here to be freed elsewhere.
struct PortChange final : Resource {
  bool has_settings = false;
  PortSettings settings;
  std::shared_ptr<const std::vector<uint8_t>> silence;  // with has_settings
  bool has_listener = false;
  std::unique_ptr<Listener> listener;
  bool has_speaker = false;
  std::unique_ptr<Speaker> speaker;
};

enum class PortMode : uint8_t { kIdle = 0, kRelay = 1, kTranscode = 2, kLocal = 3 };

struct PortStats {
  uint64_t packets_received = 0;
  uint64_t bytes_received = 0;
  uint64_t packets_sent = 0;
  uint64_t bytes_sent = 0;
  int64_t packets_lost = 0;
  double jitter_ms = 0;
  double round_trip_ms = -1;
  double remote_loss_fraction = 0;
  uint64_t late_discards = 0;
  double concealed_ms = 0;
  int jitter_buffer_ms = 0;
  uint64_t bad_packets = 0;
  uint64_t wrong_source = 0;
  int64_t last_packet_us = 0;  // steady clock; 0: none yet
  uint32_t ssrc_in = 0;
  uint32_t ssrc_out = 0;
  Address peer;
  PortMode mode = PortMode::kIdle;
};

}  // namespace tandem
