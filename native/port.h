// One leg's media: its sockets, what it hears and what it says. A port stands alone (players,
// recorders, silence in between) or is joined to a peer port of the same thread, and then relays
// packets without decoding where it can, or carries audio from one codec to the other.
//
// Thread: built on the control thread, used on the real-time thread only, freed on the I/O thread.
// Nothing here allocates or locks. Pipelines: port_receive.cc (in), port_send.cc (out); life,
// settings and the tick: port.cc.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string_view>

#include "dtmf.h"
#include "out_stream.h"
#include "player.h"
#include "port_pool.h"
#include "port_settings.h"
#include "reactor.h"
#include "recorder.h"
#include "rtcp.h"
#include "wheel.h"

namespace tandem {

class Port;

/// What a port may use of the thread it lives on.
class PortHost {
 public:
  virtual ~PortHost() = default;
  virtual Reactor& reactor() = 0;
  virtual EventRing& events() = 0;
  virtual Wheel<Port>& wheel() = 0;
  /// Where one packet is put together; good until the next call of anything else.
  virtual std::span<uint8_t> scratch() = 0;
  /// A player or recorder is done: its handle dies and the object is freed elsewhere.
  virtual void retire(Handle handle) = 0;
};

struct PortIdentity {
  uint32_t ssrc = 0;
  std::string_view cname;
  uint64_t seed = 0;               // of sequence number, timestamp and report times
  std::optional<uint32_t> phase;   // of the wheel; chosen when absent
};

class Port final : public Resource, public DatagramHandler {
 public:
  static constexpr size_t kPlayersMax = 4;
  static constexpr size_t kRecordersMax = 4;

  Port(PortPair sockets, const PortIdentity& identity, int64_t now_us);

  Handle handle = 0;
  /// For the control thread: the latest statistics, as of the last tick.
  std::shared_ptr<const SnapshotCell<PortStats>> stats() const { return stats_cell_; }

  /// Begins receiving; what came before is dropped. False: the kernel refuses. Control thread.
  bool attend(Reactor& reactor);

  // Life and joining (real-time thread). A port that was never told what to speak neither ticks
  // nor receives: ports made ahead of need cost nothing.
  void open(PortHost& host) { host_ = &host; }
  void change(PortChange& change, int64_t now_us);
  void connect(Port* peer, int64_t now_us);
  /// Says goodbye, ends players and recorders, leaves the reactor and the wheel.
  void close(int64_t now_us);
  bool add_player(Player* player);
  void stop_player(Player* player, PlayReason reason);
  bool add_recorder(Recorder* recorder);
  void stop_recorder(Recorder* recorder, RecordReason reason);

  void tick(int64_t now_us);
  void on_datagram(uint32_t channel, std::span<uint8_t> datagram, const Address& from,
                   int64_t now_us) override;

 private:
  enum class Payload : uint8_t { kUnknown, kMedia, kEvent, kComfortNoise };
  static constexpr uint32_t kRtpChannel = 0;
  static constexpr uint32_t kRtcpChannel = 1;
  static constexpr uint8_t kComfortNoiseType = 13;  // RFC 3389
  /// A relayed leg to which nothing went for so long gets one packet of silence: enough to keep
  /// a NAT open and the far side's watchdog quiet (RFC 6263), without a stream of our own.
  static constexpr int64_t kKeepAliveUs = 1'000'000;
  /// RTP and RTCP that go to a remote which is not proven and was never heard, in all the life of
  /// the port: a remote that changes gets no new allowance.
  static constexpr uint32_t kUnprovenPacketsMax = 20;
  static constexpr int64_t kNever = INT64_MAX;

  // port.cc
  void begin();
  void update_mode();
  void update_bridge();
  void listen(int64_t now_us);
  void hand_over(int64_t now_us);
  void watch(int64_t now_us);
  void step_recorders();
  void connect_socket();
  void disconnect_socket();
  void move_phase(int64_t arrival_us);
  void publish();
  bool records_said() const;
  int64_t next_work_us() const;
  int64_t silent_us() const;
  int64_t keep_alive_us() const;
  /// Something happened: the next tick is not left out.
  void stir() { rest_until_us_ = 0; }

