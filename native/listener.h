// What a leg hears: RTP payloads through jitter buffer, decoder, concealment and time stretching
// to one 20 ms frame a tick. With `inband`, digits in that audio too.
// Built off the real-time thread, then used by it alone.
#pragma once

#include <memory>
#include <optional>

#include "audio.h"
#include "codec.h"
#include "dtmf.h"
#include "jitter.h"
#include "resource.h"
#include "stretch.h"
#include "tone.h"

namespace tandem {

struct ListenerOptions {
  CodecId codec = CodecId::kPcmu;
  int rate_hz = 8000;
  int ptime_ms = 20;
  int jitter_min_ms = 20;
  int jitter_max_ms = 200;
  bool inband = false;
  bool operator==(const ListenerOptions&) const = default;
};

class Listener final : public Resource {
 public:
  explicit Listener(const ListenerOptions& options);

  bool is_valid() const { return decoder_ != nullptr; }
  void insert(int64_t sequence, int64_t timestamp, int64_t arrival_us,
              std::span<const uint8_t> payload, bool marker);
  /// A packet of the stream that carries no audio (a digit): its number is not a loss.
  void note(int64_t sequence) { jitter_.note(sequence); }
  /// Comfort noise parameters of the sender (RFC 3389), heard when it stops sending.
  void comfort_noise(int64_t sequence, std::span<const uint8_t> payload) {
    jitter_.note(sequence);
    noise_.update(payload);
  }
  /// The next frame; valid until the next call.
  AudioFrame next(int64_t now_us);
  /// In-band digits that ended in the last frame (0..2).
  int digits(std::span<DtmfDigit, 2> out);
  /// A new stream begins.
  void reset();

  const JitterStats& stats() const { return jitter_.stats(); }
  int buffered_ms() const { return jitter_.delay_ms(); }
  int clock_rate_hz() const { return clock_rate_hz_; }

 private:
  /// One packet of up to 120 ms and its stretching on top of less than one frame.
  static constexpr size_t kFifoSamples = kFrameSamplesMax + kFrameSamples + 48000 / 80;

  void fill(int64_t now_us);
  size_t decode(std::span<const uint8_t> payload, size_t expected);

  CodecId codec_;
  int rate_hz_;
  int clock_rate_hz_;
  std::unique_ptr<Decoder> decoder_;
  JitterBuffer jitter_;
  Stretch stretch_;
  ComfortNoise noise_;
  std::optional<InbandDetector> detector_;
  Resampler to_detector_;
  SampleFifo<kFifoSamples> fifo_;
  std::array<int16_t, kFrameSamplesMax> packet_{};
  FrameBuffer frame_{};
};

}  // namespace tandem
