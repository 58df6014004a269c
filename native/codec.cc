// See codec.h.
#include "codec.h"

#include <opus/opus.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "g711.h"
#include "plc.h"

extern "C" {
#include <spandsp/telephony.h>
// g722.h wants telephony.h first.
#include <spandsp/g722.h>
}

namespace tandem {
namespace {

constexpr int kG722BitRate = 64000;  // the only mode RTP has (RFC 3551 section 4.5.2)
constexpr int kNarrowHz = 8000;
constexpr int kWideHz = 16000;
constexpr int kFullHz = 48000;

class G711Encoder final : public Encoder {
 public:
  explicit G711Encoder(bool ulaw) : ulaw_(ulaw) {}

  int encode(std::span<const int16_t> frame, std::span<uint8_t> out) override {
    if (frame.empty() || out.size() < frame.size()) return -1;
    return ulaw_ ? ulaw_encode(frame, out) : alaw_encode(frame, out);
  }
  int sample_rate() const override { return kNarrowHz; }

 private:
  bool ulaw_;
};

class G711Decoder final : public Decoder {
 public:
  explicit G711Decoder(bool ulaw) : ulaw_(ulaw), plc_(kNarrowHz) {}

  int decode(std::span<const uint8_t> payload, std::span<int16_t> out) override {
    if (payload.empty() || out.empty()) return -1;
    const int count = ulaw_ ? ulaw_decode(payload, out) : alaw_decode(payload, out);
    plc_.good(out.first(static_cast<size_t>(count)));
    return count;
  }
  int conceal(std::span<int16_t> out) override {
    plc_.conceal(out);
    return static_cast<int>(out.size());
  }
  int sample_rate() const override { return kNarrowHz; }

 private:
  bool ulaw_;
  Plc plc_;
};

struct G722Free {
  void operator()(g722_encode_state_t* state) const { g722_encode_free(state); }
  void operator()(g722_decode_state_t* state) const { g722_decode_free(state); }
};

// At 8 kHz only the lower sub-band is coded: spandsp skips the filter bank.
int g722_options(int rate_hz) { return rate_hz == kNarrowHz ? G722_SAMPLE_RATE_8000 : 0; }

class G722Encoder final : public Encoder {
 public:
  explicit G722Encoder(int rate_hz)
      : rate_hz_(rate_hz),
        state_(g722_encode_init(nullptr, kG722BitRate, g722_options(rate_hz))) {}

  bool valid() const { return state_ != nullptr; }
  int encode(std::span<const int16_t> frame, std::span<uint8_t> out) override {
    const size_t samples_per_byte = rate_hz_ == kNarrowHz ? 1 : 2;
    if (frame.empty() || frame.size() % samples_per_byte != 0) return -1;
    if (frame.size() > kFrameSamplesMax || out.size() < frame.size() / samples_per_byte) return -1;
    return g722_encode(state_.get(), out.data(), frame.data(), static_cast<int>(frame.size()));
  }
  int sample_rate() const override { return rate_hz_; }

 private:
  int rate_hz_;
  std::unique_ptr<g722_encode_state_t, G722Free> state_;
};

class G722Decoder final : public Decoder {
 public:
  explicit G722Decoder(int rate_hz)
      : rate_hz_(rate_hz),
        state_(g722_decode_init(nullptr, kG722BitRate, g722_options(rate_hz))),
        plc_(rate_hz) {}

  bool valid() const { return state_ != nullptr; }
  int decode(std::span<const uint8_t> payload, std::span<int16_t> out) override {
    const size_t samples_per_byte = rate_hz_ == kNarrowHz ? 1 : 2;
    const size_t bytes = std::min(payload.size(), out.size() / samples_per_byte);
    if (bytes == 0) return -1;
    const int count =
        g722_decode(state_.get(), out.data(), payload.data(), static_cast<int>(bytes));
    if (count <= 0) return -1;
    plc_.good(out.first(static_cast<size_t>(count)));
    return count;
  }
  int conceal(std::span<int16_t> out) override {
    plc_.conceal(out);
    return static_cast<int>(out.size());
  }
  int sample_rate() const override { return rate_hz_; }

