// One thing being played toward a leg: a clip, a cadenced tone (or silence), or digits.
// Built on the control thread, then used by the real-time thread, which asks for 20 ms at a time.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "audio.h"
#include "clip.h"
#include "dtmf.h"
#include "resource.h"
#include "tone.h"

namespace tandem {

struct TonePlan {
  ToneSpec spec;
  bool is_silence = false;  // cadence without sound
};

class Player final : public Resource {
 public:
  static constexpr size_t kDigitsMax = 128;

  struct DigitStep {
    int key = kNoKey;  // kNoKey: pause
    int duration_ms = 0;
  };

  /// `stream` is set for clips that are not loaded; the caller gives it to the I/O thread.
  static std::unique_ptr<Player> of_clip(std::shared_ptr<const Clip> clip, int loops,
                                         int64_t offset_ms, std::shared_ptr<ClipStream>& stream);
  static std::unique_ptr<Player> of_tone(const TonePlan& plan);
  /// Null when `digits` has another character than 0-9 * # A-D w W, none, or too many.
  static std::unique_ptr<Player> of_digits(const std::string& digits);
  /// For the functions above.
  explicit Player(int source_rate_hz);
  ~Player() override;

  Handle handle = 0;
  bool is_digits() const { return !steps_.empty(); }

  enum class State : uint8_t { kPlaying, kFinished, kFailed };

  /// Audio for 20 ms at `rate_hz`; silence fills what is missing. kFinished comes with the frame
  /// that holds the last sample, or after it.
  State fill(std::span<int16_t> frame, int rate_hz);
  /// The next step of digits that has not been taken; null at the end.
  const DigitStep* next_step() const {
    return step_ < steps_.size() ? &steps_[step_] : nullptr;
  }
  void take_step() { step_++; }
  /// Time spent sending digits counts as played.
  void count_ms(int ms) { extra_ms_ += ms; }
  double played_ms() const;

 private:
  static constexpr size_t kPiece = 960;
  /// A 20 ms piece at 8 kHz becomes 960 samples at 48 kHz; three of them fit.
  static constexpr size_t kFifoSamples = 4 * kFrameSamples + 64;

  State source(std::span<int16_t> piece, size_t& count);
  State source_loaded(std::span<int16_t> piece, size_t& count);
  State source_streamed(std::span<int16_t> piece, size_t& count);
  State source_tone(std::span<int16_t> piece, size_t& count);

  int source_rate_hz_;
  std::array<Resampler, 3> to_;
  SampleFifo<kFifoSamples> fifo_;
  int fifo_rate_hz_ = 0;
  State state_ = State::kPlaying;
  int64_t taken_ = 0;  // source samples
  int extra_ms_ = 0;

  std::shared_ptr<const Clip> clip_;
  size_t position_ = 0;
  int loops_left_ = 1;
  bool is_endless_ = false;
  std::shared_ptr<ClipStream> stream_;
  ClipStream::Block block_{};
  size_t block_position_ = 0;
  std::optional<ToneGenerator> tone_;
  bool is_silence_ = false;
  std::vector<DigitStep> steps_;
  size_t step_ = 0;
};

}  // namespace tandem
