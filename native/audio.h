// Linear audio between the parts of a leg: 20 ms frames at one of three rates, and conversion
// between any of them. Resamplers for every rate are made at construction, so a leg's rate may
// change (new codec, new peer) without allocation on the real-time thread.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include "resample.h"

namespace tandem {

constexpr int kFrameMs = 20;
constexpr std::array<int, 3> kRatesHz{8000, 16000, 48000};
/// 20 ms at 48 kHz.
constexpr size_t kFrameSamples = 960;

constexpr size_t frame_samples(int rate_hz) { return static_cast<size_t>(rate_hz) / 50; }
constexpr size_t rate_index(int rate_hz) { return rate_hz == 8000 ? 0 : rate_hz == 16000 ? 1 : 2; }

using FrameBuffer = std::array<int16_t, kFrameSamples>;

/// 20 ms of audio, or nothing. The samples belong to whoever made the frame, until its next tick.
struct AudioFrame {
  std::span<const int16_t> samples;
  int rate_hz = 8000;
  bool empty() const { return samples.empty(); }
};

/// Frames of any rate in, frames of one rate out.
class RateInput {
 public:
  explicit RateInput(int to_hz)
      : to_hz_(to_hz),
        from_{Resampler(kRatesHz[0], to_hz), Resampler(kRatesHz[1], to_hz),
              Resampler(kRatesHz[2], to_hz)} {}

  /// Exactly one frame at the output rate; `out` must hold it.
  std::span<int16_t> convert(const AudioFrame& frame, std::span<int16_t> out) {
    const size_t want = frame_samples(to_hz_);
    int got = 0;
    if (frame.rate_hz == to_hz_) {
      got = static_cast<int>(std::min(frame.samples.size(), want));
      std::copy_n(frame.samples.begin(), got, out.begin());
    } else {
      got = from_[rate_index(frame.rate_hz)].process(frame.samples, out.first(want));
    }
    std::fill(out.begin() + got, out.begin() + static_cast<long>(want), int16_t{0});
    return out.first(want);
  }
  int rate_hz() const { return to_hz_; }

 private:
  int to_hz_;
  std::array<Resampler, 3> from_;
};

/// A bounded run of samples waiting to be taken, oldest first.
template <size_t Capacity>
class SampleFifo {
 public:
  size_t size() const { return size_; }
  size_t room() const { return Capacity - size_; }
  void clear() { size_ = 0; }
  /// What does not fit is dropped.
  void push(std::span<const int16_t> in) {
    const size_t count = std::min(in.size(), room());
    std::copy_n(in.begin(), count, samples_.begin() + static_cast<long>(size_));
    size_ += count;
  }
  /// Where a producer may write in place; `grow` tells how much it wrote.
  std::span<int16_t> tail() { return std::span(samples_).subspan(size_); }
  void grow(size_t count) { size_ = std::min(Capacity, size_ + count); }
  /// Takes up to out.size() samples; returns how many.
  size_t take(std::span<int16_t> out) {
    const size_t count = std::min(out.size(), size_);
    std::copy_n(samples_.begin(), count, out.begin());
    std::copy(samples_.begin() + static_cast<long>(count),
              samples_.begin() + static_cast<long>(size_), samples_.begin());
    size_ -= count;
    return count;
  }

 private:
  std::array<int16_t, Capacity> samples_{};
  size_t size_ = 0;
};

}  // namespace tandem
