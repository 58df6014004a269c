// What the engine tests share: a checker, a peer phone on a loopback socket, an engine whose
// events are kept. Not a mock: packets go through the kernel and the real threads.
#pragma once

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <numbers>
#include <string>
#include <thread>
#include <vector>

#include "bytes.h"
#include "clock.h"
#include "engine.h"
#include "g711.h"
#include "rtp.h"

namespace tandem::test {

inline int failures = 0;

inline void expect(bool ok, const char* text, const char* file, int line) {
  if (ok) return;
  failures++;
  std::printf("  not ok: %s (%s:%d)\n", text, file, line);
}
#define EXPECT(condition) tandem::test::expect((condition), #condition, __FILE__, __LINE__)

struct TestCase {
  const char* name;
  void (*run)();
};
std::vector<TestCase> pure_tests();
std::vector<TestCase> live_tests();
std::vector<TestCase> audio_tests();
std::vector<TestCase> abuse_tests();

inline void pause_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

/// Waits until `done()`; false when it never came true.
inline bool wait_for(const std::function<bool()>& done, int timeout_ms = 3000) {
  const int64_t end_us = steady_now_us() + int64_t{timeout_ms} * 1000;
  while (steady_now_us() < end_us) {
    if (done()) return true;
    pause_ms(2);
  }
  return done();
}

struct Heard {
  RtpPacket rtp;
  std::vector<uint8_t> payload;
  int64_t at_us = 0;
};

/// A phone: one UDP socket that sends and keeps what it hears.
class Phone {
 public:
  explicit Phone(const char* ip = "127.0.0.1") : ip_(ip) {
    const Address any = Address::parse(ip_, 0);
    socket_ = Socket(::socket(any.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
    bind(socket_.fd(), any.data(), any.size());
    port_ = Address::of_socket(socket_.fd()).port();
  }
  uint16_t port() const { return port_; }

  void send_raw(uint16_t to_port, std::span<const uint8_t> datagram) {
    const Address to = Address::parse(ip_, to_port);
    sendto(socket_.fd(), datagram.data(), datagram.size(), 0, to.data(), to.size());
  }
  /// Next packet of the phone's stream; sequence and timestamp move on.
  void send(uint16_t to_port, std::span<const uint8_t> payload, uint8_t type = 0,
            uint32_t ticks = 160, bool marker = false) {
    std::vector<uint8_t> datagram(kRtpHeaderBytes + payload.size());
    RtpPacket packet;
    packet.payload_type = type;
    packet.marker = marker;
    packet.sequence = sequence++;
    packet.timestamp = timestamp;
    packet.ssrc = ssrc;
    timestamp += ticks;
    write_rtp_header(datagram.data(), packet);
    std::copy(payload.begin(), payload.end(), datagram.begin() + kRtpHeaderBytes);
    send_raw(to_port, datagram);
  }

  /// Takes what has come within `ms`, RTP only; RTCP goes to `reports`.
  void listen(int ms) {
    const int64_t end_us = steady_now_us() + int64_t{ms} * 1000;
    for (;;) {
      const int64_t left_us = end_us - steady_now_us();
      pollfd wait{socket_.fd(), POLLIN, 0};
      if (poll(&wait, 1, static_cast<int>(std::max<int64_t>(0, left_us / 1000))) <= 0) return;
      take();
    }
  }
  void clear() { heard.clear(); }

  std::vector<Heard> heard;
  std::vector<std::vector<uint8_t>> reports;
  uint16_t sequence = 1000;
  uint32_t timestamp = 5000;
  uint32_t ssrc = 0x11112222;

 private:
  void take() {
    std::vector<uint8_t> datagram(kPacketBytesMax);
    const ssize_t size = recv(socket_.fd(), datagram.data(), datagram.size(), MSG_DONTWAIT);
    if (size <= 0) return;
    datagram.resize(static_cast<size_t>(size));
    if (is_rtcp(datagram)) {
      reports.push_back(datagram);
      return;
    }
    Heard one;
    one.at_us = steady_now_us();
    if (!parse_rtp(datagram, one.rtp)) return;
    one.payload.assign(one.rtp.payload.begin(), one.rtp.payload.end());
    one.rtp.payload = {};
    heard.push_back(one);
  }

  std::string ip_;
  Socket socket_;
  uint16_t port_ = 0;
};

/// One digit as a phone sends it: `packets` growing durations, then three ends.
inline void press(Phone& phone, uint16_t to_port, uint8_t key, int packets, uint32_t units,
                  const std::function<void()>& between) {
  std::array<uint8_t, 4> payload{key, 10, 0, 0};
  for (int i = 1; i <= packets + 2; i++) {
    const bool is_end = i >= packets;
    payload[1] = static_cast<uint8_t>((is_end ? 0x80 : 0) | 10);
    const uint32_t length = units * static_cast<uint32_t>(std::min(i, packets));
    write_u16(&payload[2], static_cast<uint16_t>(length));
    phone.send(to_port, payload, 101, 0, i == 1);
    between();
  }
  phone.timestamp += units * static_cast<uint32_t>(packets + 2);
}

/// An engine, the events it told, and short ways to set a port.
class Rig {
 public:
  explicit Rig(EngineOptions options = defaults()) : engine(options, [this] { notified_++; }) {}

  static EngineOptions defaults() {
    EngineOptions options;
    options.realtime_priority = 0;  // a sanitizer build at real-time priority starves the phone
    options.ports.port_min = 31000;
    options.ports.port_max = 31199;
    options.ports.quarantine_us = 0;
    return options;
  }
  static PortSettings settings(uint16_t remote_port, CodecId codec = CodecId::kPcmu) {
    PortSettings out;
    out.remote = Address::parse("127.0.0.1", remote_port);
    out.codec = codec;
    constexpr std::array<uint8_t, 4> kTypes{0, 8, 9, 96};
    out.payload_type = out.receive_payload_type = kTypes[static_cast<size_t>(codec)];
    out.has_dtmf = true;
    return out;
  }
  PortMade port(const Phone& phone, CodecId codec = CodecId::kPcmu) {
    const PortMade made = engine.create_port({});
    engine.set_port(made.handle, settings(phone.port(), codec));
    return made;
  }

  std::vector<EventRecord>& events() {
    std::array<EventRecord, 64> batch;
    for (;;) {
      const size_t count = engine.drain(batch);
      events_.insert(events_.end(), batch.begin(), batch.begin() + static_cast<long>(count));
      if (count < batch.size()) return events_;
    }
  }
  int count(EventType type, Handle handle = 0) {
    int found = 0;
    for (const EventRecord& event : events()) {
      if (event.type != static_cast<uint32_t>(type)) continue;
      if (handle == 0 || event.handle == static_cast<double>(handle)) found++;
    }
    return found;
  }
  /// The first event of that type; type 0 when there was none.
  EventRecord first(EventType type) {
    for (const EventRecord& event : events()) {
      if (event.type == static_cast<uint32_t>(type)) return event;
    }
    return {};
  }

 private:
  std::atomic<int> notified_{0};

 public:
  Engine engine;

 private:
  std::vector<EventRecord> events_;
};

/// 20 ms of a sine as mu-law, phase carried on.
inline std::vector<uint8_t> tone_ulaw(double hz, int64_t& position) {
  std::array<int16_t, 160> linear;
  for (int16_t& sample : linear) {
    const double angle = 2 * std::numbers::pi * hz * static_cast<double>(position++) / 8000;
    sample = static_cast<int16_t>(8000 * std::sin(angle));
  }
  std::vector<uint8_t> out(160);
  ulaw_encode(linear, out);
  return out;
}

/// Share of the energy of `samples` that lies at `hz` (Goertzel): 1 is a pure tone.
inline double tone_share(std::span<const int16_t> samples, double hz, double rate_hz = 8000) {
  const double step = 2 * std::numbers::pi * hz / rate_hz;
  double re = 0;
  double im = 0;
  double energy = 0;
  for (size_t i = 0; i < samples.size(); i++) {
    re += samples[i] * std::cos(step * static_cast<double>(i));
    im += samples[i] * std::sin(step * static_cast<double>(i));
    energy += static_cast<double>(samples[i]) * samples[i];
  }
  if (energy == 0) return 0;
  return 2 * (re * re + im * im) / (energy * static_cast<double>(samples.size()));
}

inline std::vector<int16_t> decode_ulaw(const std::vector<Heard>& heard, uint8_t type = 0) {
  std::vector<int16_t> out;
  for (const Heard& one : heard) {
    if (one.rtp.payload_type != type) continue;
    std::vector<int16_t> linear(one.payload.size());
    if (type == 8) {
      alaw_decode(one.payload, linear);
    } else {
      ulaw_decode(one.payload, linear);
    }
    out.insert(out.end(), linear.begin(), linear.end());
  }
  return out;
}

}  // namespace tandem::test
