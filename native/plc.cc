// See plc.h.
#include "plc.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace tandem {
namespace {

// ITU-T G.711 Appendix I at 8 kHz: pitch 40..120 samples (200..66 Hz), correlation over 160,
// history 390 (3.25 longest periods), coarse search on every second sample.
constexpr int kPitchMinUs = 5000;
constexpr int kPitchMaxUs = 15000;
constexpr int kWindowUs = 20000;
constexpr int kCoarseStepUs = 250;
constexpr int kPeriodsMax = 3;
constexpr int kGrowEveryMs = 10;       // one more period after each 10 ms, up to three
constexpr int kFadeFromMs = 10;
constexpr float kFadePerMs = 0.02f;    // 20 % per 10 ms: silent at 60 ms
constexpr int kMergeMs = 4;            // cross-fade into good audio: a quarter period,
constexpr int kMergePerMs = 10;        // plus 4 ms for each 10 ms erased,
constexpr int kMergeMaxMs = 10;        // 10 ms at most

// The noise that takes over: never louder than -45 dBov, whatever "quiet" was.
constexpr float kNoiseRmsMax = 184.0f;
constexpr float kNoiseRisePerSecond = 1.41f;  // 3 dB: how fast the floor forgets a quiet moment
constexpr uint32_t kRandomSeed = 0x9e3779b9u;
constexpr float kUnitRms = 1.7320508f / 2147483648.0f;  // int32 noise to RMS 1

int samples_of(int us, int rate_hz) { return static_cast<int>(int64_t{us} * rate_hz / 1000000); }

float window_rising(int i, int length) {
  return (static_cast<float>(i) + 1.0f) / (static_cast<float>(length) + 1.0f);
}

int16_t round_saturate(float value) {
  return static_cast<int16_t>(std::lrintf(std::clamp(value, -32768.0f, 32767.0f)));
}

}  // namespace

Plc::Plc(int rate_hz)
    : rate_hz_(rate_hz),
      pitch_min_(samples_of(kPitchMinUs, rate_hz)),
      pitch_max_(samples_of(kPitchMaxUs, rate_hz)),
      history_(static_cast<size_t>(pitch_max_ * kPeriodsMax + pitch_max_ / 4)),
      frozen_(history_.size()),
      cycle_(static_cast<size_t>(pitch_max_ * kPeriodsMax)),
      bridge_(static_cast<size_t>(pitch_max_ / 4)),
      random_(kRandomSeed) {}

void Plc::reset() {
  std::fill(history_.begin(), history_.end(), int16_t{0});
  erased_ = 0;
  noise_floor_ = 0.0f;
}

void Plc::good(std::span<int16_t> frame) {
  if (frame.empty()) return;
  // Measured before the blend, which would show our own fade as quiet.
  track_noise(frame);
  if (erased_ > 0) {
    const auto erased_ms = static_cast<int>(std::min<int64_t>(erased_ * 1000 / rate_hz_, 1000));
    const int merge_ms = std::min(kMergeMs * erased_ms / kMergePerMs, kMergeMaxMs);
    const int longest = std::min(kMergeMaxMs * rate_hz_ / 1000, static_cast<int>(frame.size()));
    const int length = std::min(quarter() + merge_ms * rate_hz_ / 1000, longest);
    for (int i = 0; i < length; ++i) {
      const float weight = window_rising(i, length);
      int16_t& sample = frame[static_cast<size_t>(i)];
      sample = round_saturate(next() * (1.0f - weight) + static_cast<float>(sample) * weight);
    }
    erased_ = 0;
  }
  remember(frame);
}

void Plc::conceal(std::span<int16_t> out) {
  if (out.empty()) return;
  if (erased_ == 0) start_erasure();
  for (int16_t& sample : out) {
    if (periods_ < kPeriodsMax && erased_ >= int64_t{kGrowEveryMs} * periods_ * rate_hz_ / 1000) {
      lengthen();
    }
    sample = round_saturate(next());
    ++erased_;
  }
  remember(out);
}

// Lag with the largest normalised correlation between the last 20 ms and the past.
int Plc::find_pitch() const {
  const int window = samples_of(kWindowUs, rate_hz_);
  const int16_t* end = frozen_.data() + frozen_.size();
  const auto score = [&](int lag, int step) {
    float cross = 0.0f;
    float power = 1.0f;  // keeps silence from dividing by zero
    for (int back = window; back > 0; back -= step) {
      const auto past = static_cast<float>(end[-back - lag]);
      cross += static_cast<float>(end[-back]) * past;
      power += past * past;
    }
    return cross / std::sqrt(power);
  };
  const int step = std::max(1, samples_of(kCoarseStepUs, rate_hz_));
  int best = pitch_min_;
  float best_score = score(best, step);
  const auto search = [&](int from, int to, int step) {
    for (int lag = std::max(from, pitch_min_); lag <= std::min(to, pitch_max_); lag += step) {
      const float now = score(lag, step);
      if (now <= best_score) continue;
      best = lag;
      best_score = now;
    }
  };
  search(pitch_min_, pitch_max_, step);
  const int coarse = best;
  best_score = score(coarse, 1);
  search(coarse - step, coarse + step, 1);
  // A period of no whole number of samples: two of them may fit better.
  search(2 * coarse - step, 2 * coarse + step, 1);
  return best;
}

