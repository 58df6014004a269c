// Jitter buffer: a seeded network in front of it, a player behind it, and what the listener gets.
#include <algorithm>
#include <cstdlib>
#include <functional>

#include "check.h"
#include "dsp_test.h"
#include "jitter.h"

namespace tandem::test {
namespace {

constexpr int64_t kMs = 1000;
constexpr int64_t kTickUs = 20 * kMs;
constexpr int64_t kStretchUs = 8 * kMs;  // what one splice takes out or puts in, about

struct Sent {
  int64_t arrival_us;
  int64_t seq;
  int64_t ts;
  Bytes payload;
};

struct Stream {
  int ptime_ms = 20;
  int seconds = 20;
  int clock_hz = 8000;
  double drift_ppm = 0;      // sender's clock against ours
  double loss = 0;
  double duplicate = 0;
  std::function<int64_t(int64_t, Chance&)> delay = [](int64_t, Chance&) { return 30 * kMs; };
};

std::vector<Sent> send(const Stream& stream, uint32_t seed) {
  Chance chance(seed);
  std::vector<Sent> packets;
  const int64_t count = int64_t{stream.seconds} * 1000 / stream.ptime_ms;
  for (int64_t i = 0; i < count; ++i) {
    const auto sent_us = static_cast<int64_t>(static_cast<double>(i * stream.ptime_ms * kMs) *
                                              (1.0 + stream.drift_ppm * 1e-6));
    const int64_t delay_us = stream.delay(sent_us, chance);
    const bool lost = chance.one_in(stream.loss);
    const bool twice = chance.one_in(stream.duplicate);
    const Sent packet{sent_us + delay_us, 65530 + i, i * stream.ptime_ms * stream.clock_hz / 1000,
                      Bytes(10, static_cast<uint8_t>(i))};
    if (!lost) packets.push_back(packet);
    if (!lost && twice) {
      packets.push_back(packet);
      packets.back().arrival_us += 3 * kMs;
    }
  }
  std::stable_sort(packets.begin(), packets.end(),
                   [](const Sent& a, const Sent& b) { return a.arrival_us < b.arrival_us; });
  return packets;
}

struct Played {
  std::array<int, 7> answers{};     // by Pull
  std::array<int64_t, 7> filled_us{};
  std::vector<int64_t> seqs;        // frames, in order of play-out
  std::vector<int> targets_ms;      // each second
  std::vector<int> delays_ms;       // each second
  JitterStats stats;
  double delay_ms = 0;              // mean of play-out time minus sending time, less the path's
  bool in_order = true;
  bool bytes_right = true;
  int empty_ticks_late = 0;         // ticks with nothing after the first frame

