// Sample rate conversion for one direction of one leg (libspeexdsp, quality 3).
//
// Not a mixer, not asynchronous (the ratio is fixed; clock drift is the jitter buffer's work).
// For the ratios between 8, 16 and 48 kHz each whole frame in gives exactly one whole frame out.
// Other ratios (44.1 kHz files) give a number that varies by one from block to block.
//
// Construct off the real-time thread; process() does not allocate. One thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

struct SpeexResamplerState_;

namespace tandem {

class Resampler {
 public:
  // Rates outside 8000..192000 make it invalid (valid() false, process() writes nothing).
  Resampler(int from_hz, int to_hz);
  ~Resampler();
  Resampler(Resampler&&) noexcept;
  Resampler& operator=(Resampler&&) noexcept;

  bool valid() const;
  int from_hz() const { return from_hz_; }
  int to_hz() const { return to_hz_; }

  // Room that `in_samples` can need in `out`.
  int out_samples_max(int in_samples) const;
  // Converts all of `in`; returns samples written. Input that does not fit `out` is dropped.
  int process(std::span<const int16_t> in, std::span<int16_t> out);
  // Forgets the past (new stream).
  void reset();

 private:
  struct Free {
    void operator()(SpeexResamplerState_* state) const;
  };
  int from_hz_;
  int to_hz_;
  std::unique_ptr<SpeexResamplerState_, Free> state_;  // null when from == to
};

}  // namespace tandem
