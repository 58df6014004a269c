// See stretch.h.
#include "stretch.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "tone.h"

namespace tandem {
namespace {

// Pitch of voices is 80..400 Hz; a longer lag does not fit a 20 ms frame beside its cross-fade.
constexpr int kLagMinDivisor = 400;   // 2.5 ms
constexpr int kLagMaxDivisor = 80;    // 12.5 ms
constexpr int kOverlapDivisor = 200;  // 5 ms
constexpr int kFrameMinDivisor = 100;
constexpr int kSearchHz = 8000;       // rate of the coarse search
constexpr float kCorrelationMin = 0.9f;        // NetEQ's threshold for normal stretching
constexpr float kCorrelationUrgentMin = 0.5f;  // and for fast accelerate
constexpr float kQuietDbov = -50.0f;           // below, a splice is not heard whatever it cuts

struct Match {
  int lag = 0;
  float correlation = -1.0f;
};

// Normalised correlation of in[0..window) with in[lag..lag+window), every `step` samples.
float correlate(std::span<const int16_t> in, int lag, int window, int step) {
  float cross = 0.0f;
  float here = 0.0f;
  float there = 0.0f;
  for (int i = 0; i < window; i += step) {
    const auto a = static_cast<float>(in[static_cast<size_t>(i)]);
    const auto b = static_cast<float>(in[static_cast<size_t>(i + lag)]);
    cross += a * b;
    here += a * a;
    there += b * b;
  }
  const float power = here * there;
  return power > 0.0f ? cross / std::sqrt(power) : 0.0f;
}

Match best_lag(std::span<const int16_t> in, int from, int to, int window, int step) {
  Match best;
  for (int lag = from; lag <= to; lag += step) {
    const float correlation = correlate(in, lag, window, step);
    if (correlation > best.correlation) best = {lag, correlation};
  }
  return best;
}

int16_t blend(int16_t from, int16_t to, int position, int length) {
  const float weight = (static_cast<float>(position) + 0.5f) / static_cast<float>(length);
  const float value = static_cast<float>(from) * (1.0f - weight) + static_cast<float>(to) * weight;
  return static_cast<int16_t>(std::lrintf(value));
}

int copy(std::span<const int16_t> in, std::span<int16_t> out) {
  const size_t count = std::min(in.size(), out.size());
  std::copy_n(in.begin(), count, out.begin());
  return static_cast<int>(count);
}

}  // namespace

Stretch::Splice Stretch::find(std::span<const int16_t> in, bool urgent) const {
  const int size = static_cast<int>(in.size());
  const int lag_min = rate_hz_ / kLagMinDivisor;
  const int lag_max = std::min(rate_hz_ / kLagMaxDivisor, size * 5 / 8);
  const int window = std::min(size - lag_max, rate_hz_ / kLagMaxDivisor);
  if (rate_hz_ <= 0 || size < rate_hz_ / kFrameMinDivisor || lag_max <= lag_min) return {0, 0};

  const int step = std::max(1, rate_hz_ / kSearchHz);
  Match match = best_lag(in, lag_min, lag_max, window, step);
  if (step > 1 && match.lag > 0) {
    match = best_lag(in, std::max(lag_min, match.lag - step),
                     std::min(lag_max, match.lag + step), window, 1);
  }
  const bool quiet = level_dbov(in) < kQuietDbov;
  if (quiet && match.lag == 0) match.lag = lag_max;  // digital silence correlates with nothing
  const float threshold = urgent ? kCorrelationUrgentMin : kCorrelationMin;
  if (!quiet && match.correlation < threshold) return {0, 0};
  return {match.lag, std::min(window, rate_hz_ / kOverlapDivisor)};
}

int Stretch::accelerate(std::span<const int16_t> in, std::span<int16_t> out, bool urgent) const {
  if (out.size() < in.size()) return copy(in, out);
  const Splice splice = find(in, urgent);
  if (splice.lag == 0) return copy(in, out);
  for (int i = 0; i < splice.overlap; ++i) {
    const auto at = static_cast<size_t>(i);
    out[at] = blend(in[at], in[at + static_cast<size_t>(splice.lag)], i, splice.overlap);
  }
  const auto rest = in.subspan(static_cast<size_t>(splice.lag + splice.overlap));
  std::copy(rest.begin(), rest.end(), out.begin() + splice.overlap);
  return static_cast<int>(in.size()) - splice.lag;
}

int Stretch::expand(std::span<const int16_t> in, std::span<int16_t> out, bool urgent) const {
  if (out.size() < in.size() + static_cast<size_t>(growth_samples_max())) return copy(in, out);
  const Splice splice = find(in, urgent);
  if (splice.lag == 0) return copy(in, out);
  std::copy_n(in.begin(), splice.lag, out.begin());
  for (int i = 0; i < splice.overlap; ++i) {
    const auto at = static_cast<size_t>(splice.lag + i);
    out[at] = blend(in[at], in[static_cast<size_t>(i)], i, splice.overlap);
  }
  const auto rest = in.subspan(static_cast<size_t>(splice.overlap));
  std::copy(rest.begin(), rest.end(), out.begin() + splice.lag + splice.overlap);
  return static_cast<int>(in.size()) + splice.lag;
}

}  // namespace tandem