  double late_percent() const {
    return 100.0 * static_cast<double>(stats.late_discards) / static_cast<double>(stats.received);
  }
  int64_t filled(Pull kind) const { return filled_us[static_cast<size_t>(kind)]; }
  int count(Pull kind) const { return answers[static_cast<size_t>(kind)]; }
};

// Plays packets as a leg does: every 20 ms what has come is put in and 20 ms are taken out.
Played play(const std::vector<Sent>& packets, const JitterOptions& options, int64_t path_us = 0,
            bool tell_fifo = true) {
  JitterBuffer buffer(options);
  Played played;
  size_t next = 0;
  int64_t fifo_us = 0;
  double delay_sum = 0;
  const int64_t end_us = packets.back().arrival_us + 40 * kMs;
  for (int64_t now_us = 7 * kMs; now_us < end_us; now_us += kTickUs) {
    for (; next < packets.size() && packets[next].arrival_us <= now_us; ++next) {
      const Sent& packet = packets[next];
      buffer.insert(packet.seq, packet.ts, packet.arrival_us, packet.payload, false);
    }
    while (fifo_us < kTickUs) {
      PayloadRef ref;
      const int64_t told_us = tell_fifo ? fifo_us : JitterBuffer::kFifoUnknown;
      const Pull pull = buffer.pull(now_us + fifo_us, ref, told_us);
      int64_t audio_us = int64_t{ref.duration_ticks} * 1000000 / options.clock_rate_hz;
      CHECK(ref.duration_ticks > 0);
      ++played.answers[static_cast<size_t>(pull)];
      played.filled_us[static_cast<size_t>(pull)] += audio_us;
      const bool frame = pull == Pull::kFrame || pull == Pull::kAccelerate || pull == Pull::kExpand;
      if (frame) {
        if (!played.seqs.empty() && ref.seq <= played.seqs.back()) played.in_order = false;
        played.seqs.push_back(ref.seq);
        if (ref.payload.empty() || ref.payload[0] != static_cast<uint8_t>(ref.seq - 65530)) {
          played.bytes_right = false;
        }
        delay_sum += static_cast<double>(now_us + fifo_us - path_us) -
                     static_cast<double>(ref.ts) * 1e6 / options.clock_rate_hz;
      }
      if (pull == Pull::kAccelerate) audio_us -= kStretchUs;
      if (pull == Pull::kExpand) audio_us += kStretchUs;
      if (pull == Pull::kEmpty && !played.seqs.empty() && now_us < packets.back().arrival_us) {
        ++played.empty_ticks_late;
      }
      fifo_us += audio_us;
    }
    fifo_us -= kTickUs;
    if (now_us / 1000000 != (now_us - kTickUs) / 1000000) {
      played.targets_ms.push_back(buffer.target_delay_ms());
      played.delays_ms.push_back(buffer.delay_ms());
    }
  }
  played.stats = buffer.stats();
  played.delay_ms = delay_sum / static_cast<double>(played.seqs.size()) / 1000;
  return played;
}

JitterOptions for_ptime(int ptime_ms, int clock_hz = 8000) {
  JitterOptions options;
  options.packet_ms = ptime_ms;
  options.clock_rate_hz = clock_hz;
  return options;
}

void describe(const char* what, const Played& played) {
  const auto ms = [&](Pull kind) { return static_cast<int>(played.filled(kind) / kMs); };
  note("%s: late %.2f %%, concealed %d ms, silence %d ms, delay %.0f ms, faster %d, slower %d",
       what, played.late_percent(), ms(Pull::kLost), ms(Pull::kSilence), played.delay_ms,
       static_cast<int>(played.stats.accelerates), static_cast<int>(played.stats.expands));
}

TEST("a steady stream of any packet time is played whole, in order, with little delay") {
  for (const int ptime_ms : {10, 20, 30, 40, 60}) {
    for (const int clock_hz : {8000, 48000}) {
      Stream stream;
      stream.ptime_ms = ptime_ms;
      stream.clock_hz = clock_hz;
      stream.seconds = 12;
      const auto packets = send(stream, 1);
      const Played played = play(packets, for_ptime(ptime_ms, clock_hz), 30 * kMs);

      CHECK(played.seqs.size() == packets.size());
      CHECK(played.in_order && played.bytes_right);
      CHECK(played.stats.late_discards == 0 && played.stats.lost == 0);
      CHECK(played.stats.accelerates + played.stats.expands == 0);
      CHECK_BETWEEN(played.delay_ms, 15, 45);
    }
  }
}

TEST("a packet time that differs from the one agreed is learnt") {
  Stream stream;
  stream.ptime_ms = 60;
  stream.seconds = 12;
  const Played played = play(send(stream, 1), for_ptime(20), 30 * kMs);
  stream.ptime_ms = 10;
  const Played shorter = play(send(stream, 1), for_ptime(20), 30 * kMs);

  CHECK(played.seqs.size() == 200 && shorter.seqs.size() == 1200);
  CHECK_MOST(played.filled(Pull::kLost) + shorter.filled(Pull::kLost), 150 * kMs);
}

TEST("jitter of 30 and 60 ms: few discards, bounded delay") {
  struct Row {
    int jitter_ms;
    double delay_most_ms;
  };
  for (const Row& row : {Row{10, 45}, Row{30, 60}, Row{60, 95}}) {
    for (const uint32_t seed : {1u, 2u, 3u}) {
      Stream stream;
      stream.seconds = 40;
      stream.delay = [&](int64_t, Chance& chance) {
        return 30 * kMs + static_cast<int64_t>(chance.unit() * row.jitter_ms * 1000);
      };
      const auto packets = send(stream, seed);
      const Played played = play(packets, for_ptime(20), 30 * kMs);

      describe(("uniform " + std::to_string(row.jitter_ms) + " ms").c_str(), played);
      CHECK(played.in_order && played.bytes_right);
      CHECK_MOST(played.late_percent(), 1.0);
      CHECK_MOST(played.filled(Pull::kLost) / kMs, 100);  // of 40 s
      CHECK_LEAST(static_cast<double>(played.seqs.size()), static_cast<double>(packets.size()) - 5);
      CHECK_MOST(played.delay_ms, row.delay_most_ms);
      const Played untold = play(packets, for_ptime(20), 30 * kMs, false);
      CHECK_MOST(untold.filled(Pull::kLost) / kMs, 100);
      CHECK_MOST(untold.delay_ms, row.delay_most_ms + 20);
    }
  }
}

TEST("the target grows at once when the network gets worse, and comes back slowly") {
  Stream stream;
  stream.seconds = 60;
  stream.delay = [](int64_t sent_us, Chance& chance) {
    const bool bad = sent_us > 10'000 * kMs && sent_us < 20'000 * kMs;
    return 30 * kMs + static_cast<int64_t>(chance.unit() * (bad ? 90'000 : 5'000));
  };
  const Played played = play(send(stream, 5), for_ptime(20), 30 * kMs);

  describe("5 ms, 90 ms from 10 to 20 s", played);
  CHECK_MOST(played.targets_ms[9], 30);
  CHECK_LEAST(played.targets_ms[11], 70);   // within two seconds
  CHECK_LEAST(played.targets_ms[21], 60);   // not forgotten at once
  CHECK_MOST(played.targets_ms[58], 30);
  CHECK_MOST(played.delays_ms[58], 50);     // and play-out followed, by stretching
  CHECK_LEAST(played.stats.accelerates, 3);
  CHECK_MOST(played.late_percent(), 1.0);
}

TEST("one packet in fifty that is always late is waited for") {
  Stream stream;
  stream.seconds = 40;
  stream.delay = [](int64_t sent_us, Chance&) {
    return sent_us % 1'000'000 == 500'000 ? 90 * kMs : 30 * kMs;
  };
  const Played played = play(send(stream, 1), for_ptime(20), 30 * kMs);

  describe("60 ms late once a second", played);
  CHECK_MOST(played.filled(Pull::kLost) / kMs, 200);  // the first ones; all would be 2400
  CHECK_MOST(played.delay_ms, 95);
}

TEST("rare spikes do not hold the delay up") {
  Stream stream;
  stream.seconds = 60;
  stream.delay = [](int64_t sent_us, Chance&) {
    // Once in ten seconds all waits for 120 ms, then comes at once.
    const int64_t phase = sent_us % 10'000'000;
    return phase > 5'000'000 && phase < 5'120'000 ? 30 * kMs + 5'120'000 - phase : 30 * kMs;
  };
  const Played played = play(send(stream, 5), for_ptime(20), 30 * kMs);

  describe("a stall of 120 ms each 10 s", played);
  CHECK_MOST(played.delay_ms, 70);
  CHECK(played.stats.late_discards == 0);  // stalls are waited for, not thrown away
  CHECK_BETWEEN(static_cast<double>(played.seqs.size()), 2990, 3000);
}

TEST("loss is concealed for as long as it lasts and costs no delay") {
  for (const double loss : {0.01, 0.05, 0.2}) {
    Stream stream;
    stream.seconds = 40;
    stream.loss = loss;
    const auto packets = send(stream, 7);
    const Played played = play(packets, for_ptime(20), 30 * kMs);
    const auto lost = static_cast<int64_t>(2000 - packets.size());

    describe(("loss " + std::to_string(loss)).c_str(), played);
    CHECK(played.seqs.size() == packets.size());
    CHECK_BETWEEN(static_cast<double>(played.stats.lost), static_cast<double>(lost) - 2,
                  static_cast<double>(lost));
    const int64_t extra_us = played.filled(Pull::kLost) - lost * 20 * kMs;
    CHECK_BETWEEN(static_cast<double>(extra_us / kMs), -60, 300);
    CHECK_BETWEEN(played.delay_ms, 15, 50);
  }
}

TEST("redundancy is used for single losses once it was seen to help") {
  Stream stream;
  stream.seconds = 40;
  stream.loss = 0.05;
  stream.clock_hz = 48000;
  JitterOptions options = for_ptime(20, 48000);
  options.fec = true;
  const Played played = play(send(stream, 7), options, 30 * kMs);

  describe("loss 5 % with redundancy", played);
  CHECK_LEAST(static_cast<double>(played.stats.fec) / static_cast<double>(played.stats.lost), 0.8);
  CHECK_MOST(played.delay_ms, 65);
}

TEST("duplicates and reordering are not heard") {
  Stream stream;
  stream.seconds = 30;
  stream.duplicate = 0.1;
  stream.delay = [](int64_t, Chance& chance) { return (chance.one_in(0.05) ? 75 : 30) * kMs; };
  const auto packets = send(stream, 9);
  const Played played = play(packets, for_ptime(20), 30 * kMs);

  describe("5 % two places late, 10 % twice", played);
  CHECK(played.in_order && played.bytes_right);
  CHECK_LEAST(static_cast<double>(played.stats.duplicates), 100);
  CHECK_MOST(played.late_percent(), 1.0);
  CHECK_LEAST(static_cast<double>(played.seqs.size()), 1485);
}

TEST("clock drift of 100 ppm either way does not add up") {
  for (const double ppm : {-100.0, 100.0}) {
    Stream stream;
    stream.seconds = 900;  // 90 ms of drift
    stream.drift_ppm = ppm;
    stream.delay = [](int64_t, Chance& chance) {
      return 30 * kMs + static_cast<int64_t>(chance.unit() * 10'000);
    };
    const Played played = play(send(stream, 3), for_ptime(20), 30 * kMs);

    describe(ppm < 0 ? "-100 ppm" : "+100 ppm", played);
    CHECK_MOST(played.late_percent(), 0.1);
    CHECK_MOST(played.filled(Pull::kLost) / kMs, 100);
    CHECK_BETWEEN(played.delays_ms.back(), 5, 50);
    CHECK_BETWEEN(static_cast<double>(played.stats.accelerates + played.stats.expands), 5, 60);
  }
}

TEST("pauses of the sender are silence, not loss") {
  // G.711 with voice activity detection: numbers go on, timestamps jump over the pause.
  std::vector<Sent> packets;
  int64_t seq = 65530;
  for (int64_t spurt = 0; spurt < 10; ++spurt) {
    for (int64_t i = 0; i < 50; ++i) {
      const int64_t at_ms = spurt * 1400 + i * 20;
      packets.push_back({(at_ms + 30) * kMs, seq, at_ms * 8,
                         Bytes(10, static_cast<uint8_t>(seq - 65530))});
      ++seq;
    }
  }
  const Played vad = play(packets, for_ptime(20), 30 * kMs);
  describe("400 ms pauses without notice", vad);
  CHECK(vad.seqs.size() == packets.size() && vad.in_order);
  CHECK(vad.stats.lost == 0);
  CHECK_BETWEEN(vad.delay_ms, 15, 45);

  // Opus: a last packet of one byte says so, another comes each 400 ms (RFC 7587 3.1.3).
  packets.clear();
  seq = 65530;
  for (int64_t i = 0; i < 400; ++i) {
    const bool talking = i % 100 < 40;
    if (!talking && (i % 100 - 40) % 20 != 0) continue;
    packets.push_back({(i * 20 + 30) * kMs, seq, i * 960,
                       Bytes(talking ? 10 : 1, static_cast<uint8_t>(seq - 65530))});
    ++seq;
  }
  JitterOptions options = for_ptime(20, 48000);
  options.dtx_bytes_max = 2;
  options.fec = true;
  const Played dtx = play(packets, options, 30 * kMs);
  describe("Opus DTX", dtx);
  CHECK(dtx.seqs.size() == packets.size() && dtx.in_order);
  CHECK(dtx.filled(Pull::kLost) == 0);
  CHECK(dtx.count(Pull::kFec) == 0);
  CHECK_LEAST(dtx.filled(Pull::kSilence) / kMs, 4000);
  CHECK(dtx.empty_ticks_late == 0);
  CHECK(dtx.stats.lost == 0);
}

TEST("packets without audio are no losses") {
  JitterBuffer buffer(for_ptime(20));
  PayloadRef ref;
  const Bytes payload(160);
  int lost = 0;
  for (int64_t i = 0; i < 60; ++i) {  // numbers 20 to 29 are a telephone event
    const bool event = i >= 20 && i < 30;
    if (event) buffer.note(i);
    if (!event) buffer.insert(i, i * 160, i * kTickUs, payload, false, 160);
    if (buffer.pull(i * kTickUs + kMs, ref, 0) == Pull::kLost && i > 31) ++lost;
  }

  CHECK(buffer.stats().lost == 0);
  CHECK_MOST(lost, 1);
}

TEST("a jump of the sender's clock is followed without losing audio") {
  for (const int64_t jump : {int64_t{1'000'000'000}, int64_t{-1'000'000'000}, int64_t{-8000},
                             int64_t{20 * 8000}}) {
    Stream stream;
    stream.seconds = 10;
    auto packets = send(stream, 1);
    for (size_t i = 200; i < packets.size(); ++i) packets[i].ts += jump;
    JitterBuffer buffer(for_ptime(20));
    PayloadRef ref;
    size_t played = 0;
    for (const Sent& packet : packets) {
      buffer.insert(packet.seq, packet.ts, packet.arrival_us, packet.payload, false);
      const Pull pull = buffer.pull(packet.arrival_us + kMs, ref, 0);
      played += pull == Pull::kFrame || pull == Pull::kAccelerate || pull == Pull::kExpand ? 1 : 0;
    }
    CHECK_LEAST(static_cast<double>(played), 495);
    CHECK(buffer.stats().resyncs == 1);
  }
}

TEST("a sender that starts its numbers anew is heard again within five packets") {
  JitterBuffer buffer(for_ptime(20));
  PayloadRef ref;
  const Bytes payload(160);
  int played = 0;
  for (int64_t i = 0; i < 200; ++i) {
    const bool restarted = i >= 100;
    buffer.insert(restarted ? i - 100 : 50'000 + i, restarted ? i * 160 : 9'000'000 + i * 160,
                  i * kTickUs, payload, false);
    played += buffer.pull(i * kTickUs + kMs, ref, 0) == Pull::kFrame ? 1 : 0;
  }
  CHECK_LEAST(played, 190);
  buffer.reset();
  CHECK(buffer.waiting() == 0);
  CHECK(buffer.pull(0, ref) == Pull::kEmpty);
}

TEST("captured timing: jitter 60 ms, burst loss, duplicates with reordering") {
  struct Row {
    const char* name;
    double late_most;
    double delay_most_ms;
    int unheard_most;  // packets received but never played
  };
  for (const Row& row : {Row{"rtp-pcmu-jitter60.pcap", 1.0, 85, 8},
                         Row{"rtp-pcmu-burstloss.pcap", 0.0, 45, 0},
                         Row{"rtp-pcmu-dup-reorder.pcap", 1.0, 65, 8}}) {
    const auto captured = read_capture(row.name);
    if (captured.empty()) return skip("no shared test data");
    std::vector<Sent> packets;
    std::vector<int64_t> numbers;
    for (const CapturedPacket& packet : captured) {
      packets.push_back({packet.arrival_us, packet.seq - captured[0].seq + 65530,
                         packet.ts - captured[0].ts,
                         Bytes(10, static_cast<uint8_t>(packet.seq - captured[0].seq))});
      numbers.push_back(packet.seq);
    }
    std::sort(numbers.begin(), numbers.end());
    const auto distinct = std::unique(numbers.begin(), numbers.end()) - numbers.begin();
    const Played played = play(packets, for_ptime(20));

    describe(row.name, played);
    note("  %d different packets, %zu played, %d lost, %d duplicates", static_cast<int>(distinct),
         played.seqs.size(), static_cast<int>(played.stats.lost),
         static_cast<int>(played.stats.duplicates));
    CHECK(played.in_order && played.bytes_right);
    CHECK_MOST(played.late_percent(), row.late_most);
    CHECK_MOST(played.delay_ms, row.delay_most_ms);
    CHECK_LEAST(static_cast<double>(played.seqs.size()),
                static_cast<double>(distinct - row.unheard_most));
  }
}

TEST("the delay never exceeds its bound, whatever piles up") {
  JitterOptions options = for_ptime(20);
  options.max_delay_ms = 120;
  Stream stream;
  stream.seconds = 20;
  stream.delay = [](int64_t sent_us, Chance&) {
    const bool stalled = sent_us > 5'000'000 && sent_us < 7'000'000;
    return 30 * kMs + (stalled ? 7'000'000 - sent_us : 0);
  };
  const Played played = play(send(stream, 1), options, 30 * kMs);

  describe("a stall of 2 s, 120 ms allowed", played);
  CHECK(played.in_order);
  CHECK_MOST(*std::max_element(played.delays_ms.begin(), played.delays_ms.end()), 145);
  CHECK_MOST(played.delays_ms.back(), 60);
  CHECK_LEAST(static_cast<double>(played.stats.overflows), 50);
}

TEST("hostile numbers, sizes and times are survived") {
  Chance chance(21);
  for (int round = 0; round < 60; ++round) {
    JitterOptions options = for_ptime(20, round % 2 == 0 ? 8000 : 48000);
    options.slots = 4 + chance.below(30);
    options.slot_bytes = 100;
    options.fec = round % 3 == 0;
    options.dtx_bytes_max = round % 4;
    JitterBuffer buffer(options);
    PayloadRef ref;
    int64_t now_us = 1'000'000;
    int64_t seq = chance.bits();
    int64_t ts = chance.bits();
    for (int i = 0; i < 1500; ++i) {
      const int kind = chance.below(12);
      seq += kind == 0 ? int64_t{chance.bits()} - 0x7fffffff : kind < 3 ? chance.below(80) - 40 : 1;
      ts += kind == 1 ? (int64_t{chance.bits()} - 0x7fffffff) * 4096 : kind == 4 ? -160 : 160;
      now_us += kind == 5 ? chance.below(3'000'000) : chance.below(40'000);
      const Bytes payload(static_cast<size_t>(chance.below(130)), 7);
      const int duration = kind == 6 ? chance.below(100'000) - 50'000 : 0;
      const Insert result = buffer.insert(seq, ts, now_us - chance.below(100'000), payload,
                                          kind == 2, duration);
      CHECK((result == Insert::kTooBig) == (payload.size() > 100));
      if (kind == 7) buffer.note(seq + chance.below(20));
      for (int pulls = chance.below(4); pulls > 0; --pulls) {
        const int fifo_us = chance.below(40'000) - 10'000;
        const Pull pull = buffer.pull(now_us + chance.below(50'000), ref, fifo_us);
        CHECK(ref.duration_ticks > 0 && ref.duration_ticks <= options.clock_rate_hz / 1000 * 120);
        CHECK(ref.payload.size() <= 100);
        CHECK(pull != Pull::kFec || options.fec);
      }
      CHECK(buffer.waiting() <= options.slots);
    }
  }
}

}  // namespace
}  // namespace tandem::test
