// DTMF: events received (captures, loss, hostile senders), sent, heard in the audio and made.
#include <algorithm>
#include <string>

#include "check.h"
#include "dsp_test.h"
#include "dtmf.h"

namespace tandem::test {
namespace {

struct EventPacket {
  uint32_t ssrc = 1;
  uint32_t ts = 0;
  bool marker = false;
  Bytes payload;
  int64_t at_us = 0;
};

struct Heard {
  std::string keys;
  std::vector<int> durations_ms;
};

// A leg's loop: packets as they come, poll() each 20 ms in between and for a second after.
Heard receive(const std::vector<EventPacket>& packets, int clock_hz = 8000) {
  EventReceiver receiver(clock_hz);
  Heard heard;
  const auto add = [&](const DtmfDigit& digit) {
    heard.keys += kDtmfKeys[digit.key];
    heard.durations_ms.push_back(digit.duration_ms);
  };
  std::array<DtmfDigit, 2> digits;
  int64_t now_us = packets.empty() ? 0 : packets.front().at_us;
  const auto poll_until = [&](int64_t until_us) {
    for (; now_us < until_us; now_us += 20'000) {
      if (receiver.poll(now_us, digits[0]) == 1) add(digits[0]);
    }
  };
  for (const EventPacket& packet : packets) {
    poll_until(packet.at_us);
    const int ended = receiver.receive(packet.ssrc, packet.ts, packet.marker, packet.payload,
                                       packet.at_us, digits);
    for (int i = 0; i < ended; ++i) add(digits[static_cast<size_t>(i)]);
  }
  poll_until(now_us + 1'000'000);
  CHECK(!receiver.active());
  return heard;
}

std::vector<EventPacket> captured_events() {
  std::vector<EventPacket> events;
  for (const CapturedPacket& packet : read_capture("rtp-dtmf-rfc4733-16digits.pcap")) {
    if (packet.type != 101) continue;
    events.push_back(
        {packet.ssrc, packet.raw_ts, packet.marker, packet.payload, packet.arrival_us});
  }
  return events;
}

Bytes event(int key, bool end, int units) {
  return {static_cast<uint8_t>(key), static_cast<uint8_t>(end ? 0x8a : 0x0a),
          static_cast<uint8_t>(units >> 8), static_cast<uint8_t>(units)};
}

TEST("the captured 16 digits are heard once each, with their length") {
  const auto events = captured_events();
  if (events.empty()) return skip("no shared test data");
  const Heard heard = receive(events);

  note("%zu packets: %s", events.size(), heard.keys.c_str());
  CHECK(heard.keys == kDtmfKeys);
  for (const int duration_ms : heard.durations_ms) CHECK_BETWEEN(duration_ms, 160, 180);
}

TEST("the captured digits survive loss, repeats and reordering, each once and in order") {
  const auto events = captured_events();
  if (events.empty()) return skip("no shared test data");
  for (const double loss : {0.2, 0.5, 0.8}) {
    int wrong = 0;
    for (uint32_t seed = 1; seed <= 200; ++seed) {
      Chance chance(seed);
      std::vector<EventPacket> network;
      std::string expected;
      for (const EventPacket& packet : events) {
        if (chance.one_in(loss)) continue;
        const char key = kDtmfKeys[packet.payload[0]];
        if (expected.empty() || expected.back() != key) expected += key;
        network.push_back(packet);
        if (chance.one_in(0.2)) network.push_back(packet);
      }
      // Neighbours change places, across the end of a digit as well. Not when a digit may be down
      // to one packet: that one, overtaken by the whole next digit, comes too late.
      for (size_t i = 1; i < network.size(); ++i) {
        if (loss <= 0.2 && chance.one_in(0.1)) {
          std::swap(network[i], network[i - 1]);
          std::swap(network[i].at_us, network[i - 1].at_us);
        }
      }
      const Heard heard = receive(network);
      if (heard.keys != expected) {
        if (wrong++ == 0) {
          note("loss %.1f seed %u: %s, wanted %s", loss, seed, heard.keys.c_str(),
               expected.c_str());
        }
      }
      if (loss <= 0.2) CHECK(heard.keys == kDtmfKeys);
    }
    note("loss %.0f %%: %d of 200 runs wrong", loss * 100, wrong);
    CHECK(wrong == 0);
  }
}

TEST("the only packet left of a digit is heard though the next digit overtook it") {
  const std::vector<EventPacket> packets{{1, 1000, true, event(1, true, 800), 0},
                                         {1, 5000, true, event(3, false, 160), 400'000},
                                         {1, 3000, false, event(2, false, 320), 410'000},
                                         {1, 3000, false, event(2, true, 800), 415'000},
                                         {1, 5000, false, event(3, true, 800), 480'000},
                                         {1, 1000, false, event(1, true, 800), 490'000}};
  CHECK(receive(packets).keys == "123");
}

TEST("the same key twice is two digits, even when the first end is lost") {
  std::vector<EventPacket> packets;
  for (const uint32_t ts : {1000u, 3000u, 5000u}) {
    for (int i = 1; i <= 5; ++i) {
      packets.push_back({1, ts, i == 1, event(5, false, i * 160), int64_t{ts} * 125 + i * 20'000});
    }
  }
  CHECK(receive(packets).keys == "555");
  // The marker lost as well: only the timestamp tells.
  for (EventPacket& packet : packets) packet.marker = false;
  CHECK(receive(packets).keys == "555");
}

TEST("a digit longer than 65535 units is one digit") {
  std::vector<EventPacket> packets;  // 3 s at 48 kHz: segments of 0xffff (section 2.5.1.3)
  uint32_t ts = 70'000;
  uint32_t units = 0;
  for (int i = 1; i <= 150; ++i) {
    units += 960;
    if (units > 0xffff) {
      ts += 0xffff;
      units -= 0xffff;
    }
    packets.push_back({1, ts, i == 1, event(7, i == 150, static_cast<int>(units)), i * 20'000});
  }
  Heard heard = receive(packets, 48000);
  CHECK(heard.keys == "7");
  CHECK_BETWEEN(heard.durations_ms[0], 2990, 3010);
  packets.erase(packets.begin() + 40, packets.begin() + 70);  // loss over the border
  heard = receive(packets, 48000);
  CHECK(heard.keys.find_first_not_of('7') == std::string::npos);
  CHECK_BETWEEN(static_cast<double>(heard.keys.size()), 1, 2);  // 600 ms of nothing may end it
}

TEST("senders that move the timestamp within a digit do not double it") {
  std::vector<EventPacket> packets;
  for (uint32_t digit = 0; digit < 3; ++digit) {
    const uint32_t ts = 8000 + digit * 2400;
    for (uint32_t i = 1; i <= 8; ++i) {
      const bool end = i >= 6;
      const int units = static_cast<int>(std::min(i, 6u) * 160);
      packets.push_back({1, ts + (i - 1) * 160, i == 1, event(4, end, units),
                         int64_t{digit} * 300'000 + i * 20'000});
    }
  }
  CHECK(receive(packets).keys == "444");
}

TEST("a new source or a clock that went back is heard") {
  std::vector<EventPacket> packets{{1, 500'000, true, event(1, true, 800), 0},
                                   {2, 100, true, event(1, true, 800), 400'000},
                                   {2, 4'000'000'000u, true, event(2, true, 800), 800'000},
                                   {2, 900, true, event(3, true, 800), 1'200'000}};
  CHECK(receive(packets).keys == "1123");
}

TEST("hostile event packets make no digit and no harm") {
  EventReceiver receiver(8000);
  std::array<DtmfDigit, 2> digits;
  for (const Bytes& payload : {Bytes{}, Bytes{1}, Bytes{1, 2, 3}, Bytes{16, 0x80, 1, 0},
                               Bytes{255, 0x80, 255, 255}}) {
    CHECK(receiver.receive(1, 1, true, payload, 0, digits) == 0);
  }
  Chance chance(4);
  int reported = 0;
  for (int i = 0; i < 20'000; ++i) {
    Bytes payload(static_cast<size_t>(chance.below(9)));
    for (uint8_t& byte : payload) byte = static_cast<uint8_t>(chance.bits());
    const int ended = receiver.receive(chance.bits() & 1, chance.bits(), chance.one_in(0.5),
                                       payload, i * int64_t{1000}, digits);
    reported += ended;
    CHECK(ended >= 0 && ended <= 2);
    for (int d = 0; d < ended; ++d) {
      const DtmfDigit& digit = digits[static_cast<size_t>(d)];
      CHECK(digit.key >= 0 && digit.key < kDtmfKeyCount && digit.duration_ms >= 0);
    }
  }
  CHECK_LEAST(reported, 1);
}

// ---- sending

struct SentEvents {
  std::vector<EventPacket> packets;
  int ticks = 0;
};

SentEvents send(EventSender& sender, int clock_hz, int ptime_ms, uint32_t first_ts) {
  SentEvents sent;
  EventSender::Packet packet;
  const uint32_t step = static_cast<uint32_t>(clock_hz / 1000 * ptime_ms);
  while (sender.busy() && sent.ticks < 2000) {
    const uint32_t ts_now = first_ts + static_cast<uint32_t>(sent.ticks) * step;
    if (sender.next(ts_now, packet) == EventSender::Step::kEvent) {
      sent.packets.push_back({1, packet.timestamp, packet.marker,
                              Bytes(packet.payload.begin(), packet.payload.end()),
                              int64_t{sent.ticks} * ptime_ms * 1000});
    }
    ++sent.ticks;
  }
  return sent;
}

TEST("digits are sent as RFC 4733 wants: marker, one timestamp, three ends, growing duration") {
  EventSender sender(8000, 20);
  CHECK(!sender.busy());
  sender.push(dtmf_key('#'), 100, 100);
  const SentEvents sent = send(sender, 8000, 20, 0xfffffff0u);

  CHECK(sent.packets.size() == 7);
  CHECK(sent.ticks == 10);  // 100 ms of tone, 100 ms of gap
  for (size_t i = 0; i < sent.packets.size(); ++i) {
    const EventPacket& packet = sent.packets[i];
    const auto units = static_cast<int>(std::min<size_t>(i + 1, 5) * 160);
    CHECK(packet.marker == (i == 0));
    CHECK(packet.ts == 0xfffffff0u);
    CHECK(packet.payload == event(11, i >= 4, units));
  }
}

TEST("what the sender sends the receiver hears, at every clock and packet time") {
  for (const int clock_hz : {8000, 48000}) {
    for (const int ptime_ms : {10, 20, 30, 60}) {
      EventSender sender(clock_hz, ptime_ms);
      for (int key = 0; key < kDtmfKeyCount; ++key) CHECK(sender.push(key, 120, 80));
      sender.push_pause(500);
      sender.push(3, 3000, 40);
      sender.push(3, 40, 40);
      const SentEvents sent = send(sender, clock_hz, ptime_ms, 12345);
      const Heard heard = receive(sent.packets, clock_hz);

      CHECK(heard.keys == std::string(kDtmfKeys) + "33");
      CHECK_BETWEEN(heard.durations_ms[0], 120, 120 + ptime_ms);
      CHECK_BETWEEN(heard.durations_ms[16], 2990, 3000 + ptime_ms);
      CHECK_BETWEEN(heard.durations_ms[17], 40, 40 + ptime_ms);
    }
  }
}

TEST("a cancelled digit is ended properly, the queue is bounded") {
  EventSender sender(8000, 20);
  int taken = 0;
  while (sender.push(1, 1000, 100)) ++taken;
  CHECK(taken == EventSender::kQueueMax);
  CHECK(!sender.push(16) && !sender.push(-1));
  EventSender::Packet packet;
  for (int i = 0; i < 5; ++i) sender.next(static_cast<uint32_t>(i) * 160, packet);
  sender.cancel();
  const SentEvents rest = send(sender, 8000, 20, 800);
  CHECK(rest.packets.size() == 3);
  CHECK(rest.packets.back().payload == event(1, true, 960));
  CHECK(sender.next(0, packet) == EventSender::Step::kIdle);
  CHECK(dtmf_key('a') == 12 && dtmf_key('*') == 10 && dtmf_key('x') == kNoKey);
}

// ---- in the audio

Heard listen(std::span<const int16_t> audio) {
  InbandDetector detector;
  std::array<DtmfDigit, 2> digits;
  Heard heard;
  for (size_t at = 0; at < audio.size(); at += 160) {
    const size_t count = std::min<size_t>(160, audio.size() - at);
    const int ended = detector.process(audio.subspan(at, count), digits);
    for (int i = 0; i < ended; ++i) {
      heard.keys += kDtmfKeys[digits[static_cast<size_t>(i)].key];
      heard.durations_ms.push_back(digits[static_cast<size_t>(i)].duration_ms);
    }
  }
  return heard;
}

// The recording: 16 digits of 60 ms, ten quieter ones of 40 ms (Q.24: to be heard), ten of 20 ms
// (not to be heard).
TEST("recorded in-band digits are heard once each, too short ones are not") {
  const Samples audio = read_wav("dtmf-inband-8k.wav");
  if (audio.empty()) return skip("no shared test data");
  const Heard heard = listen(audio);

  note("heard %s", heard.keys.c_str());
  CHECK(heard.keys.size() == 26);
  std::string first = heard.keys.substr(0, 16);
  std::sort(first.begin(), first.end());
  std::string all = kDtmfKeys;
  std::sort(all.begin(), all.end());
  CHECK(first == all);
  for (size_t i = 0; i < heard.durations_ms.size(); ++i) {
    CHECK_BETWEEN(heard.durations_ms[i], i < 16 ? 50 : 30, i < 16 ? 75 : 55);
  }
}

TEST("speech makes no digits") {
  const Samples speech = read_wav("speech-en-8k.wav");
  if (speech.empty()) return skip("no shared test data");
  Samples louder = speech;
  for (int16_t& sample : louder) {
    sample = static_cast<int16_t>(std::clamp(sample * 3, -32768, 32767));
  }
  CHECK(listen(speech).keys.empty());
  CHECK(listen(louder).keys.empty());
}

TEST("digits we make are heard, and have the right frequencies") {
  DtmfTone tone(8000);
  for (int key = 0; key < kDtmfKeyCount; ++key) CHECK(tone.push(key, 80, 60));
  tone.push_pause(300);
  tone.push(5, 200, 40);
  Samples audio;
  std::array<int16_t, 160> block;
  while (tone.busy()) {
    const int count = tone.generate(block);
    audio.insert(audio.end(), block.begin(), block.begin() + count);
  }
  audio.resize(audio.size() + 800);

  const Heard heard = listen(audio);
  CHECK(heard.keys == std::string(kDtmfKeys) + "5");
  CHECK_BETWEEN(heard.durations_ms.back(), 185, 215);
  // Key 0 is 941 and 1336 Hz; the high group stands 2 dB above the low one.
  const auto first = std::span<const int16_t>(audio).subspan(80, 480);
  const double low = goertzel_rms(first, 941, 8000);
  const double high = goertzel_rms(first, 1336, 8000);
  CHECK_LEAST(low, 3000);
  CHECK_BETWEEN(high / low, 1.15, 1.37);
  CHECK_MOST(goertzel_rms(first, 1209, 8000), low * 0.1);
}

TEST("made digits are right at every rate and the queue is bounded") {
  for (const int rate_hz : {8000, 16000, 48000}) {
    DtmfTone tone(rate_hz);
    tone.push(dtmf_key('D'), 100, 40);
    Samples audio(static_cast<size_t>(rate_hz / 5));
    CHECK(tone.generate(audio) == rate_hz * 140 / 1000);
    const auto on = std::span<const int16_t>(audio).first(static_cast<size_t>(rate_hz / 10));
    CHECK_LEAST(goertzel_rms(on, 1633, rate_hz), 3000);
    CHECK_LEAST(goertzel_rms(on, 941, rate_hz), 3000);
    CHECK(rms(std::span<const int16_t>(audio).subspan(on.size() + 10)) == 0);
  }
  DtmfTone full(8000, 20.0f);  // louder than can be: bounded, not clipped
  int taken = 0;
  while (full.push(1)) ++taken;
  CHECK(taken == DtmfTone::kQueueMax);
  Samples audio(800);
  full.generate(audio);
  const auto [low, high] = std::minmax_element(audio.begin(), audio.end());
  CHECK_BETWEEN(*high, 20000, 32700);
  CHECK_BETWEEN(*low, -32700, -20000);
  full.cancel();
  CHECK(!full.busy() && full.generate(audio) == 0);
}

}  // namespace
}  // namespace tandem::test