float Plc::heard(int back) const {
  return static_cast<float>(frozen_[frozen_.size() - static_cast<size_t>(back)]);
}

void Plc::start_erasure() {
  std::copy(history_.begin(), history_.end(), frozen_.begin());
  pitch_ = find_pitch();
  build_cycle(1);
  cycle_position_ = 0;
  // The cycle begins one period ago; what differs between then and now is mirrored into the
  // first quarter period and faded, so that the waveform leaves from where it really was.
  bridge_position_ = 0;
  bridge_length_ = quarter();
  for (int i = 0; i < bridge_length_; ++i) {
    const float offset = heard(1 + i) - heard(1 + i + pitch_);
    bridge_[static_cast<size_t>(i)] = offset * (1.0f - window_rising(i, bridge_length_));
  }
}

// Copies the last `periods` periods, with the end of the cycle blended into what came before its
// beginning, so that it can be repeated.
void Plc::build_cycle(int periods) {
  periods_ = periods;
  cycle_length_ = periods * pitch_;
  for (int i = 0; i < cycle_length_; ++i) {
    cycle_[static_cast<size_t>(i)] = heard(cycle_length_ - i);
  }
  const int overlap = quarter();
  for (int i = 0; i < overlap; ++i) {
    const float weight = window_rising(i, overlap);
    float& sample = cycle_[static_cast<size_t>(cycle_length_ - overlap + i)];
    sample = sample * (1.0f - weight) + heard(cycle_length_ + overlap - i) * weight;
  }
}

// One more period, entered at the same phase; the old cycle fades out over a quarter period.
void Plc::lengthen() {
  const int length = quarter();
  // What is left of an earlier bridge ends here: growth is 10 ms apart, a bridge at most 3.75.
  for (int i = 0; i < length; ++i) {
    const int position = (cycle_position_ + i) % cycle_length_;
    bridge_[static_cast<size_t>(i)] = cycle_[static_cast<size_t>(position)];
  }
  const int phase = cycle_position_ % pitch_;
  build_cycle(periods_ + 1);
  cycle_position_ = phase;
  for (int i = 0; i < length; ++i) {
    const float now = cycle_[static_cast<size_t>((cycle_position_ + i) % cycle_length_)];
    float& sample = bridge_[static_cast<size_t>(i)];
    sample = (sample - now) * (1.0f - window_rising(i, length));
  }
  bridge_position_ = 0;
  bridge_length_ = length;
}

float Plc::attenuation() const {
  const float ms = static_cast<float>(erased_) * 1000.0f / static_cast<float>(rate_hz_);
  return std::clamp(1.0f - (ms - kFadeFromMs) * kFadePerMs, 0.0f, 1.0f);
}

float Plc::next() {
  float sample = cycle_[static_cast<size_t>(cycle_position_)];
  if (++cycle_position_ >= cycle_length_) cycle_position_ = 0;
  if (bridge_position_ < bridge_length_) {
    sample += bridge_[static_cast<size_t>(bridge_position_++)];
  }
  const float gain = attenuation();
  if (gain == 1.0f) return sample;
  random_ ^= random_ << 13;  // xorshift32: uniform in [-1, 1), variance 1/3
  random_ ^= random_ >> 17;
  random_ ^= random_ << 5;
  const float white = static_cast<float>(static_cast<int32_t>(random_)) * kUnitRms;
  return sample * gain + white * noise_floor_ * (1.0f - gain);
}

void Plc::remember(std::span<const int16_t> frame) {
  const size_t kept = std::min(frame.size(), history_.size());
  std::copy(history_.begin() + static_cast<ptrdiff_t>(kept), history_.end(), history_.begin());
  std::copy(frame.end() - static_cast<ptrdiff_t>(kept), frame.end(),
            history_.end() - static_cast<ptrdiff_t>(kept));
}

void Plc::track_noise(std::span<const int16_t> frame) {
  int64_t sum = 0;
  for (const int16_t sample : frame) sum += int32_t{sample} * sample;
  const float rms = std::sqrt(static_cast<float>(sum) / static_cast<float>(frame.size()));
  const float seconds = static_cast<float>(frame.size()) / static_cast<float>(rate_hz_);
  // Starts from zero: until something was heard, nothing is the background.
  const float risen = noise_floor_ * (1.0f + (kNoiseRisePerSecond - 1.0f) * seconds) + seconds;
  noise_floor_ = std::min({rms, risen, kNoiseRmsMax});
}

}  // namespace tandem
