// See resample.h.
#include "resample.h"

#include <speex/speex_resampler.h>

#include <algorithm>
#include <cstring>

namespace tandem {
namespace {

// libspeexdsp 0..10: 3 has 48 taps and is the library's default for voice over IP.
constexpr int kQuality = 3;
constexpr int kRateMinHz = 8000;
constexpr int kRateMaxHz = 192000;

bool rate_ok(int hz) { return hz >= kRateMinHz && hz <= kRateMaxHz; }

}  // namespace

void Resampler::Free::operator()(SpeexResamplerState_* state) const {
  speex_resampler_destroy(state);
}

Resampler::Resampler(int from_hz, int to_hz) : from_hz_(from_hz), to_hz_(to_hz) {
  if (from_hz == to_hz || !rate_ok(from_hz) || !rate_ok(to_hz)) return;
  int error = 0;
  state_.reset(speex_resampler_init(1, static_cast<spx_uint32_t>(from_hz),
                                    static_cast<spx_uint32_t>(to_hz), kQuality, &error));
}

Resampler::~Resampler() = default;
Resampler::Resampler(Resampler&&) noexcept = default;
Resampler& Resampler::operator=(Resampler&&) noexcept = default;

bool Resampler::valid() const {
  return state_ != nullptr || (from_hz_ == to_hz_ && rate_ok(from_hz_));
}

int Resampler::out_samples_max(int in_samples) const {
  if (!valid() || in_samples <= 0) return 0;
  if (from_hz_ == to_hz_) return in_samples;
  return static_cast<int>((int64_t{in_samples} * to_hz_ + from_hz_ - 1) / from_hz_) + 1;
}

int Resampler::process(std::span<const int16_t> in, std::span<int16_t> out) {
  if (!valid()) return 0;
  if (state_ == nullptr) {
    const size_t count = std::min(in.size(), out.size());
    if (count > 0) std::memmove(out.data(), in.data(), count * sizeof(int16_t));
    return static_cast<int>(count);
  }
  size_t taken = 0;
  size_t made = 0;
  while (taken < in.size() && made < out.size()) {
    auto in_count = static_cast<spx_uint32_t>(in.size() - taken);
    auto out_count = static_cast<spx_uint32_t>(out.size() - made);
    const int error = speex_resampler_process_int(state_.get(), 0, in.data() + taken, &in_count,
                                                  out.data() + made, &out_count);
    if (error != RESAMPLER_ERR_SUCCESS || (in_count == 0 && out_count == 0)) break;
    taken += in_count;
    made += out_count;
  }
  return static_cast<int>(made);
}

void Resampler::reset() {
  if (state_ != nullptr) speex_resampler_reset_mem(state_.get());
}

}  // namespace tandem