 private:
  int rate_hz_;
  std::unique_ptr<g722_decode_state_t, G722Free> state_;
  Plc plc_;
};

struct OpusFree {
  void operator()(OpusEncoder* state) const { opus_encoder_destroy(state); }
  void operator()(OpusDecoder* state) const { opus_decoder_destroy(state); }
};

// A step above the speech "sweet spots" of RFC 7587 section 3.1.1, which leaves room for FEC.
int default_bitrate(int rate_hz) {
  if (rate_hz == kNarrowHz) return 16000;
  return rate_hz == kWideHz ? 24000 : 32000;
}

class OpusVoiceEncoder final : public Encoder {
 public:
  static constexpr int kDtxBytesMax = 2;
  static constexpr float kFecOnPercent = 1.0f;

  OpusVoiceEncoder(int rate_hz, const CodecOptions& options)
      : rate_hz_(rate_hz), fec_allowed_(options.opus_fec) {
    int error = OPUS_OK;
    state_.reset(opus_encoder_create(rate_hz, 1, OPUS_APPLICATION_VOIP, &error));
    if (state_ == nullptr) return;
    const int asked = options.opus_bitrate_bps;
    const int bitrate = asked > 0 ? std::clamp(asked, 6000, 510000) : default_bitrate(rate_hz);
    opus_encoder_ctl(state_.get(), OPUS_SET_BITRATE(bitrate));
    opus_encoder_ctl(state_.get(), OPUS_SET_SIGNAL(OPUS_SIGNAL_VOICE));
    opus_encoder_ctl(state_.get(), OPUS_SET_DTX(options.opus_dtx ? 1 : 0));
    opus_encoder_ctl(state_.get(), OPUS_SET_INBAND_FEC(0));
    set_complexity(options.opus_complexity);
  }

  bool valid() const { return state_ != nullptr; }
  int encode(std::span<const int16_t> frame, std::span<uint8_t> out) override {
    if (frame.empty() || frame.size() > kFrameSamplesMax || out.empty()) return -1;
    const auto room = static_cast<opus_int32>(std::min<size_t>(out.size(), kPayloadBytesMax));
    const int bytes = opus_encode(state_.get(), frame.data(), static_cast<int>(frame.size()),
                                  out.data(), room);
    if (bytes < 0) return -1;
    // The first empty packet of a pause goes out, so that the receiver knows it for a pause.
    if (bytes > kDtxBytesMax) {
      pausing_ = false;
      return bytes;
    }
    if (pausing_) return 0;
    pausing_ = true;
    return bytes;
  }
  int sample_rate() const override { return rate_hz_; }
  void set_loss(float percent) override {
    const float bounded = percent > 0.0f ? std::min(percent, 100.0f) : 0.0f;
    const bool fec = fec_allowed_ && bounded >= kFecOnPercent;
    opus_encoder_ctl(state_.get(), OPUS_SET_PACKET_LOSS_PERC(static_cast<int>(bounded + 0.5f)));
    opus_encoder_ctl(state_.get(), OPUS_SET_INBAND_FEC(fec ? 1 : 0));
  }
  void set_complexity(int complexity) override {
    opus_encoder_ctl(state_.get(), OPUS_SET_COMPLEXITY(std::clamp(complexity, 0, 10)));
  }

 private:
  int rate_hz_;
  bool fec_allowed_;
  bool pausing_ = false;
  std::unique_ptr<OpusEncoder, OpusFree> state_;
};

class OpusVoiceDecoder final : public Decoder {
 public:
  explicit OpusVoiceDecoder(int rate_hz) : rate_hz_(rate_hz) {
    int error = OPUS_OK;
    state_.reset(opus_decoder_create(rate_hz, 1, &error));
  }

  bool valid() const { return state_ != nullptr; }
  int decode(std::span<const uint8_t> payload, std::span<int16_t> out) override {
    if (payload.empty() || payload.size() > kBytesMax || out.empty()) return -1;
    const int room = static_cast<int>(std::min<size_t>(out.size(), kFrameSamplesMax));
    const int count = opus_decode(state_.get(), payload.data(),
                                  static_cast<opus_int32>(payload.size()), out.data(), room, 0);
    return count > 0 ? count : -1;
  }
  int conceal(std::span<int16_t> out) override { return make_up({}, out); }
  int decode_fec(std::span<const uint8_t> next_payload, std::span<int16_t> out) override {
    return make_up(next_payload.size() <= kBytesMax ? next_payload : next_payload.first(0), out);
  }
  int sample_rate() const override { return rate_hz_; }

