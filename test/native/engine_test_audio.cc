// Engine tests over loopback, sound: transcoding, players, recorders, captures of real phones.
#include "engine_support.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "file.h"

namespace tandem::test {
namespace {

/// A folder that goes with the test.
class Folder {
 public:
  Folder() {
    char name[] = "/tmp/tandem-engine-XXXXXX";
    path_ = mkdtemp(name);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string file(const char* name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

std::string make_tone_file(const Folder& folder, const char* name, int rate_hz, double hz, int ms) {
  const std::string path = folder.file(name);
  WavWriter writer;
  EXPECT(writer.open(path.c_str(), rate_hz, 1) == FileError::kNone);
  std::vector<int16_t> samples(static_cast<size_t>(rate_hz) / 1000 * static_cast<size_t>(ms));
  for (size_t i = 0; i < samples.size(); i++) {
    const double angle = 2 * std::numbers::pi * hz * static_cast<double>(i) / rate_hz;
    samples[i] = static_cast<int16_t>(8000 * std::sin(angle));
  }
  writer.write(samples);
  writer.close();
  return path;
}

std::vector<int16_t> read_file(const std::string& path, int& rate_hz) {
  WavReader reader;
  std::vector<int16_t> out;
  rate_hz = 0;
  if (reader.open(path.c_str()) != FileError::kNone) return out;
  rate_hz = reader.sample_rate();
  out.resize(static_cast<size_t>(reader.frames()));
  size_t filled = 0;
  for (int got = 1; got > 0 && filled < out.size(); filled += static_cast<size_t>(got)) {
    got = reader.read(std::span(out).subspan(filled));
    if (got <= 0) break;
  }
  return out;
}

/// Both phones talk for `packets` x 20 ms, in real time.
void talk(Phone& phone, uint16_t to_port, double hz, int packets, Phone& other) {
  int64_t position = 0;
  int64_t next_us = steady_now_us();
  for (int i = 0; i < packets; i++) {
    phone.send(to_port, tone_ulaw(hz, position), 0, 160, i == 0);
    next_us += 20'000;
    other.listen(static_cast<int>(std::max<int64_t>(0, next_us - steady_now_us()) / 1000));
  }
}

void a_tone_is_heard_through_opus_and_back() {
  Rig rig;
  Phone alice;
  Phone bob;
  const PortMade a = rig.port(alice);
  const PortMade b = rig.port(bob, CodecId::kOpus);
  rig.engine.connect(a.handle, b.handle);
  talk(alice, a.rtp_port, 440, 60, bob);
  EXPECT(rig.engine.ask(a.handle).mode == PortMode::kTranscode);
  const auto decoder = make_decoder(CodecId::kOpus, 8000);
  std::vector<int16_t> sound;
  std::array<int16_t, kFrameSamplesMax> frame;
  for (const Heard& one : bob.heard) {
    if (one.rtp.payload_type != 96) continue;
    const int count = decoder->decode(one.payload, frame);
    EXPECT(count == 160);
    sound.insert(sound.end(), frame.begin(), frame.begin() + std::max(0, count));
  }
  EXPECT(sound.size() > 8000);
  EXPECT(tone_share(std::span(sound).last(4000), 440) > 0.9);

  // And the other way: what Bob sent in Opus, Alice hears as mu-law.
  alice.listen(0);
  alice.clear();
  const auto encoder = make_encoder(CodecId::kOpus, 8000, CodecOptions{});
  std::array<uint8_t, 1276> payload;
  for (int i = 0; i < 50; i++) {
    for (int j = 0; j < 160; j++) {
      const double angle = 2 * std::numbers::pi * 620 * (i * 160 + j) / 8000;
      frame[static_cast<size_t>(j)] = static_cast<int16_t>(8000 * std::sin(angle));
    }
    const int bytes = encoder->encode(std::span(frame).first(160), payload);
    bob.send(b.rtp_port, std::span(payload).first(static_cast<size_t>(bytes)), 96, 960);
    alice.listen(20);
  }
  const std::vector<int16_t> back = decode_ulaw(alice.heard);
  EXPECT(back.size() > 6000 && tone_share(std::span(back).last(4000), 620) > 0.9);
}

void packet_times_that_differ_are_cut_anew() {
  for (const int ptime_ms : {10, 30, 60}) {
    Rig rig;
    Phone alice;
    Phone bob;
    const PortMade a = rig.port(alice);
    const PortMade b = rig.engine.create_port({});
    PortSettings settings = Rig::settings(bob.port());
    settings.ptime_ms = ptime_ms;
    rig.engine.set_port(b.handle, settings);
    rig.engine.connect(a.handle, b.handle);
    talk(alice, a.rtp_port, 440, 40, bob);
    EXPECT(rig.engine.ask(a.handle).mode == PortMode::kTranscode);
    EXPECT(bob.heard.size() * static_cast<size_t>(ptime_ms) > 600);
    for (size_t i = 1; i < bob.heard.size(); i++) {
      EXPECT(bob.heard[i].payload.size() == static_cast<size_t>(ptime_ms) * 8);
      const uint32_t step = bob.heard[i].rtp.timestamp - bob.heard[i - 1].rtp.timestamp;
      EXPECT(step == static_cast<uint32_t>(ptime_ms) * 8);
    }
    const std::vector<int16_t> sound = decode_ulaw(bob.heard);
    EXPECT(sound.size() > 4000 && tone_share(std::span(sound).last(3000), 440) > 0.9);
  }
}

void a_player_sends_every_20_ms() {
  Rig rig;
  Folder folder;
  Phone alice;
  int64_t duration_ms = 0;
  const std::string path = make_tone_file(folder, "tone.wav", 16000, 1000, 500);
  const Handle clip = rig.engine.create_clip(path, duration_ms);
  EXPECT(duration_ms == 500);
  const PortMade a = rig.port(alice);
  alice.listen(100);
  PlayerRequest request;
  request.port = a.handle;
  request.clip = clip;
  request.loop = 2;
  const Handle player = rig.engine.create_player(request);
  rig.engine.close(clip);
  alice.listen(1300);
  EXPECT(wait_for([&] { return rig.count(EventType::kPlayDone, player) == 1; }));
  const EventRecord done = rig.first(EventType::kPlayDone);
  EXPECT(done.a == 0 && std::fabs(done.b - 1000) <= 20);

  EXPECT(alice.heard.size() > 60);
  int late = 0;
  for (size_t i = 1; i < alice.heard.size(); i++) {
    const Heard& one = alice.heard[i];
    EXPECT(one.rtp.timestamp == alice.heard[i - 1].rtp.timestamp + 160);
    EXPECT(one.rtp.sequence == static_cast<uint16_t>(alice.heard[i - 1].rtp.sequence + 1));
    EXPECT(one.rtp.marker == false);
    if (std::llabs(one.at_us - alice.heard[i - 1].at_us - 20'000) > 8'000) late++;
  }
  EXPECT(late <= static_cast<int>(alice.heard.size() / 10));
  const std::vector<int16_t> sound = decode_ulaw(alice.heard);
  int loud = 0;
  for (const int16_t sample : sound) loud += std::abs(sample) > 1000;
  EXPECT(loud > 7000 * 0.8 && loud < 8000);
  EXPECT(tone_share(std::span(sound).subspan(2000, 1600), 1000) > 0.9);
}

void a_long_clip_comes_from_disk_and_stops_when_told() {
  EngineOptions options = Rig::defaults();
  options.clip_preload_bytes_max = 0;
  Rig rig(options);
  Folder folder;
  Phone alice;
  int64_t duration_ms = 0;
  const Handle clip =
      rig.engine.create_clip(make_tone_file(folder, "long.wav", 44100, 700, 2000), duration_ms);
  const PortMade a = rig.port(alice);
  PlayerRequest request;
  request.port = a.handle;
  request.clip = clip;
  request.loop = 0;
  request.offset_ms = 1500;
  const Handle player = rig.engine.create_player(request);
  alice.listen(900);  // past the end of the file, into its second round
  rig.engine.close(player);
  EXPECT(wait_for([&] { return rig.count(EventType::kPlayDone, player) == 1; }));
  EXPECT(rig.first(EventType::kPlayDone).a == 1);
  const std::vector<int16_t> sound = decode_ulaw(alice.heard);
  EXPECT(sound.size() > 5000 && tone_share(std::span(sound).last(1600), 700) > 0.9);
}

void digits_go_as_events_or_as_tones() {
  Rig rig;
  Phone modern;
  Phone plain;
  const PortMade a = rig.port(modern);
  const PortMade b = rig.engine.create_port({});
  PortSettings settings = Rig::settings(plain.port());
  settings.has_dtmf = false;
  settings.inband_dtmf = true;
  rig.engine.set_port(b.handle, settings);
  PlayerRequest request;
  request.port = a.handle;
  request.digits = "1w#";
  const Handle events = rig.engine.create_player(request);
  request.port = b.handle;
  const Handle tones = rig.engine.create_player(request);
  modern.listen(1300);
  plain.listen(0);
  EXPECT(wait_for([&] { return rig.count(EventType::kPlayDone) == 2; }));
  EXPECT(rig.count(EventType::kPlayDone, events) == 1);
  EXPECT(rig.count(EventType::kPlayDone, tones) == 1);
  std::string keys;
  for (const Heard& one : modern.heard) {
    if (one.rtp.payload_type == 101 && one.rtp.marker) keys += kDtmfKeys[one.payload[0]];
  }
  EXPECT(keys == "1#");

  // The tones of one leg, sent into the in-band ear of the same leg, are the digits.
  std::vector<std::vector<uint8_t>> said;
  for (const Heard& one : plain.heard) said.push_back(one.payload);
  said.resize(said.size() + 20, std::vector<uint8_t>(160, kUlawSilence));
  int64_t next_us = steady_now_us();
  for (const auto& payload : said) {
    plain.send(b.rtp_port, payload);
    next_us += 20'000;
    plain.listen(static_cast<int>(std::max<int64_t>(0, next_us - steady_now_us()) / 1000));
  }
  EXPECT(wait_for([&] { return rig.count(EventType::kDigit, b.handle) == 2; }));
  const EventRecord digit = rig.first(EventType::kDigit);
  EXPECT(digit.a == 1 && static_cast<int>(digit.b) % 2 == 1);
}

void an_announcement_over_a_relayed_bridge_is_mixed_in() {
  Rig rig;
  Phone alice;
  Phone bob;
  const PortMade a = rig.port(alice);
  const PortMade b = rig.port(bob);
  rig.engine.connect(a.handle, b.handle);
  talk(alice, a.rtp_port, 440, 20, bob);
  PlayerRequest request;
  request.port = b.handle;
  request.tone = TonePlan{{{1400, 0}, 600, 0, -16, 1}, false};
  rig.engine.create_player(request);
  bob.clear();
  talk(alice, a.rtp_port, 440, 30, bob);
  const std::vector<int16_t> both = decode_ulaw(bob.heard);
  EXPECT(both.size() > 4000);
  const auto middle = std::span(both).subspan(both.size() / 3, 1600);
  EXPECT(tone_share(middle, 440) > 0.2 && tone_share(middle, 1400) > 0.2);
  talk(alice, a.rtp_port, 440, 10, bob);
  EXPECT(wait_for([&] { return rig.count(EventType::kPlayDone) == 1; }));
  bob.clear();
  talk(alice, a.rtp_port, 440, 20, bob);
  EXPECT(rig.engine.ask(a.handle).mode == PortMode::kRelay);
  const std::vector<int16_t> alone = decode_ulaw(bob.heard);
  EXPECT(tone_share(alone, 440) > 0.7);
  for (size_t i = 1; i < bob.heard.size(); i++) {
    EXPECT(bob.heard[i].rtp.sequence == static_cast<uint16_t>(bob.heard[i - 1].rtp.sequence + 1));
  }
}

void a_recording_of_a_relayed_call_holds_both_sides() {
  Rig rig;
  Folder folder;
  Phone alice;
  Phone bob;
  const PortMade a = rig.port(alice);
  const PortMade b = rig.port(bob);
  rig.engine.connect(a.handle, b.handle);
  RecorderOptions options;
  options.path = folder.file("both.wav");
  options.channels = 2;
  options.source = RecordSource::kBoth;
  const Handle recorder = rig.engine.create_recorder(a.handle, options);
  int64_t here = 0;
  int64_t there = 0;
  for (int i = 0; i < 60; i++) {
    alice.send(a.rtp_port, tone_ulaw(500, here));
    bob.send(b.rtp_port, tone_ulaw(900, there));
    pause_ms(20);
  }
  EXPECT(rig.engine.ask(a.handle).mode == PortMode::kRelay);
  rig.engine.close(recorder);
  EXPECT(wait_for([&] { return rig.count(EventType::kRecordDone, recorder) == 1; }));
  EXPECT(rig.first(EventType::kRecordDone).a == 0);
  std::ifstream file(options.path, std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
  std::vector<int16_t> in;
  std::vector<int16_t> out;
  for (size_t at = 44; at + 4 <= bytes.size(); at += 4) {
    int16_t sample;
    std::memcpy(&sample, &bytes[at], 2);
    in.push_back(sample);
    std::memcpy(&sample, &bytes[at + 2], 2);
    out.push_back(sample);
  }
  EXPECT(in.size() > 8000);
  const size_t half = std::min<size_t>(in.size() / 2, 4000);
  EXPECT(tone_share(std::span(in).subspan(half, 3200), 500) > 0.9);
  EXPECT(tone_share(std::span(out).subspan(half, 3200), 900) > 0.9);
}

void a_recording_survives_an_abrupt_end() {
  Folder folder;
  const std::string path = folder.file("cut.wav");
  {
    Rig rig;
    Phone alice;
    const PortMade a = rig.port(alice);
    RecorderOptions options;
    options.path = path;
    const Handle recorder = rig.engine.create_recorder(a.handle, options);
    talk(alice, a.rtp_port, 500, 70, alice);
    // As a crash would leave it: the file is read while it is written.
    int rate_hz = 0;
    const std::vector<int16_t> now = read_file(path, rate_hz);
    EXPECT(rate_hz == 8000 && now.size() >= 7000);
    rig.engine.close(a.handle);
    EXPECT(wait_for([&] { return rig.count(EventType::kRecordDone, recorder) == 1; }));
    EXPECT(rig.first(EventType::kRecordDone).a == 4);
  }
  int rate_hz = 0;
  const std::vector<int16_t> sound = read_file(path, rate_hz);
  EXPECT(sound.size() > 10'000 && tone_share(std::span(sound).subspan(6000, 3200), 500) > 0.9);
}

void silence_ends_and_is_trimmed() {
  Rig rig;
  Folder folder;
  Phone alice;
  const PortMade a = rig.port(alice);
  RecorderOptions options;
  options.path = folder.file("trim.wav");
  options.silence_ms = 700;
  options.trim_silence = true;
  const Handle recorder = rig.engine.create_recorder(a.handle, options);
  pause_ms(300);
  talk(alice, a.rtp_port, 500, 25, alice);
  EXPECT(wait_for([&] { return rig.count(EventType::kRecordDone, recorder) == 1; }));
  const EventRecord done = rig.first(EventType::kRecordDone);
  EXPECT(done.a == 2 && done.b >= 500 && done.b <= 950);
  int rate_hz = 0;
  const std::vector<int16_t> sound = read_file(options.path, rate_hz);
  EXPECT(std::fabs(static_cast<double>(sound.size()) / 8 - done.b) < 1);

  options.path = folder.file("max.wav");
  options.max_ms = 250;
  options.trim_silence = false;
  rig.engine.create_recorder(a.handle, options);
  EXPECT(wait_for([&] { return rig.count(EventType::kRecordDone) == 2; }));
  EXPECT(rig.events().back().a == 1 && rig.events().back().b == 250);
}

}  // namespace

std::vector<TestCase> audio_tests() {
  return {
      {"a tone is heard through Opus and back", a_tone_is_heard_through_opus_and_back},
      {"packet times that differ are cut anew", packet_times_that_differ_are_cut_anew},
      {"a player sends every 20 ms", a_player_sends_every_20_ms},
      {"a long clip comes from disk and stops when told",
       a_long_clip_comes_from_disk_and_stops_when_told},
      {"digits go as events or as tones", digits_go_as_events_or_as_tones},
      {"an announcement over a relayed bridge is mixed in",
       an_announcement_over_a_relayed_bridge_is_mixed_in},
      {"a recording of a relayed call holds both sides",
       a_recording_of_a_relayed_call_holds_both_sides},
      {"a recording survives an abrupt end", a_recording_survives_an_abrupt_end},
      {"silence ends and is trimmed", silence_ends_and_is_trimmed},
  };
}

}  // namespace tandem::test
