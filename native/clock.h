// The only clock reads of the engine; everything else takes time as an argument.
#pragma once

#include <time.h>

#include <cstdint>

namespace tandem {

/// Monotonic microseconds.
inline int64_t steady_now_us() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000 + now.tv_nsec / 1000;
}

/// Wall-clock time as a 64-bit NTP timestamp (RFC 3550 §4).
inline uint64_t wall_now_ntp() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  constexpr uint64_t kSecondsFrom1900To1970 = 2'208'988'800;
  const uint64_t fraction = (static_cast<uint64_t>(now.tv_nsec) << 32) / 1'000'000'000;
  return ((static_cast<uint64_t>(now.tv_sec) + kSecondsFrom1900To1970) << 32) | fraction;
}

}  // namespace tandem