 private:
  // 48 frames of 2.5 ms, each with its length, is all one packet can hold (RFC 6716 section 3.2).
  static constexpr size_t kBytesMax = 48 * 1277;

  // libopus makes whole 2.5 ms; what is beyond the wish is thrown away.
  int make_up(std::span<const uint8_t> next_payload, std::span<int16_t> out) {
    size_t made = 0;
    while (made < out.size()) {
      const auto unit = static_cast<size_t>(rate_hz_ / 400);
      const size_t wish = std::min<size_t>(out.size() - made, size_t{120} * rate_hz_ / 1000);
      const size_t whole = (wish + unit - 1) / unit * unit;
      const bool fec = made == 0 && !next_payload.empty();
      int count = opus_decode(state_.get(), fec ? next_payload.data() : nullptr,
                              fec ? static_cast<opus_int32>(next_payload.size()) : 0,
                              scratch_.data(), static_cast<int>(whole), fec ? 1 : 0);
      if (fec && count <= 0) {
        count = opus_decode(state_.get(), nullptr, 0, scratch_.data(), static_cast<int>(whole), 0);
      }
      if (count <= 0) break;
      const size_t used = std::min(wish, static_cast<size_t>(count));
      std::copy_n(scratch_.begin(), used, out.begin() + static_cast<ptrdiff_t>(made));
      made += used;
    }
    std::fill(out.begin() + static_cast<ptrdiff_t>(made), out.end(), int16_t{0});
    return static_cast<int>(out.size());
  }

  int rate_hz_;
  std::unique_ptr<OpusDecoder, OpusFree> state_;
  std::array<int16_t, kFrameSamplesMax> scratch_{};
};

bool rate_ok(int hz) { return hz == kNarrowHz || hz == kWideHz || hz == kFullHz; }

template <typename Made>
std::unique_ptr<Made> if_valid(std::unique_ptr<Made> made) {
  return made->valid() ? std::move(made) : nullptr;
}

}  // namespace

std::unique_ptr<Encoder> make_encoder(CodecId id, int internal_rate, const CodecOptions& options) {
  if (!rate_ok(internal_rate)) return nullptr;
  switch (id) {
    case CodecId::kPcmu:
    case CodecId::kPcma:
      return std::make_unique<G711Encoder>(id == CodecId::kPcmu);
    case CodecId::kG722:
      return if_valid(std::make_unique<G722Encoder>(std::min(internal_rate, kWideHz)));
    case CodecId::kOpus:
      return if_valid(std::make_unique<OpusVoiceEncoder>(internal_rate, options));
  }
  return nullptr;
}

std::unique_ptr<Decoder> make_decoder(CodecId id, int internal_rate) {
  if (!rate_ok(internal_rate)) return nullptr;
  switch (id) {
    case CodecId::kPcmu:
    case CodecId::kPcma:
      return std::make_unique<G711Decoder>(id == CodecId::kPcmu);
    case CodecId::kG722:
      return if_valid(std::make_unique<G722Decoder>(std::min(internal_rate, kWideHz)));
    case CodecId::kOpus:
      return if_valid(std::make_unique<OpusVoiceDecoder>(internal_rate));
  }
  return nullptr;
}

int clock_rate_hz(CodecId id) { return id == CodecId::kOpus ? kFullHz : kNarrowHz; }

int payload_duration_ticks(CodecId id, std::span<const uint8_t> payload) {
  constexpr int kMsMax = 120;
  if (payload.empty() || payload.size() > 65535) return 0;
  if (id != CodecId::kOpus) {
    return static_cast<int>(std::min<size_t>(payload.size(), kNarrowHz / 1000 * kMsMax));
  }
  const int samples = opus_packet_get_nb_samples(
      payload.data(), static_cast<opus_int32>(payload.size()), kFullHz);
  return samples > 0 && samples <= kFullHz / 1000 * kMsMax ? samples : 0;
}

bool is_dtx_payload(CodecId id, std::span<const uint8_t> payload) {
  return id == CodecId::kOpus && !payload.empty() && payload.size() <= 2;
}

}  // namespace tandem
