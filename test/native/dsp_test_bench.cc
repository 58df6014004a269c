// dsp_test --bench: nanoseconds for 20 ms of audio, the median of several runs.
#include <algorithm>
#include <chrono>
#include <functional>

#include "check.h"
#include "codec.h"
#include "dsp_test.h"
#include "dtmf.h"
#include "g711.h"
#include "jitter.h"
#include "mixer.h"
#include "plc.h"
#include "resample.h"
#include "stretch.h"
#include "tone.h"

namespace tandem::test {
namespace {

using Clock = std::chrono::steady_clock;

void measure(const char* what, const std::function<void()>& run) {
  constexpr int kRuns = 7;
  constexpr auto kRunTime = std::chrono::milliseconds(15);
  std::array<double, kRuns> ns;
  for (double& one : ns) {
    int64_t count = 0;
    const auto start = Clock::now();
    auto now = start;
    do {
      for (int i = 0; i < 16; ++i) run();
      count += 16;
      now = Clock::now();
    } while (now - start < kRunTime);
    one = static_cast<double>(std::chrono::nanoseconds(now - start).count()) /
          static_cast<double>(count);
  }
  std::sort(ns.begin(), ns.end());
  std::printf("%-44s %9.0f ns\n", what, ns[kRuns / 2]);
}

Samples material(int rate_hz) {
  const char* name = rate_hz == 8000    ? "speech-en-8k.wav"
                     : rate_hz == 16000 ? "speech-en-16k.wav"
                                        : "speech-en-48k.wav";
  Samples speech = read_wav(name);
  return speech.empty() ? vowel(150, rate_hz, 5000, 8000) : speech;
}

void bench_codec(CodecId id, int rate_hz, const char* name, float loss) {
  const Samples speech = material(rate_hz);
  const size_t frame = static_cast<size_t>(rate_hz) / 50;
  const auto encoder = make_encoder(id, rate_hz, CodecOptions{});
  const auto decoder = make_decoder(id, rate_hz);
  encoder->set_loss(loss);
  std::array<uint8_t, kPayloadBytesMax> payload;
  std::array<int16_t, 960> out;
  std::vector<Bytes> packets;
  for (size_t i = 0; (i + 1) * frame <= speech.size() && i < 400; ++i) {
    const int bytes = encoder->encode({&speech[i * frame], frame}, payload);
    packets.emplace_back(payload.begin(), payload.begin() + bytes);
  }
  const std::string text = std::string(name) + " " + std::to_string(rate_hz / 1000) + " kHz";
  size_t at = 0;
  measure((text + " encode").c_str(), [&] {
    at = at + 2 * frame <= speech.size() ? at + frame : 0;
    encoder->encode({&speech[at], frame}, payload);
  });
  size_t next = 0;
  measure((text + " decode").c_str(), [&] {
    next = next + 1 < packets.size() ? next + 1 : 0;
    decoder->decode(packets[next], std::span(out).first(frame));
  });
  measure((text + " conceal").c_str(), [&] {
    next = next + 1 < packets.size() ? next + 1 : 0;
    decoder->conceal(std::span(out).first(frame));
    decoder->decode(packets[next], std::span(out).first(frame));
  });
}

void bench_rates() {
  for (const auto& [from, to] : {std::pair{8000, 16000}, {16000, 8000}, {8000, 48000},
                                 {48000, 8000}, {16000, 48000}, {48000, 16000}}) {
    Resampler resampler(from, to);
    const Samples speech = material(from);
    Samples out(static_cast<size_t>(resampler.out_samples_max(from / 50)));
    const std::string text =
        "resample " + std::to_string(from / 1000) + " to " + std::to_string(to / 1000) + " kHz";
    measure(text.c_str(), [&] {
      resampler.process(std::span(speech).first(static_cast<size_t>(from / 50)), out);
    });
  }
}

void bench_dtmf() {
  const Samples speech = material(8000);
  InbandDetector detector;
  std::array<DtmfDigit, 2> digits;
  size_t at = 0;
  measure("DTMF detector", [&] {
    at = at + 320 <= speech.size() ? at + 160 : 0;
    detector.process({&speech[at], 160}, digits);
  });
  DtmfTone tone(8000);
  std::array<int16_t, 160> out;
  measure("DTMF tone", [&] {
    if (!tone.busy()) tone.push(5, 10000);
    tone.generate(out);
  });
}

void bench_jitter() {
  JitterBuffer buffer{JitterOptions{}};
  const Bytes payload(160);
  int64_t number = 0;
  PayloadRef ref;
  measure("jitter buffer insert + pull", [&] {
    buffer.insert(number, number * 160, number * 20000, payload, false, 160);
    buffer.pull(number * 20000 + 1000, ref);
    ++number;
  });
  const Samples speech = vowel(150, 8000, 20, 8000);
  const Stretch stretch(8000);
  std::array<int16_t, 400> out;
  measure("accelerate 8 kHz", [&] { stretch.accelerate(speech, out); });
  const Samples full = vowel(150, 48000, 20, 8000);
  const Stretch wide(48000);
  std::array<int16_t, 2000> wide_out;
  measure("accelerate 48 kHz", [&] { wide.accelerate(full, wide_out); });
}

void bench_small() {
  const Samples speech = material(8000);
  std::array<int16_t, 160> out;
  std::array<uint8_t, 160> codes{};
  measure("mix two 8 kHz", [&] {
    mix_saturate(std::span(speech).first(160), std::span(speech).subspan(160, 160), out);
  });
  measure("mu-law to A-law", [&] { ulaw_to_alaw(codes, codes); });
  ToneGenerator tone(8000, ToneSpec{{440, 480}, 1000, 0, -16, 0});
  measure("two-tone generator 8 kHz", [&] { tone.generate(out); });
  ComfortNoise noise;
  measure("comfort noise 8 kHz", [&] { noise.generate(out); });
  Energy energy(8000);
  measure("level meter 8 kHz", [&] { energy.update(out); });
}

}  // namespace

int bench() {
  bench_codec(CodecId::kPcmu, 8000, "PCMU", 0);
  bench_codec(CodecId::kPcma, 8000, "PCMA", 0);
  bench_codec(CodecId::kG722, 8000, "G.722", 0);
  bench_codec(CodecId::kG722, 16000, "G.722", 0);
  for (const int rate_hz : {8000, 16000, 48000}) bench_codec(CodecId::kOpus, rate_hz, "Opus", 0);
  bench_codec(CodecId::kOpus, 16000, "Opus with FEC", 10);
  bench_rates();
  bench_dtmf();
  bench_jitter();
  bench_small();
  return 0;
}

}  // namespace tandem::test
