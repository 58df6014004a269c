// What the parts of dsp_test share: recordings and captures, and measures of what is heard.
#pragma once

#include <array>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

namespace tandem::test {

using Samples = std::vector<int16_t>;
using Bytes = std::vector<uint8_t>;

// One seeded source of chance per test: the same numbers on every machine.
class Chance {
 public:
  explicit Chance(uint32_t seed) : engine_(seed) {}
  double unit() { return static_cast<double>(engine_()) / 4294967296.0; }
  bool one_in(double probability) { return unit() < probability; }
  uint32_t bits() { return engine_(); }
  int below(int bound) { return static_cast<int>(unit() * bound); }

 private:
  std::mt19937 engine_;
};

// Shared test data: $TANDEM_SHARED, else `shared` beside the repository. Empty results when the
// file is missing; the test then skips.
bool have_shared();
std::string shared_path(const std::string& name);      // below shared/data
Bytes read_file(const std::string& path);
Samples read_wav(const char* name);                     // of data/media, mono
std::vector<Bytes> read_ogg_packets(const char* name);  // of data/media, headers left out

struct CapturedPacket {
  int64_t arrival_us = 0;   // since the first
  int64_t seq = 0;          // unwrapped
  int64_t ts = 0;           // unwrapped
  uint32_t ssrc = 0;
  uint32_t raw_ts = 0;
  int type = 0;
  bool marker = false;
  Bytes payload;
};
// RTP over UDP over IPv4 over Ethernet, as the captures of data/media are.
std::vector<CapturedPacket> read_capture(const char* name);

// A file name in a directory of this process, removed at exit.
std::string scratch_path(const char* name);

// ---- measures

double rms(std::span<const int16_t> samples);
double to_db(double power_ratio);
// Power of one frequency as RMS of a sine there.
double goertzel_rms(std::span<const int16_t> samples, double hz, int rate_hz);
// Mean over active 20 ms frames of the SNR in dB, each bounded to -10..60; `heard` may lag.
double segmental_snr(std::span<const int16_t> meant, std::span<const int16_t> heard, int rate_hz);
// Delay of `heard` after `meant` in samples, by cross-correlation, 0..longest.
int lag_of(std::span<const int16_t> meant, std::span<const int16_t> heard, int longest);
// Signal to everything else, of a signal that should be one sine of `hz`.
double sine_snr(std::span<const int16_t> samples, double hz, int rate_hz);
// Strongest pitch 60..500 Hz by autocorrelation with interpolation.
double pitch_hz(std::span<const int16_t> samples, int rate_hz);
Samples sine(double hz, int rate_hz, int ms, double amplitude);
// Harmonics of a fundamental with falling level: a vowel without formants.
Samples vowel(double hz, int rate_hz, int ms, double amplitude);

}  // namespace tandem::test
