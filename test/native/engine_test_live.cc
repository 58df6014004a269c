// Engine tests over loopback, packets: relay, sources, digits, direction, RTCP, hostile traffic.
#include "engine_support.h"

#include <random>

#include "rtcp.h"

namespace tandem::test {
namespace {

const std::vector<uint8_t> kPayload(160, 0x55);

/// Sequence numbers follow each other and timestamps grow by `ticks`.
bool is_seamless(const std::vector<Heard>& heard, uint32_t ticks) {
  for (size_t i = 1; i < heard.size(); i++) {
    const RtpPacket& a = heard[i - 1].rtp;
    const RtpPacket& b = heard[i].rtp;
    if (b.sequence != static_cast<uint16_t>(a.sequence + 1)) return false;
    if (b.ssrc != a.ssrc || (ticks != 0 && b.timestamp != a.timestamp + ticks)) return false;
  }
  return true;
}

void relay_rewrites_and_keeps_continuity() {
  Rig rig;
  Phone alice;
  Phone bob;
  const PortMade a = rig.port(alice);
  const PortMade b = rig.port(bob);
  rig.engine.connect(a.handle, b.handle);
  pause_ms(30);
  bob.listen(0);
  bob.clear();

  alice.sequence = 65530;
  alice.timestamp = 0xfffffe00;
  for (int i = 0; i < 20; i++) {
    alice.send(a.rtp_port, kPayload);
    bob.listen(5);
  }
  bob.listen(30);
  EXPECT(bob.heard.size() == 20 && is_seamless(bob.heard, 160));
  EXPECT(bob.heard[0].rtp.marker && !bob.heard[1].rtp.marker);
  EXPECT(bob.heard[0].rtp.ssrc != alice.ssrc && bob.heard[0].payload == kPayload);

  // Alice's phone begins a new stream: one packet proves it, the rest joins without a seam.
  alice.ssrc = 0x33334444;
  alice.sequence = 100;
  alice.timestamp = 77;
  for (int i = 0; i < 10; i++) {
    alice.send(a.rtp_port, kPayload);
    bob.listen(5);
  }
  bob.listen(30);
  EXPECT(bob.heard.size() == 29 && is_seamless(bob.heard, 0) && bob.heard[20].rtp.marker);
  EXPECT(bob.heard[20].rtp.timestamp - bob.heard[19].rtp.timestamp < 8000);
  pause_ms(30);
  const PortStats stats = rig.engine.ask(a.handle);
  EXPECT(stats.mode == PortMode::kRelay && stats.packets_received == 29);
  EXPECT(stats.ssrc_in == alice.ssrc && stats.packets_lost == 0);
}

void relay_translates_between_the_two_laws() {
  Rig rig;
  Phone alice;
  Phone bob;
  const PortMade a = rig.port(alice);
  const PortMade b = rig.port(bob, CodecId::kPcma);
  rig.engine.connect(a.handle, b.handle);
  pause_ms(30);
  bob.listen(0);
  bob.clear();
  alice.send(a.rtp_port, kPayload);
  bob.listen(50);
  std::vector<uint8_t> expected(160);
  ulaw_to_alaw(kPayload, expected);
  EXPECT(bob.heard.size() == 1 && bob.heard[0].rtp.payload_type == 8);
  EXPECT(!bob.heard.empty() && bob.heard[0].payload == expected);
}

void only_the_signalled_source_is_heard() {
  Rig rig;
  Phone alice;
  Phone mallory;
  const PortMade a = rig.port(alice);
  for (int i = 0; i < 20; i++) mallory.send(a.rtp_port, kPayload);
  pause_ms(50);
  EXPECT(rig.engine.ask(a.handle).wrong_source == 20);
  EXPECT(rig.engine.ask(a.handle).packets_received == 0);
  alice.send(a.rtp_port, kPayload);
  EXPECT(wait_for([&] { return rig.count(EventType::kLatched, a.handle) == 1; }));
  pause_ms(50);  // the socket is connected now
  for (int i = 0; i < 20; i++) mallory.send(a.rtp_port, kPayload);
  alice.send(a.rtp_port, kPayload);
  pause_ms(50);
  mallory.listen(30);
  EXPECT(rig.engine.ask(a.handle).packets_received == 2 && mallory.heard.empty());
  EXPECT(rig.count(EventType::kFirstPacket, a.handle) == 1);

  // A new address by signaling opens it again, and the old one is a stranger.
  Phone moved;
  rig.engine.set_port(a.handle, Rig::settings(moved.port()));
  pause_ms(30);
  for (int i = 0; i < 5; i++) {
    alice.send(a.rtp_port, kPayload);
    moved.send(a.rtp_port, kPayload);
  }
  pause_ms(50);
  moved.listen(50);
  EXPECT(rig.engine.ask(a.handle).packets_received == 7 && !moved.heard.empty());
}

void a_phone_behind_nat_is_learnt_and_answered() {
  Rig rig;
  Phone phone;
  const PortMade a = rig.engine.create_port({});
  PortSettings settings = Rig::settings(9);  // what it believes its port is
  settings.latch = LatchMode::kSameIp;
  rig.engine.set_port(a.handle, settings);
  pause_ms(30);
  for (int i = 0; i < 3; i++) phone.send(a.rtp_port, kPayload);
  phone.listen(60);
  EXPECT(phone.heard.empty());
  for (int i = 0; i < 3; i++) phone.send(a.rtp_port, kPayload);
  phone.listen(100);
  EXPECT(!phone.heard.empty() && rig.count(EventType::kLatched, a.handle) == 1);
  EXPECT(rig.engine.ask(a.handle).packets_received == 3);
}

void a_digit_is_relayed_and_reported_once() {
  Rig rig;
  Phone alice;
  Phone bob;
  const PortMade a = rig.port(alice);
  const PortMade b = rig.engine.create_port({});
  PortSettings settings = Rig::settings(bob.port());
  settings.dtmf_payload_type = settings.dtmf_receive_payload_type = 97;
  rig.engine.set_port(b.handle, settings);
  rig.engine.connect(a.handle, b.handle);
  pause_ms(30);
  for (int i = 0; i < 5; i++) alice.send(a.rtp_port, kPayload);
  bob.listen(30);
  bob.clear();
  press(alice, a.rtp_port, 5, 6, 160, [&] { bob.listen(10); });
  alice.send(a.rtp_port, kPayload);
  bob.listen(50);
  EXPECT(wait_for([&] { return rig.count(EventType::kDigit, a.handle) == 1; }));
  EXPECT(rig.first(EventType::kDigit).a == 5);
  EXPECT(rig.first(EventType::kDigit).b == 120 * 2);
  EXPECT(bob.heard.size() == 9 && is_seamless(bob.heard, 0));
  EXPECT(bob.heard[0].rtp.payload_type == 97 && bob.heard[0].rtp.marker);
  EXPECT(bob.heard[7].rtp.timestamp == bob.heard[0].rtp.timestamp);
  pause_ms(100);
  EXPECT(rig.count(EventType::kDigit) == 1);
}

void a_digit_is_made_anew_for_another_clock() {
  Rig rig;
  Phone alice;
  Phone bob;
  const PortMade a = rig.port(alice);
  const PortMade b = rig.engine.create_port({});
  PortSettings settings = Rig::settings(bob.port(), CodecId::kOpus);
  settings.dtmf_clock_rate_hz = 48000;
  rig.engine.set_port(b.handle, settings);
  rig.engine.connect(a.handle, b.handle);
  pause_ms(30);
  for (int i = 0; i < 10; i++) {
    alice.send(a.rtp_port, kPayload);
    bob.listen(20);
  }
  bob.clear();
  press(alice, a.rtp_port, 11, 6, 160, [&] { bob.listen(20); });
  bob.listen(500);
  int ends = 0;
  uint16_t longest = 0;
  for (const Heard& one : bob.heard) {
    if (one.rtp.payload_type != 101) continue;
    EXPECT(one.payload.size() == 4 && one.payload[0] == 11);
    if (one.payload[1] & 0x80) ends++;
    longest = std::max(longest, read_u16(&one.payload[2]));
  }
  EXPECT(ends == 3 && longest == 48 * 120);
  EXPECT(is_seamless(bob.heard, 0) && rig.count(EventType::kDigit, a.handle) == 1);
}

void hold_stops_what_it_must() {
  Rig rig;
  Phone alice;
  Phone bob;
  const PortMade a = rig.port(alice);
  const PortMade b = rig.port(bob);
  rig.engine.connect(a.handle, b.handle);
  PortSettings held = Rig::settings(bob.port());
  held.direction = Direction::kInactive;
  alice.send(a.rtp_port, kPayload);
  bob.send(b.rtp_port, kPayload);
  pause_ms(50);
  rig.engine.set_port(b.handle, held);
  pause_ms(30);
  alice.listen(0);
  bob.listen(0);
  alice.clear();
  bob.clear();
  for (int i = 0; i < 10; i++) {
    alice.send(a.rtp_port, kPayload);
    bob.send(b.rtp_port, kPayload);
  }
  alice.listen(60);
  bob.listen(0);
  EXPECT(alice.heard.empty() && bob.heard.empty());
  // Time on hold is no loss: the numbers go on where they stopped.
  rig.engine.set_port(b.handle, Rig::settings(bob.port()));
  pause_ms(30);
  for (int i = 0; i < 5; i++) {
    alice.send(a.rtp_port, kPayload);
    bob.listen(5);
  }
  bob.listen(30);
  EXPECT(bob.heard.size() == 5 && is_seamless(bob.heard, 160));
}

void silence_is_told_and_ends_nothing() {
  Rig rig;
  Phone alice;
  const PortMade a = rig.engine.create_port({});
  PortSettings settings = Rig::settings(alice.port());
  settings.silent_timeout_ms = 100;
  rig.engine.set_port(a.handle, settings);
  alice.send(a.rtp_port, kPayload);
  EXPECT(wait_for([&] { return rig.count(EventType::kSilent, a.handle) == 1; }));
  EXPECT(rig.first(EventType::kSilent).a >= 100 && rig.count(EventType::kActive) == 0);
  alice.send(a.rtp_port, kPayload);
  EXPECT(wait_for([&] { return rig.count(EventType::kActive, a.handle) == 1; }));
}

void reports_flow_and_goodbye_is_said() {
  Rig rig;
  Phone alice;
  PortRequest request;
  request.rtcp_mux = true;
  const PortMade a = rig.engine.create_port(request);
  EXPECT(a.rtcp_port == a.rtp_port);
  PortSettings settings = Rig::settings(alice.port());
  settings.rtcp_mux = true;
  rig.engine.set_port(a.handle, settings);
  for (int i = 0; i < 10; i++) alice.send(a.rtp_port, kPayload);
  const bool came = wait_for([&] { alice.listen(20); return !alice.reports.empty(); }, 4000);
  EXPECT(came);
  RtcpReport report;
  EXPECT(came && parse_rtcp(alice.reports[0], alice.ssrc, report));
  EXPECT(report.has_sender_info && report.has_block && report.fraction_lost == 0);
  rig.engine.close(a.handle);
  alice.reports.clear();
  EXPECT(wait_for([&] { alice.listen(10); return !alice.reports.empty(); }));
  RtcpReport bye;
  EXPECT(!alice.reports.empty() && parse_rtcp(alice.reports.back(), alice.ssrc, bye) && bye.bye);
}

void hostile_traffic_from_the_right_source_hurts_nobody() {
  Rig rig;
  Phone alice;
  Phone bob;
  const PortMade a = rig.port(alice);
  const PortMade b = rig.port(bob, CodecId::kOpus);
  rig.engine.connect(a.handle, b.handle);
  PortSettings ears = Rig::settings(alice.port());
  ears.inband_dtmf = true;
  ears.has_dtmf = false;
  rig.engine.set_port(a.handle, ears);
  std::mt19937 random(4242);
  for (int i = 0; i < 4000; i++) {
    std::vector<uint8_t> bytes(random() % 400);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    if (bytes.size() >= 12 && i % 3 != 0) {
      RtpPacket head;
      constexpr std::array<uint8_t, 5> kTypes{0, 96, 101, 13, 0};
      head.payload_type = kTypes[random() % kTypes.size()];
      head.sequence = static_cast<uint16_t>(i);
      head.timestamp = random() % 8 == 0 ? random() : static_cast<uint32_t>(i * 160);
      head.ssrc = 9 + random() % 2 * (i / 1000);
      write_rtp_header(bytes.data(), head);
      bytes[0] |= random() % 16 == 0 ? 0x30 : 0;
    }
    Phone& from = i % 2 == 0 ? alice : bob;
    from.send_raw(i % 2 == 0 ? a.rtp_port : b.rtp_port, bytes);
    if (i % 50 == 0) from.send_raw((i % 2 == 0 ? a : b).rtcp_port, bytes);
    if (i % 40 == 0) pause_ms(5);
  }
  pause_ms(50);
  // The call goes on.
  alice.ssrc = 0x99;
  bob.listen(0);
  bob.clear();
  for (int i = 0; i < 10; i++) {
    alice.send(a.rtp_port, kPayload);
    bob.listen(20);
  }
  EXPECT(bob.heard.size() >= 8 && rig.engine.ask(a.handle).bad_packets > 0);
}

void a_leg_of_ipv6_and_one_of_ipv4_are_one_call() {
  Rig rig;
  Phone alice("::1");
  Phone bob;
  PortRequest request;
  request.address = "::1";
  PortMade a;
  try {
    a = rig.engine.create_port(request);
  } catch (const EngineError&) {
    std::printf("  # no IPv6 here\n");
    return;
  }
  PortSettings settings = Rig::settings(alice.port());
  settings.remote = Address::parse("::1", alice.port());
  rig.engine.set_port(a.handle, settings);
  const PortMade b = rig.port(bob);
  rig.engine.connect(a.handle, b.handle);
  pause_ms(30);
  alice.send(a.rtp_port, kPayload);
  bob.send(b.rtp_port, kPayload);
  alice.listen(50);
  bob.listen(20);
  EXPECT(!alice.heard.empty() && alice.heard.back().payload == kPayload);
  EXPECT(!bob.heard.empty() && bob.heard.back().payload == kPayload);
  pause_ms(30);
  EXPECT(rig.engine.ask(a.handle).peer.text() == "[::1]:" + std::to_string(alice.port()));
}

void handles_of_the_past_are_refused() {
  Rig rig;
  const PortMade a = rig.engine.create_port({});
  rig.engine.close(a.handle);
  rig.engine.close(a.handle);
  bool is_refused = false;
  try {
    rig.engine.ask(a.handle);
  } catch (const EngineError& refusal) {
    is_refused = std::string(refusal.code()) == "MEDIA_COMMAND";
  }
  EXPECT(is_refused);
  for (int i = 0; i < 80; i++) rig.engine.close(rig.engine.create_port({}).handle);
}

}  // namespace

std::vector<TestCase> live_tests() {
  return {
      {"relay rewrites and keeps continuity", relay_rewrites_and_keeps_continuity},
      {"relay translates between the two laws", relay_translates_between_the_two_laws},
      {"only the signalled source is heard", only_the_signalled_source_is_heard},
      {"a phone behind NAT is learnt and answered", a_phone_behind_nat_is_learnt_and_answered},
      {"a digit is relayed and reported once", a_digit_is_relayed_and_reported_once},
      {"a digit is made anew for another clock", a_digit_is_made_anew_for_another_clock},
      {"hold stops what it must", hold_stops_what_it_must},
      {"silence is told and ends nothing", silence_is_told_and_ends_nothing},
      {"reports flow and goodbye is said", reports_flow_and_goodbye_is_said},
      {"hostile traffic from the right source hurts nobody",
       hostile_traffic_from_the_right_source_hurts_nobody},
      {"a leg of IPv6 and one of IPv4 are one call", a_leg_of_ipv6_and_one_of_ipv4_are_one_call},
      {"handles of the past are refused", handles_of_the_past_are_refused},
  };
}

}  // namespace tandem::test
