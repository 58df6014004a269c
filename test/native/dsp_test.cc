// Tests of the signal processing: codecs, concealment, jitter buffer, DTMF, tones, files.
//   dsp_test [part of a test's name]     --bench measures instead
// Recordings and captures come from the shared test data; without them those tests skip.
// This file: the program, the shared inputs and measures. The tests are in dsp_test_*.cc.
#include "dsp_test.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numbers>

#include "check.h"
#include "file.h"

namespace tandem::test {

int bench();

namespace {

std::string find_shared() {
  std::vector<std::string> candidates;
  if (const char* set = std::getenv("TANDEM_SHARED")) candidates.emplace_back(set);
  const std::string source = __FILE__;
  const size_t slash = source.rfind('/');
  const std::string here = slash == std::string::npos ? "." : source.substr(0, slash);
  candidates.push_back(here + "/../../../shared");
  candidates.emplace_back("../shared");
  for (const std::string& candidate : candidates) {
    struct stat status {};
    if (stat((candidate + "/data/media").c_str(), &status) == 0) return candidate;
  }
  return {};
}

const std::string& shared_root() {
  static const std::string root = find_shared();
  return root;
}

uint32_t big(const Bytes& bytes, size_t at, int count) {
  uint32_t value = 0;
  for (int i = 0; i < count; ++i) value = (value << 8) | bytes[at + static_cast<size_t>(i)];
  return value;
}

uint32_t little32(const Bytes& bytes, size_t at) {
  return big(bytes, at + 3, 1) << 24 | big(bytes, at + 2, 1) << 16 | big(bytes, at + 1, 1) << 8 |
         big(bytes, at, 1);
}

struct Scratch {
  std::string directory;
  std::vector<std::string> files;
  ~Scratch() {
    for (const std::string& file : files) unlink(file.c_str());
    if (!directory.empty()) rmdir(directory.c_str());
  }
};

}  // namespace

bool have_shared() { return !shared_root().empty(); }

std::string shared_path(const std::string& name) { return shared_root() + "/data/" + name; }

Bytes read_file(const std::string& path) {
  Bytes bytes;
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) return bytes;
  std::array<uint8_t, 65536> block;
  for (size_t got; (got = std::fread(block.data(), 1, block.size(), file)) > 0;) {
    bytes.insert(bytes.end(), block.begin(), block.begin() + static_cast<ptrdiff_t>(got));
  }
  std::fclose(file);
  return bytes;
}

Samples read_wav(const char* name) {
  WavReader reader;
  const std::string path = shared_path(std::string("media/") + name);
  if (reader.open(path.c_str()) != FileError::kNone) return {};
  Samples samples(static_cast<size_t>(reader.frames()));
  samples.resize(static_cast<size_t>(std::max(reader.read(samples), 0)));
  return samples;
}

std::vector<Bytes> read_ogg_packets(const char* name) {
  const Bytes bytes = read_file(shared_path(std::string("media/") + name));
  std::vector<Bytes> packets;
  Bytes packet;
  for (size_t at = 0; at + 27 <= bytes.size() && std::memcmp(&bytes[at], "OggS", 4) == 0;) {
    const size_t segments = bytes[at + 26];
    size_t body = at + 27 + segments;
    for (size_t i = 0; i < segments; ++i) {
      const size_t size = bytes[at + 27 + i];
      packet.insert(packet.end(), &bytes[body], &bytes[body] + size);
      body += size;
      if (size == 255) continue;
      packets.push_back(packet);
      packet.clear();
    }
    at = body;
  }
  if (packets.size() > 2) packets.erase(packets.begin(), packets.begin() + 2);
  return packets;
}

std::vector<CapturedPacket> read_capture(const char* name) {
  const Bytes bytes = read_file(shared_path(std::string("media/") + name));
  std::vector<CapturedPacket> packets;
  int64_t first_us = -1;
  for (size_t at = 24; at + 16 <= bytes.size();) {
    const int64_t time_us = int64_t{little32(bytes, at)} * 1000000 + little32(bytes, at + 4);
    const size_t size = little32(bytes, at + 8);
    const size_t ip = at + 16 + 14;
    const size_t rtp = ip + (bytes[ip] & 15u) * 4 + 8;
    CapturedPacket packet;
    if (first_us < 0) first_us = time_us;
    packet.arrival_us = time_us - first_us;
    packet.type = bytes[rtp + 1] & 0x7f;
    packet.marker = (bytes[rtp + 1] & 0x80) != 0;
    const auto seq = static_cast<uint16_t>(big(bytes, rtp + 2, 2));
    packet.raw_ts = big(bytes, rtp + 4, 4);
    packet.ssrc = big(bytes, rtp + 8, 4);
    packet.seq = seq;
    packet.ts = packet.raw_ts;
    if (!packets.empty()) {
      const CapturedPacket& last = packets.back();
      packet.seq = last.seq + static_cast<int16_t>(seq - static_cast<uint16_t>(last.seq));
      packet.ts = last.ts + static_cast<int32_t>(packet.raw_ts - last.raw_ts);
    }
    packet.payload.assign(&bytes[rtp + 12], bytes.data() + at + 16 + size);
    packets.push_back(packet);
    at += 16 + size;
  }
  return packets;
}

