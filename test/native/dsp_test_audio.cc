// Resampler, concealment, time stretch, tones, comfort noise, meters, mixer: what is heard.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "check.h"
#include "codec.h"
#include "dsp_test.h"
#include "mixer.h"
#include "plc.h"
#include "resample.h"
#include "stretch.h"
#include "tone.h"

namespace tandem::test {
namespace {

Samples resample(std::span<const int16_t> in, int from, int to) {
  Resampler resampler(from, to);
  const size_t frame = static_cast<size_t>(from) / 50;
  Samples out;
  Samples block(static_cast<size_t>(resampler.out_samples_max(static_cast<int>(frame))));
  for (size_t at = 0; at + frame <= in.size(); at += frame) {
    const int count = resampler.process(in.subspan(at, frame), block);
    out.insert(out.end(), block.begin(), block.begin() + count);
  }
  return out;
}

// Half a second from the middle: no start and no end of the filter in it.
std::span<const int16_t> middle(const Samples& samples, int rate_hz) {
  return std::span<const int16_t>(samples).subspan(samples.size() / 4,
                                                   static_cast<size_t>(rate_hz) / 2);
}

TEST("resampling keeps a tone and makes whole frames") {
  for (const auto& [from, to] : {std::pair{8000, 16000}, {16000, 8000}, {8000, 48000},
                                 {48000, 8000}, {16000, 48000}, {48000, 16000}}) {
    const Samples tone = sine(1000, from, 1000, 12000);
    const Samples out = resample(tone, from, to);
    const double snr = sine_snr(middle(out, to), 1000, to);
    const double level = rms(middle(out, to)) / rms(middle(tone, from));

    note("%d to %d: %.1f dB, gain %.3f", from, to, snr, level);
    CHECK_LEAST(snr, 55);
    CHECK_BETWEEN(level, 0.98, 1.02);
    CHECK(out.size() == static_cast<size_t>(to));
    Resampler frames(from, to);
    Samples block(2000);
    CHECK(frames.process(std::span(tone).first(static_cast<size_t>(from) / 50), block) == to / 50);
  }
}

TEST("resampling rejects images and aliases") {
  const Samples up = resample(sine(3000, 8000, 1000, 12000), 8000, 16000);
  const double image = goertzel_rms(middle(up, 16000), 5000, 16000);
  const double image_db = 20 * std::log10(std::max(image, 0.1) / (12000 / std::sqrt(2.0)));
  const Samples down = resample(sine(5500, 16000, 1000, 12000), 16000, 8000);
  const double alias_db = 20 * std::log10(std::max(rms(middle(down, 8000)), 0.1) / 8485);

  note("image at 5 kHz %.1f dB, alias of 5.5 kHz %.1f dB", image_db, alias_db);
  CHECK_MOST(image_db, -50);
  CHECK_MOST(alias_db, -50);
}

TEST("resampling of files at 44.1 kHz loses no time, and bad rates do nothing") {
  const Samples out = resample(sine(700, 44100, 2000, 9000), 44100, 8000);
  CHECK_BETWEEN(static_cast<double>(out.size()), 15995, 16005);
  CHECK_LEAST(sine_snr(middle(out, 8000), 700, 8000), 50);
  Samples block(100);
  for (const auto& [from, to] : {std::pair{0, 8000}, {8000, 0}, {-5, 8000}, {8000, 2000000000}}) {
    Resampler bad(from, to);
    CHECK(!bad.valid());
    CHECK(bad.process(std::span(out).first(50), block) == 0);
  }
  Resampler same(8000, 8000);
  CHECK(same.process(std::span(out).first(50), block) == 50);
  Resampler narrow(8000, 16000);
  CHECK(narrow.process(std::span(out).first(160), std::span(block).first(7)) == 7);
}

// ---- concealment

struct Concealed {
  Samples heard;
  double lost_snr = 0;        // over the lost frames
  double worst_step = 0;      // into a lost frame, against the largest heard just before
  double worst_return = 0;    // back out of it
  int losses = 0;
};

enum class Way { kPlc, kRepeat };

// Every frame for which `lost` says so is made up.
template <typename Lost>
Concealed conceal(const Samples& speech, int rate_hz, Way way, Lost lost) {
  Plc plc(rate_hz);
  const size_t frame = static_cast<size_t>(rate_hz) / 50;
  Concealed result;
  result.heard = speech;
  Samples meant;
  Samples made;
  bool after_loss = false;
  for (size_t at = 0; at + frame <= speech.size(); at += frame) {
    const std::span<int16_t> now(&result.heard[at], frame);
    const auto border = [&] {
      int natural = 40;
      for (size_t i = at - 3 * frame; i < at; ++i) {
        natural = std::max(natural, std::abs(result.heard[i] - result.heard[i - 1]));
      }
      return static_cast<double>(std::abs(result.heard[at] - result.heard[at - 1])) / natural;
    };
    if (at < 10 * frame || !lost(at / frame)) {
      if (way == Way::kPlc) plc.good(now);
      if (after_loss) result.worst_return = std::max(result.worst_return, border());
      after_loss = false;
      continue;
    }
    after_loss = true;
    if (way == Way::kPlc) plc.conceal(now);
    if (way == Way::kRepeat) std::copy_n(&result.heard[at - frame], frame, now.begin());
    ++result.losses;
    meant.insert(meant.end(), &speech[at], &speech[at] + frame);
    made.insert(made.end(), now.begin(), now.end());
    result.worst_step = std::max(result.worst_step, border());
  }
  result.lost_snr = segmental_snr(meant, made, rate_hz);
  return result;
}

TEST("concealment goes on where the speech stopped, at 5 % and in bursts") {
  if (!have_shared()) return skip("no shared test data");
  for (const int rate_hz : {8000, 16000}) {
    const Samples speech = read_wav(rate_hz == 8000 ? "speech-en-8k.wav" : "speech-en-16k.wav");
    for (const bool bursts : {false, true}) {
      std::array<Concealed, 2> results;
      for (const Way way : {Way::kPlc, Way::kRepeat}) {
        Chance chance(3);
        results[static_cast<size_t>(way)] = conceal(speech, rate_hz, way, [&](size_t frame) {
          return bursts ? frame % 40 < 3 : chance.one_in(0.05);
        });
      }
      const auto& [plc, repeat] = results;
      note("%d Hz, %s: %.1f dB, borders %.2f %.2f; repeating %.1f dB, %.2f %.2f", rate_hz,
           bursts ? "bursts of 3" : "5 %", plc.lost_snr, plc.worst_step, plc.worst_return,
           repeat.lost_snr, repeat.worst_step, repeat.worst_return);
      CHECK_LEAST(plc.losses, 20);
      CHECK_LEAST(plc.lost_snr, repeat.lost_snr + 1);
      if (!bursts) CHECK_LEAST(plc.lost_snr, 0.5);
      // No click: the step into what was made up is one the speech before it made itself. The
      // measure would show it: repeated frames do click.
      CHECK_MOST(plc.worst_step, 1.0);
      CHECK_LEAST(repeat.worst_step, 1.3);
      CHECK_MOST(plc.worst_return, 1.0);
      CHECK_LEAST(repeat.worst_return, 1.1);
    }
  }
}

TEST("concealment holds a vowel and merges back without a click") {
  for (const int rate_hz : {8000, 16000}) {
    for (const double hz : {75.0, 110.0, 180.0, 260.0}) {
      const Samples voice = vowel(hz, rate_hz, 1000, 8000);
      const Concealed one = conceal(voice, rate_hz, Way::kPlc,
                                    [](size_t frame) { return frame % 10 == 5; });
      int steepest = 0;
      int natural = 0;
      for (size_t i = 1; i < voice.size(); ++i) {
        steepest = std::max(steepest, std::abs(one.heard[i] - one.heard[i - 1]));
        natural = std::max(natural, std::abs(voice[i] - voice[i - 1]));
      }
      note("%d Hz, pitch %.0f: %.1f dB, steepest %d of %d", rate_hz, hz, one.lost_snr, steepest,
           natural);
      CHECK_LEAST(one.lost_snr, 9);
      CHECK_MOST(steepest, natural * 1.15);
    }
  }
}

TEST("concealment fades to the background within 60 ms and stays there") {
  Plc plc(8000);
  Samples voice = vowel(120, 8000, 400, 8000);
  for (size_t at = 0; at + 160 <= voice.size(); at += 160) plc.good({&voice[at], 160});
  Samples made(8000);
  for (size_t at = 0; at < made.size(); at += 160) plc.conceal({&made[at], 160});
  const std::span<const int16_t> all(made);

  CHECK_LEAST(level_dbov(all.first(80)), level_dbov(std::span(voice).last(160)) - 2);
  CHECK_BETWEEN(level_dbov(all.subspan(240, 80)), -40, level_dbov(all.first(80)) - 4);
  CHECK_MOST(level_dbov(all.subspan(480)), -44);
  Plc fresh(16000);  // nothing heard yet
  fresh.conceal(made);
  CHECK_MOST(level_dbov(made), -60);
  plc.conceal({});
  plc.good({});
}

// ---- time stretch

TEST("time stretch changes length and keeps pitch, level and waveform") {
  for (const int rate_hz : {8000, 16000, 48000}) {
    for (const double hz : {95.0, 140.0, 220.0}) {
      const Stretch stretch(rate_hz);
      const Samples voice = vowel(hz, rate_hz, 2000, 8000);
      const size_t frame = static_cast<size_t>(rate_hz) / 50;
      Samples shorter;
      Samples longer;
      Samples block(frame + static_cast<size_t>(stretch.growth_samples_max()));
      for (size_t at = 0; at + frame <= voice.size(); at += frame) {
        const std::span<const int16_t> in(&voice[at], frame);
        int count = stretch.accelerate(in, block);
        shorter.insert(shorter.end(), block.begin(), block.begin() + count);
        count = stretch.expand(in, block);
        longer.insert(longer.end(), block.begin(), block.begin() + count);
      }
      const double down = static_cast<double>(shorter.size()) / static_cast<double>(voice.size());
      const double up = static_cast<double>(longer.size()) / static_cast<double>(voice.size());
      const auto start = static_cast<size_t>(rate_hz) / 10;
      const double faster = pitch_hz(std::span(shorter).subspan(start, start * 4), rate_hz);
      const double slower = pitch_hz(std::span(longer).subspan(start, start * 4), rate_hz);

      note("%d Hz, pitch %.0f: x%.2f at %.1f Hz, x%.2f at %.1f Hz", rate_hz, hz, down, faster, up,
           slower);
      CHECK_BETWEEN(down, 0.35, 0.9);
      CHECK_BETWEEN(up, 1.1, 1.65);
      CHECK_BETWEEN(faster / hz, 0.985, 1.015);
      CHECK_BETWEEN(slower / hz, 0.985, 1.015);
      CHECK_BETWEEN(rms(shorter) / rms(voice), 0.93, 1.05);
    }
  }
}

TEST("a splice makes no click even where nothing repeats") {
  const Stretch stretch(8000);
  Samples chord = sine(310, 8000, 1000, 6000);
  const Samples second = sine(447, 8000, 1000, 5000);
  const Samples third = sine(718, 8000, 1000, 4000);
  mix_saturate(chord, second, third, chord);
  int natural = 0;
  int steepest = 0;
  Samples block(260);
  for (size_t at = 0; at + 160 <= chord.size(); at += 160) {
    for (size_t i = at + 1; i < at + 160; ++i) {
      natural = std::max(natural, std::abs(chord[i] - chord[i - 1]));
    }
    const std::span<const int16_t> in(&chord[at], 160);
    for (const bool longer : {false, true}) {
      const int count =
          longer ? stretch.expand(in, block, true) : stretch.accelerate(in, block, true);
      CHECK(block[0] == in.front() || std::abs(block[0] - in.front()) < natural / 8);
      CHECK(block[static_cast<size_t>(count) - 1] == in.back());
      for (size_t i = 1; i < static_cast<size_t>(count); ++i) {
        steepest = std::max(steepest, std::abs(block[i] - block[i - 1]));
      }
    }
  }

  note("steepest %d of %d", steepest, natural);
  CHECK_MOST(steepest, natural * 1.05);
}

TEST("time stretch leaves alone what it would damage, and takes any frame") {
  const Stretch stretch(8000);
  Chance chance(5);
  Samples noise(160);
  for (int16_t& sample : noise) sample = static_cast<int16_t>(chance.below(20000) - 10000);
  Samples out(260);
  CHECK(stretch.accelerate(noise, out) == 160);
  CHECK(std::equal(noise.begin(), noise.end(), out.begin()));
  CHECK(stretch.expand(noise, out) == 160);
  const Samples silence(160);
  CHECK_MOST(stretch.accelerate(silence, out), 140);
  CHECK_LEAST(stretch.expand(silence, out), 180);
  CHECK(stretch.accelerate(std::span(noise).first(79), out) == 79);
  CHECK(stretch.accelerate({}, out) == 0);
  CHECK(stretch.accelerate(silence, std::span(out).first(100)) == 100);
  CHECK(stretch.expand(silence, std::span(out).first(170)) == 160);
  const Samples ten = vowel(220, 8000, 10, 8000);
  CHECK_MOST(stretch.accelerate(ten, out), 60);
  const Samples loud(160, -32768);
  CHECK_LEAST(stretch.accelerate(loud, out), 60);
  CHECK(Stretch(0).accelerate(noise, out) == 160);
}

// ---- tones, noise, meters, mixer

TEST("tones have their frequencies, level and cadence") {
  const ToneSpec ringback{{440, 480}, 200, 300, -19, 2};
  ToneGenerator tone(8000, ringback);
  Samples out(8000);
  int produced = 0;
  for (size_t at = 0; at < out.size(); at += 160) produced += tone.generate({&out[at], 160});
  const std::span<const int16_t> on = std::span<const int16_t>(out).subspan(80, 1400);

  const double sine_at_level = 32767 * std::pow(10, -19 / 20.0);
  CHECK_BETWEEN(goertzel_rms(on, 440, 8000) / sine_at_level, 0.95, 1.05);
  CHECK_BETWEEN(goertzel_rms(on, 480, 8000) / sine_at_level, 0.95, 1.05);
  CHECK_MOST(goertzel_rms(on, 620, 8000) / sine_at_level, 0.02);
  CHECK(rms(std::span<const int16_t>(out).subspan(1600, 2400)) == 0);
  CHECK_LEAST(rms(std::span<const int16_t>(out).subspan(4100, 1400)), 1000);
  CHECK(produced == 1600 + 2400 + 1600);
  CHECK(tone.done());
  // No click: the first sample steps are small against a full swing.
  CHECK_MOST(std::abs(out[1]) + std::abs(out[2]), 200);
  CHECK_MOST(std::abs(out[1599]), 200);
}

TEST("a tone without pauses goes on without a seam, an impossible one is silent") {
  ToneGenerator endless(8000, ToneSpec{{425, 0}, 100, 0, -10, 0});
  Samples out(8000);
  CHECK(endless.generate(out) == 8000);
  CHECK_LEAST(sine_snr(std::span(out).subspan(800, 6400), 425, 8000), 55);
  ToneGenerator none(8000, ToneSpec{{425, 0}, 0, 0, -10, 0});
  CHECK(none.generate(out) == 0 && none.done());
  ToneGenerator beyond(8000, ToneSpec{{9000, -5}, 100, 100, 30, 1});
  beyond.generate(out);
  CHECK(rms(out) == 0);
}

TEST("comfort noise has the level and the colour it was told") {
  Samples out(16000);
  for (const float level : {-40.0f, -55.0f, -70.0f}) {
    ComfortNoise noise(level);
    noise.generate(out);
    CHECK_BETWEEN(level_dbov(out), level - 1.5f, level + 1.5f);
  }
  // RFC 3389 section 3.2: first coefficient -0.8 makes it low-pass (k = 258 * (N - 127) / 2^15).
  ComfortNoise coloured;
  const std::array<uint8_t, 2> sid{40, 25};
  CHECK(coloured.update(sid));
  coloured.generate(out);
  double neighbours = 0;
  for (size_t i = 1; i < out.size(); ++i) neighbours += out[i] * out[i - 1];
  CHECK_BETWEEN(neighbours / (rms(out) * rms(out) * 16000), 0.75, 0.85);
  CHECK_BETWEEN(level_dbov(out), -42, -38);
  CHECK(!coloured.update({}));
  Chance chance(2);
  for (int i = 0; i < 200; ++i) {  // any payload is stable
    Bytes payload(static_cast<size_t>(1 + chance.below(40)));
    for (uint8_t& byte : payload) byte = static_cast<uint8_t>(chance.bits());
    payload[0] |= 40;
    coloured.update(payload);
    coloured.generate(std::span(out).first(160));
    CHECK_MOST(rms(std::span(out).first(160)), 8000);
  }
  std::array<uint8_t, 1> written{};
  CHECK(ComfortNoise::write(-52.4f, written) == 1 && written[0] == 52);
}

TEST("the meter reads dBov and times silence") {
  CHECK_BETWEEN(level_dbov(Samples(160, 32767)), -0.1, 0.1);
  CHECK_BETWEEN(level_dbov(sine(400, 8000, 100, 32767)), -3.2, -2.9);
  CHECK(level_dbov(Samples(160)) == kSilenceDbov);
  CHECK(level_dbov({}) == kSilenceDbov);
  Energy energy(8000, -45);
  const Samples voice = vowel(120, 8000, 20, 5000);
  const Samples quiet(160, 20);
  for (int i = 0; i < 25; ++i) energy.update(quiet);
  CHECK(energy.silent() && energy.silent_ms() == 500);
  energy.update(voice);
  CHECK(!energy.silent() && energy.silent_ms() == 0);
}

TEST("mixing saturates and interleaving fills the shorter side") {
  const Samples high(5, 30000);
  const Samples low(5, -30000);
  const Samples half(5, 1000);
  Samples out(5);
  mix_saturate(high, high, out);
  CHECK(out == Samples(5, 32767));
  mix_saturate(low, low, out);
  CHECK(out == Samples(5, -32768));
  mix_saturate(high, low, half, out);
  CHECK(out == half);
  scale_saturate(high, 0.5f, out);
  CHECK(out == Samples(5, 15000));
  scale_saturate(high, 100.0f, out);
  CHECK(out == Samples(5, 32767));
  scale_saturate(high, std::nanf(""), out);
  CHECK(out == Samples(5, 0));
  Samples stereo(10);
  CHECK(interleave(std::span(high).first(3), half, stereo) == 5);
  CHECK(stereo == (Samples{30000, 1000, 30000, 1000, 30000, 1000, 0, 1000, 0, 1000}));
  CHECK(interleave(high, half, std::span(stereo).first(3)) == 1);
  CHECK(mix_saturate(high, std::span(half).first(2), out) == 2);
}

}  // namespace
}  // namespace tandem::test
