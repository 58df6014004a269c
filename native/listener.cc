// Receiving side of a leg's audio; see listener.h.
#include "listener.h"

namespace tandem {
namespace {

JitterOptions jitter_options(const ListenerOptions& options) {
  JitterOptions jitter;
  jitter.clock_rate_hz = clock_rate_hz(options.codec);
  jitter.min_delay_ms = options.jitter_min_ms;
  jitter.max_delay_ms = options.jitter_max_ms;
  jitter.packet_ms = options.ptime_ms;
  jitter.fec = options.codec == CodecId::kOpus;
  jitter.dtx_bytes_max = options.codec == CodecId::kOpus ? 2 : 0;
  return jitter;
}

}  // namespace

Listener::Listener(const ListenerOptions& options)
    : codec_(options.codec),
      rate_hz_(options.rate_hz),
      clock_rate_hz_(tandem::clock_rate_hz(options.codec)),
      decoder_(make_decoder(options.codec, options.rate_hz)),
      jitter_(jitter_options(options)),
      stretch_(options.rate_hz),
      to_detector_(options.rate_hz, 8000) {
  if (decoder_ != nullptr) rate_hz_ = decoder_->sample_rate();
  if (rate_hz_ != options.rate_hz) {
    stretch_ = Stretch(rate_hz_);
    to_detector_ = Resampler(rate_hz_, 8000);
  }
  if (options.inband) detector_.emplace();
}

void Listener::insert(int64_t sequence, int64_t timestamp, int64_t arrival_us,
                      std::span<const uint8_t> payload, bool marker) {
  const int ticks = payload_duration_ticks(codec_, payload);
  jitter_.insert(sequence, timestamp, arrival_us, payload, marker, ticks);
}

AudioFrame Listener::next(int64_t now_us) {
  const size_t want = frame_samples(rate_hz_);
  // Bounded: every answer of the buffer stands for at least one sample, and a hostile stream of
  // tiny packets must not hold the thread.
  for (int i = 0; i < 32 && fifo_.size() < want; i++) fill(now_us);
  const size_t got = fifo_.take(std::span(frame_).first(want));
  std::fill(frame_.begin() + static_cast<long>(got), frame_.begin() + static_cast<long>(want),
            int16_t{0});
  return {std::span(frame_).first(want), rate_hz_};
}

void Listener::fill(int64_t now_us) {
  PayloadRef ref;
  const int64_t waiting_us = static_cast<int64_t>(fifo_.size()) * 1'000'000 / rate_hz_;
  const Pull pull = jitter_.pull(now_us + waiting_us, ref, waiting_us);
  const size_t expected =
      std::clamp<size_t>(static_cast<size_t>(static_cast<int64_t>(std::max(ref.duration_ticks, 1)) *
                                             rate_hz_ / clock_rate_hz_),
                         1, packet_.size());
  const std::span<int16_t> whole(packet_);
  const std::span<int16_t> out = whole.first(expected);
  switch (pull) {
    case Pull::kFrame:
      fifo_.push(whole.first(decode(ref.payload, expected)));
      return;
    case Pull::kAccelerate: {
      const size_t size = decode(ref.payload, expected);
      const int got = stretch_.accelerate(whole.first(size), fifo_.tail(), ref.urgent);
      fifo_.grow(static_cast<size_t>(got));
      return;
    }
    case Pull::kExpand: {
      const size_t size = decode(ref.payload, expected);
      const int got = stretch_.expand(whole.first(size), fifo_.tail(), ref.urgent);
      fifo_.grow(static_cast<size_t>(got));
      return;
    }
    case Pull::kFec:
      decoder_->decode_fec(ref.payload, out);
      break;
    case Pull::kLost:
      decoder_->conceal(out);
      break;
    case Pull::kSilence:
      if (codec_ == CodecId::kOpus) {
        decoder_->conceal(out);
      } else {
        noise_.generate(out);
      }
      break;
    case Pull::kEmpty:
      std::fill(out.begin(), out.end(), int16_t{0});
      break;
  }
  fifo_.push(out);
}

size_t Listener::decode(std::span<const uint8_t> payload, size_t expected) {
  const int got = decoder_->decode(payload, packet_);
  if (got > 0) return static_cast<size_t>(got);
  decoder_->conceal(std::span(packet_).first(expected));
  return expected;
}

int Listener::digits(std::span<DtmfDigit, 2> out) {
  if (!detector_) return 0;
  const size_t size = frame_samples(rate_hz_);
  if (rate_hz_ == 8000) return detector_->process(std::span(frame_).first(size), out);
  std::array<int16_t, 160> narrow{};
  const int got = to_detector_.process(std::span(frame_).first(size), narrow);
  return detector_->process(std::span(narrow).first(static_cast<size_t>(std::max(0, got))), out);
}

void Listener::reset() {
  jitter_.reset();
  fifo_.clear();
  if (detector_) detector_->abandon();
}

}  // namespace tandem
