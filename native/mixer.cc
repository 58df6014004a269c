// See mixer.h.
#include "mixer.h"

#include <algorithm>
#include <cstddef>
#include <limits>

namespace tandem {
namespace {

constexpr float kGainMax = 8.0f;  // +18 dB
constexpr int kGainBits = 12;     // gain as a fixed-point number

int16_t saturate(int32_t value) {
  return static_cast<int16_t>(std::clamp<int32_t>(value, std::numeric_limits<int16_t>::min(),
                                                  std::numeric_limits<int16_t>::max()));
}

}  // namespace

int mix_saturate(std::span<const int16_t> a, std::span<const int16_t> b, std::span<int16_t> out) {
  const size_t count = std::min({a.size(), b.size(), out.size()});
  for (size_t i = 0; i < count; ++i) out[i] = saturate(int32_t{a[i]} + b[i]);
  return static_cast<int>(count);
}

int mix_saturate(std::span<const int16_t> a, std::span<const int16_t> b,
                 std::span<const int16_t> c, std::span<int16_t> out) {
  const size_t count = std::min({a.size(), b.size(), c.size(), out.size()});
  for (size_t i = 0; i < count; ++i) out[i] = saturate(int32_t{a[i]} + b[i] + c[i]);
  return static_cast<int>(count);
}

int scale_saturate(std::span<const int16_t> in, float gain, std::span<int16_t> out) {
  // Written so that a gain that is not a number becomes 0.
  const float bounded = gain > 0.0f ? std::min(gain, kGainMax) : 0.0f;
  const auto factor = static_cast<int32_t>(bounded * (1 << kGainBits) + 0.5f);
  const size_t count = std::min(in.size(), out.size());
  for (size_t i = 0; i < count; ++i) out[i] = saturate((in[i] * factor) >> kGainBits);
  return static_cast<int>(count);
}

int interleave(std::span<const int16_t> left, std::span<const int16_t> right,
               std::span<int16_t> out) {
  const size_t frames = std::min(std::max(left.size(), right.size()), out.size() / 2);
  const size_t both = std::min({left.size(), right.size(), frames});
  for (size_t i = 0; i < both; ++i) {
    out[2 * i] = left[i];
    out[2 * i + 1] = right[i];
  }
  for (size_t i = both; i < frames; ++i) {
    out[2 * i] = i < left.size() ? left[i] : int16_t{0};
    out[2 * i + 1] = i < right.size() ? right[i] : int16_t{0};
  }
  return static_cast<int>(frames);
}

}  // namespace tandem
