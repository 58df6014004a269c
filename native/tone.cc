// See tone.h.
#include "tone.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>

namespace tandem {
namespace {

constexpr float kFullScale = 32767.0f;  // RMS of the square wave at 0 dBov
constexpr int kEdgeMs = 5;              // raised-cosine fade at both ends of a tone
constexpr size_t kBlock = 64;           // samples mixed in floating point at a time
constexpr float kLoudestSineDbov = -3.0103f;

float rms_of(float dbov) { return kFullScale * std::pow(10.0f, dbov / 20.0f); }

int16_t round_saturate(float value) {
  return static_cast<int16_t>(std::lrintf(std::clamp(value, -kFullScale - 1.0f, kFullScale)));
}

float next_white(uint32_t& state) {  // xorshift32, uniform in [-1, 1), variance 1/3
  state ^= state << 13;
  state ^= state >> 17;
  state ^= state << 5;
  return static_cast<float>(static_cast<int32_t>(state)) * (1.0f / 2147483648.0f);
}

}  // namespace

void Oscillator::set(float hz, int rate_hz, float amplitude) {
  const double step = 2.0 * std::numbers::pi * static_cast<double>(hz) / rate_hz;
  cos_step_ = std::cos(step);
  sin_step_ = std::sin(step);
  amplitude_ = static_cast<double>(amplitude);
  re_ = amplitude_;  // the output is the imaginary part: starts at zero
  im_ = 0.0;
}

void Oscillator::add(std::span<float> mix) {
  for (float& sample : mix) {
    sample += static_cast<float>(im_);
    const double re = re_ * cos_step_ - im_ * sin_step_;
    im_ = re_ * sin_step_ + im_ * cos_step_;
    re_ = re;
  }
  const double size = std::hypot(re_, im_);
  if (size > 0.0) {
    re_ *= amplitude_ / size;
    im_ *= amplitude_ / size;
  }
}

ToneGenerator::ToneGenerator(int rate_hz, const ToneSpec& spec)
    : spec_(spec),
      on_samples_(int64_t{std::max(spec.on_ms, 0)} * rate_hz / 1000),
      off_samples_(int64_t{std::max(spec.off_ms, 0)} * rate_hz / 1000),
      edge_samples_(kEdgeMs * rate_hz / 1000),
      done_(on_samples_ == 0) {
  const float level = std::min(spec.level_dbov, kLoudestSineDbov);
  const float amplitude = rms_of(level) * std::numbers::sqrt2_v<float>;
  for (size_t i = 0; i < oscillators_.size(); ++i) {
    const bool audible = spec.hz[i] > 0.0f && spec.hz[i] < static_cast<float>(rate_hz) / 2.0f;
    oscillators_[i].set(audible ? spec.hz[i] : 0.0f, rate_hz, audible ? amplitude : 0.0f);
  }
}

int ToneGenerator::generate(std::span<int16_t> out) {
  size_t at = 0;
  while (at < out.size() && !done_) {
    std::array<float, kBlock> mix{};
    const bool on = position_ < on_samples_;
    const int64_t left = (on ? on_samples_ : on_samples_ + off_samples_) - position_;
    const size_t room = std::min(kBlock, out.size() - at);
    const size_t count = std::min(room, static_cast<size_t>(left));
    if (on) {
      for (Oscillator& oscillator : oscillators_) oscillator.add({mix.data(), count});
    }
    for (size_t i = 0; i < count; ++i) {
      out[at + i] = round_saturate(mix[i] * edge_gain(position_ + static_cast<int64_t>(i)));
    }
    at += count;
    position_ += static_cast<int64_t>(count);
    if (on && position_ == on_samples_) {
      ++played_;
      done_ = spec_.count > 0 && played_ >= spec_.count;
    }
    if (position_ >= on_samples_ + off_samples_) position_ = 0;
  }
  std::fill(out.begin() + static_cast<ptrdiff_t>(at), out.end(), int16_t{0});
  return static_cast<int>(at);
}

// A tone without pauses fades only where it begins and where it ends for good.
float ToneGenerator::edge_gain(int64_t position) const {
  const bool seamless = off_samples_ == 0;
  const bool first = played_ == 0;
  const bool last = spec_.count > 0 && played_ + 1 >= spec_.count;
  int64_t distance = edge_samples_;
  if (first || !seamless) distance = std::min(distance, position);
  if (last || !seamless) distance = std::min(distance, on_samples_ - 1 - position);
  if (distance >= edge_samples_) return 1.0f;
  const float phase = static_cast<float>(distance) / static_cast<float>(edge_samples_);
  return 0.5f - 0.5f * std::cos(phase * std::numbers::pi_v<float>);
}

void ComfortNoise::set_level(float level_dbov) {
  const float bounded = std::clamp(level_dbov, kSilenceDbov, 0.0f);
  gain_ = rms_of(bounded) * std::numbers::sqrt3_v<float>;
  order_ = 0;
}

bool ComfortNoise::update(std::span<const uint8_t> payload) {
  if (payload.empty()) return false;
  set_level(-static_cast<float>(payload[0] & 0x7f));
  // Section 3.2: k = 258 * (N - 127) in Q15, 255 is reserved; a receiver may use fewer
  // coefficients than it was sent.
  order_ = static_cast<int>(std::min<size_t>(payload.size() - 1, kOrderMax));
  float remaining = 1.0f;
  for (int i = 0; i < order_; ++i) {
    const int code = payload[static_cast<size_t>(i) + 1];
    const float k = code > 254 ? 0.0f : static_cast<float>(258 * (code - 127)) / 32768.0f;
    reflection_[static_cast<size_t>(i)] = k;
    remaining *= 1.0f - k * k;
  }
  // The filter raises the level by 1/remaining in power: the excitation is that much weaker.
  gain_ *= std::sqrt(remaining);
  state_.fill(0.0f);
  return true;
}

void ComfortNoise::generate(std::span<int16_t> out) {
  for (int16_t& sample : out) {
    float forward = next_white(random_) * gain_;
    for (int i = order_ - 1; i >= 0; --i) {  // all-pole lattice, |k| < 1: always stable
      const auto stage = static_cast<size_t>(i);
      forward -= reflection_[stage] * state_[stage];
      if (i + 1 < order_) state_[stage + 1] = state_[stage] + reflection_[stage] * forward;
    }
    if (order_ > 0) state_[0] = forward;
    sample = round_saturate(forward);
  }
}

int ComfortNoise::write(float level_dbov, std::span<uint8_t> out) {
  if (out.empty()) return 0;
  out[0] = static_cast<uint8_t>(std::lrintf(std::clamp(-level_dbov, 0.0f, 127.0f)));
  return 1;
}

float level_dbov(std::span<const int16_t> frame) {
  if (frame.empty()) return kSilenceDbov;
  int64_t sum = 0;
  for (const int16_t sample : frame) sum += int32_t{sample} * sample;
  if (sum == 0) return kSilenceDbov;
  const double mean = static_cast<double>(sum) / static_cast<double>(frame.size());
  constexpr double kFullPower = double{kFullScale} * double{kFullScale};
  return std::max(kSilenceDbov, static_cast<float>(10.0 * std::log10(mean / kFullPower)));
}

void Energy::update(std::span<const int16_t> frame) {
  dbov_ = level_dbov(frame);
  silent_samples_ =
      dbov_ < threshold_dbov_ ? silent_samples_ + static_cast<int64_t>(frame.size()) : 0;
}

int Energy::silent_ms() const {
  return rate_hz_ > 0 ? static_cast<int>(silent_samples_ * 1000 / rate_hz_) : 0;
}

}  // namespace tandem
