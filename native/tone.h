// Sounds made and levels measured: sine mixes with cadence, comfort noise, level meter.
//
// Not DTMF detection (dtmf.h). Levels are in dBov: 0 dBov is a square wave at full scale
// (RFC 3389 section 3.1 uses the same), so the loudest sine is at -3 dBov; 0 dBm0 is about
// -6.2 dBov for G.711.
//
// No allocation; each object belongs to one thread at a time.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace tandem {

inline constexpr float kSilenceDbov = -127.0f;

// One sine, by rotation of a phasor: no table, no drift (renormalised each frame).
class Oscillator {
 public:
  void set(float hz, int rate_hz, float amplitude);
  // Adds count samples to `mix`.
  void add(std::span<float> mix);

 private:
  double cos_step_ = 1.0, sin_step_ = 0.0;
  double re_ = 0.0, im_ = 0.0;
  double amplitude_ = 0.0;
};

struct ToneSpec {
  std::array<float, 2> hz{0.0f, 0.0f};  // second 0: one tone only
  int on_ms = 1000;
  int off_ms = 0;
  float level_dbov = -16.0f;  // of each sine
  int count = 0;              // times on; 0: for ever
};

// Ringback, busy, beep: everything by ToneSpec. Edges are faded over 5 ms: no clicks.
class ToneGenerator {
 public:
  ToneGenerator(int rate_hz, const ToneSpec& spec);

  // Fills `out` (zeros in pauses and after the end). Returns samples up to the end of the tone:
  // less than out.size() only when it ended inside. The pause after the last "on" is not played.
  int generate(std::span<int16_t> out);
  bool done() const { return done_; }

 private:
  float edge_gain(int64_t position) const;

  ToneSpec spec_;
  int64_t on_samples_;
  int64_t off_samples_;
  int edge_samples_;
  int64_t position_ = 0;  // in the current on+off
  int64_t played_ = 0;    // times on, finished
  bool done_ = false;
  std::array<Oscillator, 2> oscillators_;
};

// Comfort noise, RFC 3389: white noise shaped by the reflection coefficients of a SID payload, or
// flat at a given level when the sender just stops.
class ComfortNoise {
 public:
  static constexpr int kOrderMax = 12;
  explicit ComfortNoise(float level_dbov = -65.0f) { set_level(level_dbov); }

  void set_level(float level_dbov);                // flat spectrum
  bool update(std::span<const uint8_t> payload);   // PT 13; false when empty
  void generate(std::span<int16_t> out);
  // The payload for a level: one byte, no spectrum. Returns bytes.
  static int write(float level_dbov, std::span<uint8_t> out);

 private:
  float gain_ = 0.0f;
  int order_ = 0;
  std::array<float, kOrderMax> reflection_{};
  std::array<float, kOrderMax> state_{};
  uint32_t random_ = 0x2545f491u;
};

// RMS level of a frame in dBov; kSilenceDbov for digital silence.
float level_dbov(std::span<const int16_t> frame);

// Level meter with silence timing, one per direction.
class Energy {
 public:
  Energy(int rate_hz, float threshold_dbov = -45.0f)
      : rate_hz_(rate_hz), threshold_dbov_(threshold_dbov) {}

  void update(std::span<const int16_t> frame);
  float dbov() const { return dbov_; }            // of the last frame
  bool silent() const { return silent_samples_ > 0; }
  int silent_ms() const;                          // how long it has been below the threshold
  void reset() { silent_samples_ = 0; dbov_ = kSilenceDbov; }

 private:
  int rate_hz_;
  float threshold_dbov_;
  float dbov_ = kSilenceDbov;
  int64_t silent_samples_ = 0;
};

}  // namespace tandem