std::string scratch_path(const char* name) {
  static Scratch scratch;
  if (scratch.directory.empty()) {
    const char* base = std::getenv("TMPDIR");
    std::string pattern = std::string(base != nullptr ? base : P_tmpdir) + "/dsp_test_XXXXXX";
    if (mkdtemp(pattern.data()) == nullptr) std::abort();
    scratch.directory = pattern;
  }
  const std::string path = scratch.directory + "/" + name;
  if (std::find(scratch.files.begin(), scratch.files.end(), path) == scratch.files.end()) {
    scratch.files.push_back(path);
  }
  return path;
}

// ---- measures

double rms(std::span<const int16_t> samples) {
  double sum = 0;
  for (const int16_t sample : samples) sum += double{static_cast<double>(sample)} * sample;
  return samples.empty() ? 0 : std::sqrt(sum / static_cast<double>(samples.size()));
}

double to_db(double power_ratio) { return 10 * std::log10(std::max(power_ratio, 1e-12)); }

double goertzel_rms(std::span<const int16_t> samples, double hz, int rate_hz) {
  double re = 0;
  double im = 0;
  for (size_t i = 0; i < samples.size(); ++i) {
    const double angle = 2 * std::numbers::pi * hz * static_cast<double>(i) / rate_hz;
    re += samples[i] * std::cos(angle);
    im += samples[i] * std::sin(angle);
  }
  return std::hypot(re, im) * std::numbers::sqrt2 / static_cast<double>(samples.size());
}

int lag_of(std::span<const int16_t> meant, std::span<const int16_t> heard, int longest) {
  int best = 0;
  double best_score = -1;
  for (int lag = 0; lag <= longest; ++lag) {
    double cross = 0;
    for (size_t i = 0; i < meant.size() && i + static_cast<size_t>(lag) < heard.size(); ++i) {
      cross += double{static_cast<double>(meant[i])} * heard[i + static_cast<size_t>(lag)];
    }
    if (cross > best_score) {
      best_score = cross;
      best = lag;
    }
  }
  return best;
}

double segmental_snr(std::span<const int16_t> meant, std::span<const int16_t> heard, int rate_hz) {
  constexpr double kActiveRms = 100;  // -50 dBov
  const size_t frame = static_cast<size_t>(rate_hz) / 50;
  double sum = 0;
  int frames = 0;
  for (size_t at = 0; at + frame <= std::min(meant.size(), heard.size()); at += frame) {
    if (rms(meant.subspan(at, frame)) < kActiveRms) continue;
    double signal = 0;
    double noise = 1e-3;
    for (size_t i = at; i < at + frame; ++i) {
      const double error = meant[i] - heard[i];
      signal += double{static_cast<double>(meant[i])} * meant[i];
      noise += error * error;
    }
    sum += std::clamp(to_db(signal / noise), -10.0, 60.0);
    ++frames;
  }
  return frames > 0 ? sum / frames : 0;
}

double sine_snr(std::span<const int16_t> samples, double hz, int rate_hz) {
  const double total = rms(samples) * rms(samples);
  const double tone = goertzel_rms(samples, hz, rate_hz);
  return to_db(tone * tone / std::max(total - tone * tone, 1e-9));
}

double pitch_hz(std::span<const int16_t> samples, int rate_hz) {
  const int shortest = rate_hz / 500;
  const int longest = rate_hz / 60;
  const auto score = [&](int lag) {
    double cross = 0;
    double power = 1;
    for (size_t i = static_cast<size_t>(lag); i < samples.size(); ++i) {
      cross += double{static_cast<double>(samples[i])} * samples[i - static_cast<size_t>(lag)];
      power += double{static_cast<double>(samples[i])} * samples[i];
    }
    return cross / power;
  };
  double highest = 0;
  for (int lag = shortest; lag <= longest; ++lag) highest = std::max(highest, score(lag));
  // The first peak that is about as high as the highest: multiples of a period match as well.
  int best = shortest;
  while (best < longest && (score(best) < 0.9 * highest || score(best) < score(best + 1))) ++best;
  const double before = score(best - 1);
  const double here = score(best);
  const double after = score(best + 1);
  const double curve = before - 2 * here + after;
  const double shift = curve < 0 ? 0.5 * (before - after) / curve : 0;
  return rate_hz / (best + shift);
}

Samples sine(double hz, int rate_hz, int ms, double amplitude) {
  Samples samples(static_cast<size_t>(rate_hz) * static_cast<size_t>(ms) / 1000);
  for (size_t i = 0; i < samples.size(); ++i) {
    const double angle = 2 * std::numbers::pi * hz * static_cast<double>(i) / rate_hz;
    samples[i] = static_cast<int16_t>(std::lround(amplitude * std::sin(angle)));
  }
  return samples;
}

Samples vowel(double hz, int rate_hz, int ms, double amplitude) {
  Samples samples(static_cast<size_t>(rate_hz) * static_cast<size_t>(ms) / 1000);
  for (size_t i = 0; i < samples.size(); ++i) {
    double sum = 0;
    for (int harmonic = 1; harmonic <= 8; ++harmonic) {
      const double angle = 2 * std::numbers::pi * hz * harmonic * static_cast<double>(i) / rate_hz;
      sum += std::sin(angle + harmonic) / harmonic;
    }
    samples[i] = static_cast<int16_t>(std::lround(amplitude * sum / 2));
  }
  return samples;
}

}  // namespace tandem::test

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "--bench") == 0) return tandem::test::bench();
  return tandem::test::run(argc, argv);
}
