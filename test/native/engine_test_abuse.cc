// Engine tests over loopback of what attackers, faults and odd phones do: media taken over, media
// aimed at others, reports turned away, keys held long, sockets and events that run out.
#include "engine_support.h"

#include <sys/resource.h>

#include "rtcp.h"

namespace tandem::test {
namespace {

const std::vector<uint8_t> kPayload(160, 0x55);

void the_phone_wins_back_what_an_attacker_took_first() {
  Rig rig;
  Phone phone;
  Phone attacker;
  const PortMade a = rig.engine.create_port({});
  PortSettings settings = Rig::settings(phone.port());
  settings.latch = LatchMode::kSameIp;
  rig.engine.set_port(a.handle, settings);
  for (int i = 0; i < 8; i++) attacker.send(a.rtp_port, kPayload);
  EXPECT(wait_for([&] { return rig.count(EventType::kLatched, a.handle) == 1; }));
  attacker.listen(60);
  EXPECT(!attacker.heard.empty());
  // A key goes down, and its end is left to whoever comes next.
  const std::array<uint8_t, 4> key_down{9, 10, 0, 160};
  attacker.send(a.rtp_port, key_down, 101, 0, true);
  // Longer than any window: the phone was ringing.
  pause_ms(5500);
  attacker.listen(0);
  attacker.clear();
  const int keys_before = rig.count(EventType::kDigit, a.handle);
  phone.send(a.rtp_port, kPayload);
  EXPECT(wait_for([&] { return rig.count(EventType::kLatched, a.handle) == 2; }));
  for (int i = 0; i < 5; i++) {
    phone.send(a.rtp_port, kPayload);
    press(attacker, a.rtp_port, 7, 5, 160, [] {});
    phone.listen(20);
    attacker.listen(0);
  }
  pause_ms(200);
  phone.listen(0);
  attacker.listen(0);
  EXPECT(phone.heard.size() >= 5 && attacker.heard.size() <= 5);
  EXPECT(rig.count(EventType::kDigit, a.handle) == keys_before);
  EXPECT(rig.engine.ask(a.handle).peer.port() == phone.port());
}

void a_digit_begun_by_an_attacker_is_not_told_of_the_phone() {
  Rig rig;
  Phone phone;
  Phone attacker;
  const PortMade a = rig.engine.create_port({});
  PortSettings settings = Rig::settings(phone.port());
  settings.latch = LatchMode::kSameIp;
  rig.engine.set_port(a.handle, settings);
  for (int i = 0; i < 8; i++) attacker.send(a.rtp_port, kPayload);
  const std::array<uint8_t, 4> key_down{9, 10, 0, 160};
  attacker.send(a.rtp_port, key_down, 101, 0, true);
  pause_ms(30);
  for (int i = 0; i < 30; i++) {
    phone.send(a.rtp_port, kPayload);
    phone.listen(20);
  }
  EXPECT(rig.engine.ask(a.handle).packets_received >= 30);
  EXPECT(rig.count(EventType::kDigit) == 0);
}

/// What an unproven remote got of RTP and RTCP, on two sockets.
void an_unproven_remote_gets_only_a_few_packets() {
  Rig rig;
  Phone victim;
  Phone reports;
  const PortMade a = rig.engine.create_port({});
  PortSettings settings = Rig::settings(victim.port());
  settings.remote_rtcp = Address::parse("127.0.0.1", reports.port());
  settings.proven = false;
  rig.engine.set_port(a.handle, settings);
  PlayerRequest request;
  request.port = a.handle;
  request.tone = TonePlan{{{1400, 0}, 600, 0, -16, 0}, false};
  rig.engine.create_player(request);
  const auto got = [&] {
    victim.listen(0);
    reports.listen(0);
    return victim.heard.size() + victim.reports.size() + reports.reports.size();
  };
  pause_ms(4000);  // at least one report is due in this
  EXPECT(got() >= 15 && got() <= 20);
  // A forged change of the address buys nothing.
  Phone another;
  settings.remote = Address::parse("127.0.0.1", another.port());
  rig.engine.set_port(a.handle, settings);
  another.listen(200);
  EXPECT(got() + another.heard.size() <= 20);

  // An acknowledged answer lifts it, and numbers go on without a gap.
  settings.remote = Address::parse("127.0.0.1", victim.port());
  settings.proven = true;
  rig.engine.set_port(a.handle, settings);
  victim.listen(300);
  EXPECT(got() > 28);
  for (size_t i = 1; i < victim.heard.size(); i++) {
    const uint16_t next = static_cast<uint16_t>(victim.heard[i - 1].rtp.sequence + 1);
    EXPECT(victim.heard[i].rtp.sequence == next);
  }

  // A refused or cancelled call says no goodbye to a stranger either.
  const PortMade b = rig.engine.create_port({});
  Phone silent;
  settings = Rig::settings(silent.port());
  settings.proven = false;
  settings.rtcp_mux = true;
  rig.engine.set_port(b.handle, settings);
  silent.listen(600);
  rig.engine.close(b.handle);
  silent.listen(200);
  EXPECT(silent.heard.size() + silent.reports.size() <= 20);
}

void a_remote_that_talks_is_proven() {
  Rig rig;
  Phone phone;
  const PortMade a = rig.engine.create_port({});
  PortSettings settings = Rig::settings(phone.port());
  settings.proven = false;
  rig.engine.set_port(a.handle, settings);
  phone.listen(600);
  EXPECT(phone.heard.size() <= 20);
  phone.send(a.rtp_port, kPayload);
  phone.listen(700);
  EXPECT(phone.heard.size() > 40);
}

void a_key_held_for_seven_seconds_is_one_key() {
  Rig rig;
  Phone alice;
  Phone bob;
  const PortMade a = rig.port(alice);
  const PortMade b = rig.port(bob);
  rig.engine.connect(a.handle, b.handle);
  pause_ms(30);
  for (int i = 0; i < 5; i++) alice.send(a.rtp_port, kPayload);
  bob.listen(30);
  bob.clear();
  press(alice, a.rtp_port, 5, 350, 160, [&] { bob.listen(20); });
  alice.send(a.rtp_port, kPayload);
  bob.listen(50);
  int marks = 0;
  for (const Heard& one : bob.heard) {
    if (one.rtp.payload_type != 101) continue;
    marks += one.rtp.marker;
    EXPECT(one.rtp.timestamp == bob.heard[0].rtp.timestamp);
  }
  EXPECT(bob.heard.size() >= 350 && marks == 1);
  EXPECT(!bob.heard.empty() && bob.heard.back().rtp.payload_type == 0);
  EXPECT(wait_for([&] { return rig.count(EventType::kDigit, a.handle) == 1; }));
  EXPECT(rig.first(EventType::kDigit).b == 7000 * 2);
}

void reports_stay_where_signaling_sent_them() {
  Rig rig;
  Phone alice;
  Phone alice_rtcp;
  Phone attacker;
  const PortMade a = rig.engine.create_port({});
  PortSettings settings = Rig::settings(alice.port());
  settings.remote_rtcp = Address::parse("127.0.0.1", alice_rtcp.port());
  settings.latch = LatchMode::kSameIp;
  rig.engine.set_port(a.handle, settings);
  alice.send(a.rtp_port, kPayload);
  std::array<uint8_t, kPacketBytesMax> report;
  RtcpSession session;
  session.start(0x77, "x", 5, 0);
  const uint32_t size = session.build(report, {0x77, 0, 0, 0}, nullptr, 0, 1, 1, false);
  // In the window anybody of that IP may be it, until the signalled address is heard ...
  attacker.send_raw(a.rtcp_port, std::span(report).first(size));
  alice_rtcp.send_raw(a.rtcp_port, std::span(report).first(size));
  pause_ms(1200);
  // ... and after it nobody else.
  for (int i = 0; i < 5; i++) attacker.send_raw(a.rtcp_port, std::span(report).first(size));
  EXPECT(wait_for([&] { alice_rtcp.listen(20); return !alice_rtcp.reports.empty(); }, 9000));
  attacker.listen(0);
  EXPECT(attacker.reports.empty());

  // Nor where the signalled address was never heard.
  const PortMade b = rig.engine.create_port({});
  rig.engine.set_port(b.handle, settings);
  alice.send(b.rtp_port, kPayload);
  alice_rtcp.reports.clear();
  pause_ms(1020);
  for (int i = 0; i < 5; i++) attacker.send_raw(b.rtcp_port, std::span(report).first(size));
  EXPECT(wait_for([&] { alice_rtcp.listen(20); return !alice_rtcp.reports.empty(); }, 5000));
  rig.engine.close(b.handle);  // a goodbye would follow the last address
  attacker.listen(100);
  EXPECT(attacker.reports.empty());
}

std::string refusal_of(Rig& rig) {
  try {
    rig.engine.create_port({});
  } catch (const EngineError& refusal) {
    return std::string(refusal.code()) + ": " + refusal.what();
  }
  return "";
}

void a_socket_that_would_stay_deaf_is_refused_at_once() {
  EngineOptions options = Rig::defaults();
  options.descriptors_max = 8;
  Rig rig(options);
  std::vector<Socket> filling;
  for (int fd = 0; fd < 8; fd = filling.back().fd()) filling.emplace_back(dup(1));
  EXPECT(refusal_of(rig).starts_with("MEDIA_UNAVAILABLE: a media socket cannot be watched"));
  EXPECT(rig.engine.stats().ports == 0);
}

void running_out_of_descriptors_is_said_and_passes() {
  Rig rig;
  rlimit before{};
  getrlimit(RLIMIT_NOFILE, &before);
  std::vector<Socket> filling;
  filling.emplace_back(dup(1));
  const rlimit low{static_cast<rlim_t>(filling.back().fd()) + 2, before.rlim_max};
  setrlimit(RLIMIT_NOFILE, &low);
  while (filling.back().is_open()) filling.emplace_back(dup(1));
  const std::string refusal = refusal_of(rig);
  setrlimit(RLIMIT_NOFILE, &before);
  EXPECT(refusal.starts_with("MEDIA_UNAVAILABLE: no socket for a media port"));
  EXPECT(refusal_of(rig).empty());
}

void handles_come_back_however_late_events_are_taken() {
  EngineOptions options = Rig::defaults();
  options.events_max = 8;
  Rig rig(options);
  std::vector<Handle> players;
  std::vector<Handle> ports;
  for (int i = 0; i < 20; i++) ports.push_back(rig.engine.create_port({}).handle);
  PlayerRequest request;
  request.tone = TonePlan{{{1400, 0}, 600, 0, -16, 0}, false};
  for (const Handle port : ports) {
    request.port = port;
    for (int i = 0; i < 4; i++) players.push_back(rig.engine.create_player(request));
  }
  for (const Handle player : players) rig.engine.close(player);
  pause_ms(100);  // nobody takes an event
  EXPECT(wait_for([&] { return rig.count(EventType::kPlayDone) == 80; }));
  for (const Handle port : ports) {
    request.port = port;
    for (int i = 0; i < 4; i++) rig.engine.create_player(request);  // throws when one is left
  }
}

void an_idle_relay_only_gives_signs_of_life() {
  Rig rig;
  Phone alice;
  Phone bob;
  const PortMade a = rig.port(alice);
  const PortMade b = rig.port(bob);
  rig.engine.connect(a.handle, b.handle);
  pause_ms(60);
  bob.listen(0);
  bob.clear();
  bob.listen(2500);
  EXPECT(bob.heard.size() >= 2 && bob.heard.size() <= 3);
  alice.send(a.rtp_port, kPayload);
  bob.listen(50);
  EXPECT(bob.heard.back().payload == kPayload && bob.heard.back().rtp.marker);
  for (size_t i = 1; i < bob.heard.size(); i++) {
    const RtpPacket& last = bob.heard[i - 1].rtp;
    const RtpPacket& next = bob.heard[i].rtp;
    EXPECT(next.sequence == static_cast<uint16_t>(last.sequence + 1));
    const double ms = static_cast<double>(bob.heard[i].at_us - bob.heard[i - 1].at_us) / 1000;
    EXPECT(std::fabs(static_cast<double>(next.timestamp - last.timestamp) / 8 - ms) < 45);
  }
}

}  // namespace

std::vector<TestCase> abuse_tests() {
  return {
      {"the phone wins back what an attacker took first",
       the_phone_wins_back_what_an_attacker_took_first},
      {"a digit begun by an attacker is not told of the phone",
       a_digit_begun_by_an_attacker_is_not_told_of_the_phone},
      {"an unproven remote gets only a few packets", an_unproven_remote_gets_only_a_few_packets},
      {"a remote that talks is proven", a_remote_that_talks_is_proven},
      {"a key held for seven seconds is one key", a_key_held_for_seven_seconds_is_one_key},
      {"reports stay where signaling sent them", reports_stay_where_signaling_sent_them},
      {"a socket that would stay deaf is refused at once",
       a_socket_that_would_stay_deaf_is_refused_at_once},
      {"running out of descriptors is said and passes",
       running_out_of_descriptors_is_said_and_passes},
      {"handles come back however late events are taken",
       handles_come_back_however_late_events_are_taken},
      {"an idle relay only gives signs of life", an_idle_relay_only_gives_signs_of_life},
  };
}

}  // namespace tandem::test
