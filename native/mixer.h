// Sums of a few sources with saturation, and interleaving for two-channel recording.
//
// Not a conference mixer. Plain loops the compiler turns into SIMD. Pure functions: any thread.
// Spans of different lengths: the shortest counts, except where said.
#pragma once

#include <cstdint>
#include <span>

namespace tandem {

// out = saturate(a + b). `out` may be `a` or `b`. Returns samples.
int mix_saturate(std::span<const int16_t> a, std::span<const int16_t> b, std::span<int16_t> out);
int mix_saturate(std::span<const int16_t> a, std::span<const int16_t> b,
                 std::span<const int16_t> c, std::span<int16_t> out);

// out = saturate(in * gain); gain 0..8 (more is cut to 8). For ducking an announcement.
int scale_saturate(std::span<const int16_t> in, float gain, std::span<int16_t> out);

// Two-channel record feed: left/right interleaved into `out` (twice as long). A shorter side is
// filled with silence. Returns frames.
int interleave(std::span<const int16_t> left, std::span<const int16_t> right,
               std::span<int16_t> out);

}  // namespace tandem
