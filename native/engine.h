// The engine as its user sees it: make, set, join, ask, close, and batches of events. It prepares
// everything that costs memory or time, and hands it to the real-time thread ready-made.
// Knows nothing of Node. Control thread only, but for the notification, which comes from the
// engine's threads.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "clip.h"
#include "io_thread.h"
#include "player.h"
#include "port_pool.h"
#include "port_settings.h"
#include "realtime.h"
#include "recorder.h"

namespace tandem {

/// Refusal of a request. `code` is a row of src/core/errors.ts.
class EngineError final : public std::runtime_error {
 public:
  EngineError(const char* code, const std::string& problem)
      : std::runtime_error(problem), code_(code) {}
  const char* code() const { return code_; }

 private:
  const char* code_;
};

struct EngineOptions {
  int realtime_priority = 10;  // SCHED_FIFO, when permitted; 0: an ordinary thread
  PortPoolOptions ports;
  uint64_t clip_preload_bytes_max = 1 << 20;
  uint32_t events_max = 16384;  // not drained, before those that may be are dropped
  size_t descriptors_max = kDescriptorsMax;
};

/// Of the whole engine; counters since its start.
struct EngineStats {
  uint32_t ports = 0;                // in use now
  uint64_t events_dropped = 0;       // never a digit or an outcome
  uint64_t early_port_reuses = 0;    // before their quarantine was over
};

struct PortRequest {
  std::string address;  // empty: the pool's
  bool rtcp_mux = false;
  uint32_t ssrc = 0;    // 0: chosen
  std::optional<uint32_t> phase;
  uint16_t rtp_port = 0;  // exactly this one, quarantined or not; 0: any
};

struct PortMade {
  Handle handle = 0;
  uint16_t rtp_port = 0;
  uint16_t rtcp_port = 0;
};

struct PlayerRequest {
  Handle port = 0;
  Handle clip = 0;
  std::optional<TonePlan> tone;
  std::string digits;
  int loop = 1;  // 0: for ever
  int64_t offset_ms = 0;
};

class Engine {
 public:
  /// `notify` is called from other threads, at most once until drain() was called.
  Engine(const EngineOptions& options, std::function<void()> notify);
  ~Engine();

  const char* backend() const { return realtime_->backend(); }
  Realtime::Scheduling scheduling() const { return scheduling_; }

  PortMade create_port(const PortRequest& request);
  Handle create_clip(const std::string& path, int64_t& duration_ms);
  Handle create_player(const PlayerRequest& request);
  Handle create_recorder(Handle port, const RecorderOptions& options);
  bool is_port(Handle handle) const;
  void set_port(Handle port, const PortSettings& settings);
  void pause_recorder(Handle recorder, bool paused);
  void connect(Handle a, Handle b);
  PortStats ask(Handle port) const;
  /// A handle that is gone already is no error: players and recorders end by themselves.
  void close(Handle handle);

  /// Takes up to out.size() events. Call until it returns less than that.
  size_t drain(std::span<EventRecord> out);
  EngineStats stats() const;

 private:
  enum class Kind : uint8_t { kFree, kPort, kClip, kPlayer, kRecorder };

  struct Slot {
    uint32_t generation = 0;
    Kind kind = Kind::kFree;
    Handle owner = 0;  // port of a player or recorder
    std::shared_ptr<const Clip> clip;
    // Of a port:
    Port* port = nullptr;  // lives as long as the slot is a port's: until `kClose` is carried out
    bool is_watched = false;
    std::shared_ptr<const SnapshotCell<PortStats>> stats;
    uint16_t rtp_port = 0;
    std::optional<PortSettings> settings;
    Handle peer = 0;
    uint32_t players = 0;
    uint32_t recorders = 0;
    std::optional<ListenerOptions> listener;
    std::optional<SpeakerOptions> speaker;
  };

  Slot* find(Handle handle, Kind kind);
  const Slot* find(Handle handle, Kind kind) const;
  Slot& need(Handle handle, Kind kind, const char* what);
  PortPair take_sockets(const PortRequest& request, int64_t now_us);
  Handle reserve(Kind kind);
  void release(Handle handle);
  void release_owned(Handle handle);
  void push(Command&& command);

  bool needs_listener(const Slot& slot) const;
  bool needs_speaker(const Slot& slot) const;
  int rate_hz(const Slot& slot) const;
  std::unique_ptr<PortChange> plan(Slot& slot);
  void equip(Handle port);
  void equip_pair(Handle port);
  std::shared_ptr<const std::vector<uint8_t>> silence(CodecId codec, int ptime_ms);

  EngineOptions options_;
  std::function<void()> notify_;
  std::atomic<bool> pending_{false};
  PortPool pool_;
  std::mt19937_64 random_;
  std::string cname_;
  std::deque<Slot> slots_;  // grows; references stay good
  std::deque<uint32_t> free_;
  std::map<std::pair<CodecId, int>, std::shared_ptr<const std::vector<uint8_t>>> silences_;
  std::unique_ptr<IoThread> io_;
  std::unique_ptr<Realtime> realtime_;
  Realtime::Scheduling scheduling_ = Realtime::Scheduling::kNormal;
};

}  // namespace tandem
