// What a leg says: 20 ms frames of linear audio at any rate to encoded payloads of the leg's
// packet time. Not RTP: the caller puts headers on. Also the encoded silence an idle leg sends.
// Built off the real-time thread, then used by it alone.
#pragma once

#include <memory>
#include <vector>

#include "audio.h"
#include "codec.h"
#include "resource.h"
#include "rtp.h"

namespace tandem {

struct SpeakerOptions {
  CodecId codec = CodecId::kPcmu;
  int rate_hz = 8000;
  int ptime_ms = 20;
  int opus_bitrate_bps = 0;
  int opus_complexity = 5;
  bool opus_fec = true;
  bool opus_dtx = false;
  bool operator==(const SpeakerOptions&) const = default;
};

/// The packet time a codec can really be sent with: what was asked in whole 10 ms, and a frame
/// length that Opus knows (RFC 6716 §2).
int usable_ptime_ms(CodecId codec, int ptime_ms);

/// One payload of silence, encoded once per codec and packet time: repeating it costs no encoding.
std::vector<uint8_t> encode_silence(CodecId codec, int ptime_ms);

class Speaker final : public Resource {
 public:
  explicit Speaker(const SpeakerOptions& options);

  bool is_valid() const { return encoder_ != nullptr; }
  int rate_hz() const { return rate_hz_; }
  /// The frame converted to rate_hz(), in memory of the speaker; for mixing in place.
  std::span<int16_t> convert(const AudioFrame& frame) { return input_.convert(frame, frame_); }
  std::span<int16_t> silence();

  /// Takes one frame at rate_hz() and calls `send(payload, ticks)` for each whole packet; an empty
  /// payload means that nothing needs sending for that time (DTX).
  template <typename Send>
  void say(std::span<const int16_t> frame, Send&& send) {
    fifo_.push(frame);
    const auto packet_samples = static_cast<size_t>(rate_hz_ / 1000 * ptime_ms_);
    while (fifo_.size() >= packet_samples) {
      const std::span<int16_t> samples = std::span(packet_).first(packet_samples);
      fifo_.take(samples);
      const int bytes = encoder_->encode(samples, payload());
      send(payload().first(static_cast<size_t>(std::max(0, bytes))), packet_ticks());
    }
  }
  /// Drops a packet that is not full yet: something else is sent in its time.
  void restart() { fifo_.clear(); }
  void set_loss(float percent) { encoder_->set_loss(percent); }
  uint32_t packet_ticks() const { return packet_ticks_; }

 private:
  /// Room for a header in front, so that a payload is encoded where it is sent from.
  std::span<uint8_t> payload() { return std::span(datagram_).subspan(kRtpHeaderBytes); }

  int rate_hz_;
  int ptime_ms_;
  uint32_t packet_ticks_;
  std::unique_ptr<Encoder> encoder_;
  RateInput input_;
  FrameBuffer frame_{};
  SampleFifo<kFrameSamplesMax + kFrameSamples> fifo_;
  std::array<int16_t, kFrameSamplesMax> packet_{};
  std::array<uint8_t, kPacketBytesMax> datagram_{};
};

}  // namespace tandem