  // port_receive.cc
  Payload classify(uint8_t payload_type) const;
  bool admit(const RtpPacket& packet, const Address& from, int64_t now_us);
  void begin_stream(const RtpPacket& packet);
  void note_packet(size_t bytes, int64_t now_us);
  void receive_event(const RtpPacket& packet, int64_t sequence, int64_t timestamp, int64_t now_us);
  void report_digit(const DtmfDigit& digit, bool inband);
  void learn_rtcp(const Address& from, int64_t now_us);
  void receive_rtcp(std::span<const uint8_t> datagram, const Address& from, int64_t now_us);
  uint64_t stream_id() const { return (handle << 10) | (epoch_ & 0x3ff); }

  // port_send.cc
  void relay_media(uint64_t source, const RtpPacket& packet, CodecId codec, int64_t sequence,
                   int64_t timestamp, int64_t now_us);
  bool relay_event(uint64_t source, const RtpPacket& packet, int clock_rate_hz, int64_t sequence,
                   int64_t timestamp, int64_t now_us);
  void skip(uint64_t source, int64_t sequence) { out_.skip(source, sequence); }
  void speak(const AudioFrame& bridged, int64_t now_us);
  void speak_relayed(int64_t now_us);
  void mix_players(std::span<int16_t> frame);
  void feed_digits();
  bool send_event(int64_t now_us);
  void send_silence(int64_t now_us);
  void send_digit(const DtmfDigit& digit);
  bool wants_voice() const;
  bool may_send() const {
    return has_settings_ && settings_.can_send() && guard_.peer().is_set() && may_aim();
  }
  bool may_aim() const {
    return settings_.proven || is_heard_ || unproven_packets_ < kUnprovenPacketsMax;
  }
  bool send(int fd, std::span<const uint8_t> datagram, const Address* to);
  void transmit(uint8_t* header, const RtpPacket& packet, size_t payload_bytes);
  void say_tap(const AudioFrame& frame);
  void send_report(int64_t now_us, bool bye);
  Address signalled_rtcp() const;
  Address rtcp_peer() const;

  PortPair sockets_;
  bool is_mux_;
  PortHost* host_ = nullptr;
  uint32_t phase_ = 0;
  bool has_phase_ = false;
  bool is_phase_placed_ = false;
  int64_t rest_until_us_ = 0;  // ticks before that have nothing to do

  bool has_settings_ = false;
  PortSettings settings_;
  int64_t settings_us_ = 0;
  int packet_ms_ = 20;
  std::shared_ptr<const std::vector<uint8_t>> silence_;
  std::unique_ptr<Listener> listener_;
  std::unique_ptr<Speaker> speaker_;

  Port* peer_ = nullptr;
  bool is_relaying_ = false;   // what this port hears goes to the peer undecoded
  bool is_listening_ = false;  // packets go through the jitter buffer
  AudioFrame heard_;

  // In
  SourceGuard guard_;
  bool is_connected_ = false;
  SequenceGuard sequence_;
  Unwrapper<uint16_t> sequence_unwrapper_;
  Unwrapper<uint32_t> timestamp_unwrapper_;
  ReceptionStats reception_;
  std::optional<EventReceiver> event_receiver_;
  bool is_event_relayed_ = false;
  uint64_t epoch_ = 0;
  int64_t lost_before_ = 0;
  int64_t last_packet_us_ = 0;
  bool is_silent_ = false;
  bool is_heard_ = false;  // RTP came from the remote
  Address learnt_rtcp_;

  // Out
  OutStream out_;
  std::optional<EventSender> event_sender_;
  bool is_sending_event_ = false;
  DtmfTone tone_{8000};
  int silence_due_ms_ = 0;
  uint32_t unproven_packets_ = 0;
  int64_t bridged_us_ = 0;
  std::array<Player*, kPlayersMax> players_{};
  size_t player_count_ = 0;
  std::array<Recorder*, kRecordersMax> recorders_{};
  size_t recorder_count_ = 0;

  RtcpSession rtcp_;
  uint64_t packets_received_ = 0;
  uint64_t bytes_received_ = 0;
  uint64_t bad_packets_ = 0;
  uint64_t wrong_source_ = 0;
  std::shared_ptr<SnapshotCell<PortStats>> stats_cell_;
};

}  // namespace tandem
