// Shortens or lengthens one frame of speech by one pitch period, pitch kept (WSOLA).
//
// Only for the frames where the jitter buffer says so; the first and the last samples of a frame
// stay what they were, so its neighbours need no treatment. A frame in which nothing can be taken
// out unheard (no periodicity, not quiet) is returned unchanged and the buffer asks again.
//
// No state but the rate, no allocation: one object per leg or per thread.
#pragma once

#include <cstdint>
#include <span>

namespace tandem {

class Stretch {
 public:
  explicit Stretch(int rate_hz) : rate_hz_(rate_hz) {}

  // Most samples that expand() can add: 12.5 ms.
  int growth_samples_max() const { return rate_hz_ / 80; }

  // Returns samples written to `out` (<= in.size(); never more than out.size()). Frames shorter
  // than 10 ms are copied. `urgent` accepts weaker periodicity: use when far from the target.
  int accelerate(std::span<const int16_t> in, std::span<int16_t> out, bool urgent = false) const;
  // `out` wants in.size() + growth_samples_max(); with less room the frame is copied.
  int expand(std::span<const int16_t> in, std::span<int16_t> out, bool urgent = false) const;

 private:
  struct Splice {
    int lag;      // samples taken out or put in; 0: leave the frame alone
    int overlap;  // samples of cross-fade
  };
  Splice find(std::span<const int16_t> in, bool urgent) const;

  int rate_hz_;
};

}  // namespace tandem
