// Sending side of a leg's audio; see speaker.h.
#include "speaker.h"

namespace tandem {
namespace {

CodecOptions codec_options(const SpeakerOptions& options) {
  CodecOptions out;
  out.opus_bitrate_bps = options.opus_bitrate_bps;
  out.opus_complexity = options.opus_complexity;
  out.opus_fec = options.opus_fec;
  out.opus_dtx = options.opus_dtx;
  return out;
}

}  // namespace

int usable_ptime_ms(CodecId codec, int ptime_ms) {
  const int whole = std::clamp(ptime_ms / 10 * 10, 10, 120);
  if (codec != CodecId::kOpus) return whole;
  return whole >= 60 ? 60 : whole >= 40 ? 40 : whole >= 20 ? 20 : 10;
}

std::vector<uint8_t> encode_silence(CodecId codec, int ptime_ms) {
  const auto encoder = make_encoder(codec, 16000, CodecOptions{});
  if (encoder == nullptr) return {};
  const int usable_ms = usable_ptime_ms(codec, ptime_ms);
  const std::vector<int16_t> zeros(static_cast<size_t>(encoder->sample_rate() / 1000 * usable_ms));
  std::vector<uint8_t> payload(kPacketBytesMax - kRtpHeaderBytes);
  int bytes = 0;
  // A few frames first, so that the encoder has settled and the payload repeats cleanly.
  for (int i = 0; i < 10; i++) bytes = encoder->encode(zeros, payload);
  payload.resize(static_cast<size_t>(std::max(0, bytes)));
  return payload;
}

Speaker::Speaker(const SpeakerOptions& options)
    : rate_hz_(options.rate_hz),
      ptime_ms_(usable_ptime_ms(options.codec, options.ptime_ms)),
      packet_ticks_(static_cast<uint32_t>(clock_rate_hz(options.codec) / 1000 * ptime_ms_)),
      encoder_(make_encoder(options.codec, options.rate_hz, codec_options(options))),
      input_(encoder_ != nullptr ? encoder_->sample_rate() : options.rate_hz) {
  rate_hz_ = input_.rate_hz();
}

std::span<int16_t> Speaker::silence() {
  const std::span<int16_t> out = std::span(frame_).first(frame_samples(rate_hz_));
  std::fill(out.begin(), out.end(), int16_t{0});
  return out;
}

}  // namespace tandem
