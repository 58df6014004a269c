// Engine tests without Node: the data code (RTP, RTCP, source guard, streams, ports, fuzz), then
// the parts in engine_test_live.cc, engine_test_audio.cc and engine_test_abuse.cc.
// `engine_test [part of a name]`.
#include "engine_support.h"

#include <deque>
#include <random>

#include "out_stream.h"
#include "port_pool.h"
#include "queue.h"
#include "rtcp.h"
#include "source_guard.h"

namespace tandem::test {
namespace {

RtpPacket packet(uint16_t sequence, uint32_t ssrc = 7) {
  RtpPacket out;
  out.sequence = sequence;
  out.ssrc = ssrc;
  return out;
}

void rtp_refuses_what_does_not_fit() {
  RtpPacket out;
  std::vector<uint8_t> plain(12 + 160, 0);
  plain[0] = 0x80;
  EXPECT(parse_rtp(plain, out) && out.payload.size() == 160);

  std::vector<uint8_t> wrong_version = plain;
  wrong_version[0] = 0x40;
  EXPECT(!parse_rtp(wrong_version, out));
  std::vector<uint8_t> short_csrc(20, 0);
  short_csrc[0] = 0x8f;
  EXPECT(!parse_rtp(short_csrc, out));
  std::vector<uint8_t> extension = plain;
  extension[0] = 0x90;
  extension[15] = 200;
  EXPECT(!parse_rtp(extension, out));
  extension[15] = 1;
  EXPECT(parse_rtp(extension, out) && out.payload.size() == 152);
  std::vector<uint8_t> padding = plain;
  padding[0] = 0xa0;
  padding.back() = 0;
  EXPECT(!parse_rtp(padding, out));
  padding.back() = 161;
  EXPECT(!parse_rtp(padding, out));
  padding.back() = 4;
  EXPECT(parse_rtp(padding, out) && out.payload.size() == 156);
}

void sequence_guard_wants_two_in_a_row_for_a_jump() {
  SequenceGuard guard;
  using Verdict = SequenceGuard::Verdict;
  EXPECT(guard.update(1, 65534) == Verdict::kAcceptNew);
  EXPECT(guard.update(1, 65535) == Verdict::kAccept);
  EXPECT(guard.update(1, 0) == Verdict::kAccept);
  EXPECT(guard.update(1, 65535) == Verdict::kAccept);
  EXPECT(guard.update(1, 20000) == Verdict::kDrop);
  EXPECT(guard.update(1, 1) == Verdict::kAccept);
  EXPECT(guard.update(2, 500) == Verdict::kDrop);
  EXPECT(guard.update(2, 501) == Verdict::kAcceptNew);
  EXPECT(guard.update(1, 2) == Verdict::kDrop);
}

void unwrapper_follows_wraps_both_ways() {
  Unwrapper<uint16_t> unwrap;
  const int64_t first = unwrap.unwrap(65535);
  EXPECT(unwrap.unwrap(0) == first + 1);
  EXPECT(unwrap.unwrap(65534) == first - 1);
  EXPECT(unwrap.unwrap(1) == first + 2);
}

void source_guard_prefers_what_signaling_said() {
  using Verdict = SourceGuard::Verdict;
  const Address remote = Address::parse("192.0.2.1", 4000);
  const Address stranger = Address::parse("198.51.100.9", 4000);
  const Address moved = Address::parse("192.0.2.1", 5000);

  SourceGuard strict;
  strict.configure(remote, LatchMode::kSignalled, 0);
  for (uint16_t i = 0; i < 10; i++) {
    EXPECT(strict.check(moved, packet(i), 1000) == Verdict::kReject);
  }
  EXPECT(strict.check(remote, packet(1), 1000) == Verdict::kLatched && strict.is_final());

  SourceGuard same_ip;
  same_ip.configure(remote, LatchMode::kSameIp, 0);
  for (uint16_t i = 0; i < 10; i++) {
    EXPECT(same_ip.check(stranger, packet(i), 1000) == Verdict::kReject);
  }
  for (uint16_t i = 0; i < 3; i++) {
    EXPECT(same_ip.check(moved, packet(i), 1000) == Verdict::kReject);
  }
  EXPECT(same_ip.check(moved, packet(3), 1000) == Verdict::kLatched && !same_ip.is_final());
  EXPECT(same_ip.check(remote, packet(9), 2000) == Verdict::kLatched && same_ip.is_final());
  EXPECT(same_ip.check(moved, packet(4), 3000) == Verdict::kReject);
}

void source_guard_learns_a_stranger_only_in_its_window_and_only_once() {
  using Verdict = SourceGuard::Verdict;
  const Address remote = Address::parse("10.0.0.1", 4000);
  const Address behind_nat = Address::parse("203.0.113.5", 6000);
  const Address attacker = Address::parse("198.51.100.9", 6001);

  SourceGuard guard;
  guard.configure(remote, LatchMode::kAnySource, 0);
  // Gaps in the numbers, or a second SSRC, begin the proof again.
  for (const uint16_t sequence : {1, 2, 3, 5, 6, 7}) {
    EXPECT(guard.check(behind_nat, packet(sequence), 1000) == Verdict::kReject);
  }
  EXPECT(guard.check(behind_nat, packet(8), 1000) == Verdict::kLatched);
  for (uint16_t i = 0; i < 10; i++) {
    EXPECT(guard.check(attacker, packet(i), 2000) == Verdict::kReject);
  }
  guard.configure(remote, LatchMode::kAnySource, 7'000'000);
  EXPECT(guard.is_locked());  // the same settings again open nothing
  // What was only learnt is never final: the signalled address takes its place however late.
  EXPECT(!guard.is_final());
  EXPECT(guard.check(remote, packet(1), 60'000'000) == Verdict::kLatched && guard.is_final());
  for (uint16_t i = 9; i < 20; i++) {
    EXPECT(guard.check(behind_nat, packet(i), 60'000'000) == Verdict::kReject);
  }

  SourceGuard late;
  late.configure(remote, LatchMode::kAnySource, 0);
  EXPECT(late.check(attacker, packet(1), 1000) == Verdict::kReject);
  for (uint16_t i = 0; i < 10; i++) {
    EXPECT(late.check(behind_nat, packet(i), 6'000'000) == Verdict::kReject);
  }
  // An answer that is acknowledged later opens the window again, as nobody is locked.
  late.configure(remote, LatchMode::kAnySource, 10'000'000);
  for (uint16_t i = 20; i < 23; i++) late.check(behind_nat, packet(i), 10'500'000);
  EXPECT(late.check(behind_nat, packet(23), 10'500'000) == Verdict::kLatched);
}

void a_late_phone_behind_nat_is_learnt_but_never_in_place_of_another() {
  using Verdict = SourceGuard::Verdict;
  const Address remote = Address::parse("192.0.2.1", 4000);
  const Address first = Address::parse("192.0.2.1", 5000);
  const Address second = Address::parse("192.0.2.1", 6000);
  SourceGuard guard;
  guard.configure(remote, LatchMode::kSameIp, 0);
  for (uint16_t i = 0; i < 3; i++) guard.check(first, packet(i), 20'000'000);
  EXPECT(guard.check(first, packet(3), 20'000'000) == Verdict::kLatched);
  for (uint16_t i = 0; i < 10; i++) {
    EXPECT(guard.check(second, packet(i, 8), 20'000'000) == Verdict::kReject);
  }
}

void out_stream_joins_sources_without_a_seam() {
  OutStream out;
  out.start(99, 65533, 0xffffff00);
  out.set_clock_rate(8000);
  RtpPacket last = out.local(0, 160, 1'000'000);
  EXPECT(last.marker);
  for (int i = 1; i < 5; i++) {
    const RtpPacket next = out.local(0, 160, 1'000'000 + i * 20'000);
    EXPECT(next.sequence == static_cast<uint16_t>(last.sequence + 1));
    EXPECT(next.timestamp == last.timestamp + 160 && !next.marker);
    last = next;
  }
  // A relayed stream takes over 50 ms later, loses a packet and reorders two.
  RtpPacket relayed;
  EXPECT(out.relay(5000, 300, 90'000, false, 1'130'000, relayed));
  EXPECT(relayed.marker && relayed.sequence == static_cast<uint16_t>(last.sequence + 1));
  EXPECT(relayed.timestamp - last.timestamp == 400);
  const uint16_t first = relayed.sequence;
  EXPECT(out.relay(5000, 303, 90'480, false, 1'190'000, relayed));
  EXPECT(relayed.sequence == static_cast<uint16_t>(first + 3) && !relayed.marker);
  EXPECT(out.relay(5000, 302, 90'320, false, 1'191'000, relayed));
  EXPECT(relayed.sequence == static_cast<uint16_t>(first + 2));
  EXPECT(!out.relay(5000, 299, 89'840, false, 1'192'000, relayed));
  // Left out on purpose: the next one follows without a gap.
  out.skip(5000, 304);
  EXPECT(out.relay(5000, 305, 90'800, false, 1'230'000, relayed));
  EXPECT(relayed.sequence == static_cast<uint16_t>(first + 4));
}

void a_key_held_long_stays_one_event_between_audio() {
  OutStream out;
  out.start(99, 1, 1000);
  out.set_clock_rate(8000);
  RtpPacket relayed;
  int64_t now_us = 1'000'000;
  int64_t sequence = 100;
  EXPECT(out.relay(5000, sequence++, 8000, false, now_us, relayed));
  EXPECT(out.relay_event(5000, sequence++, 8160, true, now_us += 20'000, relayed));
  const uint32_t key = relayed.timestamp;
  // Some phones send the audio of the time in between as well.
  for (int i = 1; i < 400; i++) {
    now_us += 20'000;
    EXPECT(out.relay(5000, sequence++, 8160 + i * 160, false, now_us, relayed));
    EXPECT(!relayed.marker && relayed.timestamp == key + static_cast<uint32_t>(i) * 160);
    EXPECT(out.relay_event(5000, sequence++, 8160, false, now_us, relayed));
    EXPECT(!relayed.marker && relayed.timestamp == key);
  }
  // A phone whose clock stood still meanwhile is joined anew.
  EXPECT(out.relay(5000, sequence, 8320, false, now_us += 20'000, relayed) && relayed.marker);
}

void rtcp_reports_round_trip_and_loss() {
  RtcpSession near;
  RtcpSession far;
  near.start(1, "near", 11, 0);
  far.start(2, "far", 12, 0);
  EXPECT(!near.is_due(500'000) && near.is_due(3'200'000));
  std::array<uint8_t, kPacketBytesMax> buffer;
  SenderInfo sender{1, 1000, 50, 8000};
  const uint64_t second = uint64_t{1} << 32;

  const uint32_t size = near.build(buffer, sender, nullptr, 0, 100 * second, 1'000'000, false);
  RtcpReport report;
  EXPECT(size > 0 && parse_rtcp(std::span(buffer).first(size), 2, report));
  EXPECT(report.has_sender_info && report.sender_ssrc == 1);
  far.receive(report, 500 * second, 5'000'000);

  ReceptionStats heard;
  heard.start(10);
  for (int i = 0; i < 100; i++) {
    if (i % 4 == 3) continue;
    heard.update(65536 + 10 + i, static_cast<uint32_t>(i * 160), i * 20'000, 8000, true);
  }
  EXPECT(heard.lost_total() == 24 && heard.jitter_ms(8000) < 0.01);
  // The far side answers after 2 s; the wire took 100 ms in total.
  const uint32_t answer = far.build(buffer, {2, 0, 0, 0}, &heard, 1, 502 * second, 7'000'000, true);
  RtcpReport back;
  EXPECT(parse_rtcp(std::span(buffer).first(answer), 1, back));
  EXPECT(back.has_block && back.bye && back.fraction_lost == 62);
  near.receive(back, 102 * second + second / 10, 3'100'000);
  EXPECT(std::fabs(near.round_trip_ms() - 100) < 1);
  EXPECT(std::fabs(near.remote_loss() - 0.24) < 0.01);

  // Every truncation is refused, and none is read past its end.
  for (uint32_t cut = 1; cut < answer; cut++) {
    std::vector<uint8_t> part(buffer.begin(), buffer.begin() + cut);
    RtcpReport ignored;
    EXPECT(cut % 4 == 0 || !parse_rtcp(part, 1, ignored));
  }
}

void ports_rest_after_use() {
  PortPoolOptions options;
  options.port_min = 31300;
  options.port_max = 31307;
  options.quarantine_us = 30'000'000;
  PortPool pool(options);
  std::vector<PortPair> taken;
  for (int i = 0; i < 4; i++) {
    auto pair = pool.take("", false, 0);
    EXPECT(pair && pair->rtp_port % 2 == 0 && pair->rtcp_port == pair->rtp_port + 1);
    if (pair) taken.push_back(std::move(*pair));
  }
  EXPECT(!pool.take("", false, 0) && pool.in_use() == 4);
  const uint16_t freed = taken.back().rtp_port;
  taken.pop_back();
  pool.give_back(freed, 1'000'000);
  pool.give_back(freed, 2'000'000);  // twice is once
  EXPECT(!pool.take("", false, 1'000'000 + PortPool::kRestMinUs - 1));
  auto again = pool.take("", false, 31'000'000);
  EXPECT(again && again->rtp_port == freed && pool.early_reuses() == 0);
  EXPECT(!pool.take_exactly(31309, "", false) && !pool.take_exactly(31301, "", false));
}

void a_busy_hour_uses_ports_early_rather_than_refuse_calls() {
  PortPoolOptions options;
  options.port_min = 31310;
  options.port_max = 31325;  // eight pairs
  options.quarantine_us = 30'000'000;
  PortPool pool(options);
  // A call of 200 ms every 100 ms: in 30 s that is many times the range.
  std::deque<PortPair> calls;
  std::vector<int64_t> given_back(8, -options.quarantine_us);
  int refused = 0;
  for (int64_t now_us = 0; now_us < 60'000'000; now_us += 100'000) {
    auto pair = pool.take("", false, now_us);
    if (!pair) {
      refused++;
      continue;
    }
    const size_t index = (pair->rtp_port - 31310u) / 2;
    EXPECT(now_us - given_back[index] >= PortPool::kRestMinUs);
    calls.push_back(std::move(*pair));
    if (calls.size() < 3) continue;
    const uint16_t port = calls.front().rtp_port;
    calls.pop_front();
    given_back[(port - 31310u) / 2] = now_us;
    pool.give_back(port, now_us);
  }
  EXPECT(refused == 0 && pool.early_reuses() > 500);
}

Socket stranger_on(uint16_t port) {
  Socket socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const Address address = Address::parse("127.0.0.1", port);
  if (bind(socket.fd(), address.data(), address.size()) != 0) socket.reset();
  return socket;
}

void pairs_that_others_hold_are_left_to_them_for_a_while() {
  PortPoolOptions options;
  options.port_min = 31330;
  options.port_max = 31335;  // three pairs
  PortPool pool(options);
  Socket rtp = stranger_on(31330);
  const Socket rtcp = stranger_on(31333);
  EXPECT(rtp.is_open() && rtcp.is_open());
  const auto first = pool.take("", false, 0);
  EXPECT(first && first->rtp_port == 31334);
  EXPECT(!pool.take("", false, 0) && pool.in_use() == 1);
  rtp.reset();
  // Not asked again with every call, but not given up either.
  EXPECT(!pool.take("", false, 500'000));
  const auto second = pool.take("", false, 1'500'000);
  EXPECT(second && second->rtp_port == 31330 && pool.early_reuses() == 0);
  EXPECT(!pool.take("", false, 3'000'000));
}

void nobody_can_tell_the_next_port() {
  PortPoolOptions options;
  options.port_min = 31400;
  options.port_max = 31599;  // a hundred pairs
  const auto order = [&] {
    PortPool pool(options);
    std::vector<uint16_t> ports;
    for (int i = 0; i < 8; i++) {
      if (const auto pair = pool.take("", false, 0)) ports.push_back(pair->rtp_port);
    }
    return ports;
  };
  const std::vector<uint16_t> one = order();
  EXPECT(one.size() == 8 && one != order());
}

void outcomes_and_digits_outlive_a_consumer_that_is_stuck() {
  std::atomic<bool> pending{false};
  int notified = 0;
  const std::function<void()> notify = [&] { notified++; };
  EventRing ring(8, 100, pending, notify);
  for (Handle i = 1; i <= 20; i++) {
    ring.post(EventType::kLatched, i);
    ring.post(EventType::kPlayDone, i);
    if (i <= 8) ring.post(EventType::kDigit, i);
    if (i > 4) ring.post(EventType::kRecordDone, i);
  }
  ring.flush();
  EXPECT(notified == 1 && ring.dropped() >= 14);
  double last_played = 0;
  std::array<int, 4> count{};
  EventRecord event;
  for (int idle = 0; idle < 2; ring.flush()) {
    idle++;
    while (ring.pop(event)) {
      idle = 0;
      if (event.type == 2) EXPECT(event.handle == ++last_played);
      if (event.type < 4) count[event.type]++;
    }
  }
  EXPECT(count[1] == 8 && count[2] == 20 && count[3] == 16);
  // A flood of digits is bounded, and takes no room from outcomes.
  for (int i = 0; i < 1000; i++) ring.post(EventType::kDigit, 1);
  const uint64_t dropped = ring.dropped();
  for (int i = 0; i < 100; i++) ring.post(EventType::kPlayDone, 1);
  EXPECT(dropped > 900 && ring.dropped() == dropped);
}

void what_waits_is_not_overtaken() {
  std::atomic<bool> pending{false};
  const std::function<void()> notify = [] {};
  EventRing ring(8, 100, pending, notify);
  for (Handle i = 1; i <= 8; i++) ring.post(EventType::kLatched, i);
  EXPECT(ring.dropped() == 2);  // a quarter is kept for what must arrive
  EventRecord event;
  while (ring.pop(event)) EXPECT(event.type == 7);
  for (Handle i = 1; i <= 10; i++) ring.post(EventType::kPlayDone, i);
  double last = 0;
  while (last < 3 && ring.pop(event)) EXPECT(event.handle == ++last);
  ring.post(EventType::kPlayDone, 11);
  for (int turn = 0; turn < 2; turn++) {
    ring.flush();
    while (ring.pop(event)) EXPECT(event.handle == ++last);
  }
  EXPECT(last == 11);
}

void snapshots_are_never_torn() {
  struct Wide {
    std::array<uint64_t, 9> words;
  };
  SnapshotCell<Wide> cell;
  std::atomic<bool> done{false};
  std::thread writer([&] {
    for (uint64_t i = 1; i < 20'000; i++) {
      Wide value;
      value.words.fill(i);
      cell.store(value);
    }
    done = true;
  });
  bool is_torn = false;
  while (!done) {
    const Wide value = cell.load();
    for (const uint64_t word : value.words) is_torn = is_torn || word != value.words[0];
  }
  writer.join();
  EXPECT(!is_torn);
}

void hostile_bytes_are_only_counted() {
  std::mt19937 random(20261120);
  std::array<uint8_t, 200> bytes;
  SequenceGuard sequences;
  for (int i = 0; i < 200'000; i++) {
    const size_t size = random() % bytes.size();
    for (size_t j = 0; j < size; j++) bytes[j] = static_cast<uint8_t>(random());
    if (size > 1 && random() % 4 != 0) bytes[0] = static_cast<uint8_t>(0x80 | (bytes[0] & 0x3f));
    // A heap copy of the exact size, so that a sanitizer sees one byte too many.
    std::vector<uint8_t> exact(bytes.begin(), bytes.begin() + static_cast<long>(size));
    RtpPacket rtp;
    if (parse_rtp(exact, rtp)) sequences.update(rtp.ssrc & 3, rtp.sequence);
    RtcpReport report;
    parse_rtcp(exact, 0, report);
  }
  EXPECT(true);
}

}  // namespace

std::vector<TestCase> pure_tests() {
  return {
      {"RTP refuses what does not fit", rtp_refuses_what_does_not_fit},
      {"a sequence jump needs two packets in a row", sequence_guard_wants_two_in_a_row_for_a_jump},
      {"unwrapping follows wraps both ways", unwrapper_follows_wraps_both_ways},
      {"the signalled source wins", source_guard_prefers_what_signaling_said},
      {"a stranger is learnt in its window, once",
       source_guard_learns_a_stranger_only_in_its_window_and_only_once},
      {"a late phone behind NAT is learnt, but in nobody's place",
       a_late_phone_behind_nat_is_learnt_but_never_in_place_of_another},
      {"a key held long stays one event", a_key_held_long_stays_one_event_between_audio},
      {"an outgoing stream has no seams", out_stream_joins_sources_without_a_seam},
      {"RTCP tells round trip and loss", rtcp_reports_round_trip_and_loss},
      {"ports rest after use", ports_rest_after_use},
      {"pairs that others hold are left to them for a while",
       pairs_that_others_hold_are_left_to_them_for_a_while},
      {"nobody can tell the next port", nobody_can_tell_the_next_port},
      {"a busy hour uses ports early rather than refuse calls",
       a_busy_hour_uses_ports_early_rather_than_refuse_calls},
      {"what waits is not overtaken", what_waits_is_not_overtaken},
      {"outcomes and digits outlive a consumer that is stuck",
       outcomes_and_digits_outlive_a_consumer_that_is_stuck},
      {"snapshots are never torn", snapshots_are_never_torn},
      {"hostile bytes are only counted", hostile_bytes_are_only_counted},
  };
}

}  // namespace tandem::test

int main(int argc, char** argv) {
  using namespace tandem::test;
  int run = 0;
  std::vector<TestCase> all = pure_tests();
  for (const auto& more : {live_tests(), audio_tests(), abuse_tests()}) {
    all.insert(all.end(), more.begin(), more.end());
  }
  for (const TestCase& test : all) {
    if (argc > 1 && std::strstr(test.name, argv[1]) == nullptr) continue;
    const int before = failures;
    const int64_t begin_us = tandem::steady_now_us();
    test.run();
    const long long took_ms = (tandem::steady_now_us() - begin_us) / 1000;
    std::printf("%s %d - %s (%lld ms)\n", failures == before ? "ok" : "not ok", ++run, test.name,
                took_ms);
    std::fflush(stdout);
  }
  std::printf("1..%d\n", run);
  return failures == 0 ? 0 : 1;
}
