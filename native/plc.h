// Packet loss concealment for waveform codecs (G.711, G.722) by pitch waveform substitution.
//
// After ITU-T G.711 Appendix I, with one difference: the appendix delays all audio by 3.75 ms to
// blend the end of the last good frame; here the blend is laid over the start of the concealment
// instead (DEVIATES: no delay on the good path). Opus conceals by itself (codec.h).
//
// The last pitch period is repeated; after 10 ms two, after 20 ms three periods, so that it does
// not buzz; level falls 20 % per 10 ms and has gone at 60 ms, where background noise at the level
// last heard takes over. The first good frame afterwards is cross-faded.
//
// No allocation after construction; work is done only when packets are missing (good() copies).
// One thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tandem {

class Plc {
 public:
  explicit Plc(int rate_hz);  // 8000 or 16000

  // A frame that was received: kept as history; after a loss its start is blended in place.
  void good(std::span<int16_t> frame);
  // Fills `out` with substitute audio.
  void conceal(std::span<int16_t> out);
  void reset();

 private:
  int find_pitch() const;
  void start_erasure();
  void lengthen();
  void build_cycle(int periods);
  float next();
  float attenuation() const;
  void remember(std::span<const int16_t> frame);
  void track_noise(std::span<const int16_t> frame);
  float heard(int back) const;     // sample `back` before the erasure, 1 is the last
  int quarter() const { return pitch_ / 4; }

  int rate_hz_;
  int pitch_min_;
  int pitch_max_;
  std::vector<int16_t> history_;   // the last samples heard or made, oldest first
  std::vector<int16_t> frozen_;    // history as it was when the erasure began
  std::vector<float> cycle_;       // the repeated waveform, one to three periods
  std::vector<float> bridge_;      // correction that makes the next samples continuous
  int pitch_ = 0;
  int periods_ = 0;
  int cycle_length_ = 0;
  int cycle_position_ = 0;
  int bridge_position_ = 0;
  int bridge_length_ = 0;
  int64_t erased_ = 0;             // samples concealed since the last good frame
  float noise_floor_ = 0.0f;       // RMS of the quietest recent frames
  uint32_t random_;
};

}  // namespace tandem
