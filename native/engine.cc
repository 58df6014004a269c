// The control side of the engine; see engine.h. What a port is equipped with: engine_plan.cc.
#include "engine.h"

#include <cstring>

#include "clock.h"

namespace tandem {
namespace {

/// As many as the real-time thread's table has entries.
constexpr uint32_t kSlotsMax = kObjectsMax;

constexpr char kUnwatched[] = "a media socket cannot be watched";

/// A random canonical name (RFC 7022 §4.2: 96 random bits, here in hexadecimal).
std::string make_cname(std::mt19937_64& random) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string name;
  for (int i = 0; i < 24; i++) name += kDigits[random() & 15];
  return name;
}

}  // namespace

Engine::Engine(const EngineOptions& options, std::function<void()> notify)
    : options_(options),
      notify_(std::move(notify)),
      pool_(options.ports),
      random_(std::random_device{}()),
      cname_(make_cname(random_)),
      slots_(1) {  // slot 0 is never used, so that no handle is 0
  auto reactor = make_epoll_reactor(options.descriptors_max);
  if (reactor == nullptr) throw EngineError("MEDIA_UNAVAILABLE", "the kernel refuses epoll");
  io_ = std::make_unique<IoThread>(pending_, notify_);
  realtime_ = std::make_unique<Realtime>(std::move(reactor), *io_, options.events_max, pending_,
                                         notify_);
  io_->start();
  scheduling_ = realtime_->start(options.realtime_priority);
}

Engine::~Engine() {
  realtime_->stop();
  io_->stop();
}

const Engine::Slot* Engine::find(Handle handle, Kind kind) const {
  const uint32_t index = handle_index(handle);
  if (index == 0 || index >= slots_.size()) return nullptr;
  const Slot& slot = slots_[index];
  return slot.kind == kind && make_handle(index, slot.generation) == handle ? &slot : nullptr;
}

Engine::Slot* Engine::find(Handle handle, Kind kind) {
  return const_cast<Slot*>(std::as_const(*this).find(handle, kind));
}

Engine::Slot& Engine::need(Handle handle, Kind kind, const char* what) {
  Slot* const slot = find(handle, kind);
  if (slot == nullptr) {
    const std::string problem = std::string("no such ") + what + ": " + std::to_string(handle);
    throw EngineError("MEDIA_COMMAND", problem);
  }
  return *slot;
}

Handle Engine::reserve(Kind kind) {
  uint32_t index = static_cast<uint32_t>(slots_.size());
  if (!free_.empty()) {
    index = free_.front();
    free_.pop_front();
  } else if (index < kSlotsMax) {
    slots_.emplace_back();
  } else {
    throw EngineError("MEDIA_COMMAND", "too many media objects");
  }
  Slot& slot = slots_[index];
  const uint32_t generation = slot.generation + 1;
  slot = Slot();
  slot.generation = generation;
  slot.kind = kind;
  return make_handle(index, generation);
}

void Engine::release(Handle handle) {
  Slot& slot = slots_[handle_index(handle)];
  const uint32_t generation = slot.generation;
  slot = Slot();
  slot.generation = generation;
  free_.push_back(handle_index(handle));
}

/// A player or recorder is gone: its port has one less.
void Engine::release_owned(Handle handle) {
  const Slot& slot = slots_[handle_index(handle)];
  if (make_handle(handle_index(handle), slot.generation) != handle) return;
  if (slot.kind != Kind::kPlayer && slot.kind != Kind::kRecorder) return;
  if (Slot* const port = find(slot.owner, Kind::kPort)) {
    (slot.kind == Kind::kPlayer ? port->players : port->recorders)--;
  }
  release(handle);
}

void Engine::push(Command&& command) {
  if (!realtime_->push(std::move(command))) {
    throw EngineError("MEDIA_COMMAND", "the media thread does not keep up");
  }
}

/// Sockets that the real-time thread can watch.
PortPair Engine::take_sockets(const PortRequest& request, int64_t now_us) {
  auto sockets = request.rtp_port == 0
                     ? pool_.take(request.address, request.rtcp_mux, now_us)
                     : pool_.take_exactly(request.rtp_port, request.address, request.rtcp_mux);
  if (!sockets && pool_.refusal() != 0) {
    const std::string problem = std::strerror(pool_.refusal());
    throw EngineError("MEDIA_UNAVAILABLE", "no socket for a media port: " + problem);
  }
  if (!sockets) {
    throw EngineError("PORTS_EXHAUSTED", std::to_string(options_.ports.port_min) + "-" +
                                             std::to_string(options_.ports.port_max));
  }
  const Reactor& reactor = realtime_->reactor();
  if (!reactor.has_room(sockets->rtp.fd()) ||
      (sockets->rtcp.is_open() && !reactor.has_room(sockets->rtcp.fd()))) {
    pool_.give_back(sockets->rtp_port, now_us);
    throw EngineError("MEDIA_UNAVAILABLE", kUnwatched);
  }
  return std::move(*sockets);
}

PortMade Engine::create_port(const PortRequest& request) {
  const int64_t now_us = steady_now_us();
  PortPair sockets = take_sockets(request, now_us);
  PortMade made;
  made.rtp_port = sockets.rtp_port;
  made.rtcp_port = sockets.rtcp_port;
  PortIdentity identity;
  identity.ssrc = request.ssrc != 0 ? request.ssrc : static_cast<uint32_t>(random_());
  identity.cname = cname_;
  identity.seed = random_();
  identity.phase = request.phase;
  try {
    made.handle = reserve(Kind::kPort);
    auto port = std::make_unique<Port>(std::move(sockets), identity, now_us);
    port->handle = made.handle;
    Slot& slot = slots_[handle_index(made.handle)];
    slot.port = port.get();
    slot.stats = port->stats();
    slot.rtp_port = made.rtp_port;
    push({CommandKind::kAddPort, made.handle, 0, false, std::move(port)});
  } catch (const EngineError&) {
    pool_.give_back(made.rtp_port, now_us);
    if (made.handle != 0) release(made.handle);
    throw;
  }
  return made;
}

Handle Engine::create_clip(const std::string& path, int64_t& duration_ms) {
  std::string problem;
  auto clip = Clip::open(path, options_.clip_preload_bytes_max, problem);
  if (clip == nullptr) throw EngineError("MEDIA_COMMAND", problem);
  duration_ms = clip->duration_ms();
  const Handle handle = reserve(Kind::kClip);
  slots_[handle_index(handle)].clip = std::move(clip);
  return handle;
}

Handle Engine::create_player(const PlayerRequest& request) {
  Slot& port = need(request.port, Kind::kPort, "port");
  if (port.players >= Port::kPlayersMax) {
    throw EngineError("MEDIA_COMMAND", "too many players on one port");
  }
  std::unique_ptr<Player> player;
  std::shared_ptr<ClipStream> stream;
  if (request.clip != 0) {
    const Slot& clip = need(request.clip, Kind::kClip, "clip");
    player = Player::of_clip(clip.clip, request.loop, request.offset_ms, stream);
  } else if (request.tone) {
    player = Player::of_tone(*request.tone);
  } else {
    player = Player::of_digits(request.digits);
    if (player == nullptr) throw EngineError("MEDIA_COMMAND", "digits cannot be played");
  }
  const Handle handle = reserve(Kind::kPlayer);
  player->handle = handle;
  slots_[handle_index(handle)].owner = request.port;
  port.players++;
  try {
    equip_pair(request.port);
    push({CommandKind::kAddPlayer, handle, request.port, false, std::move(player)});
  } catch (const EngineError&) {
    release_owned(handle);
    throw;
  }
  if (stream != nullptr) io_->add(std::move(stream));
  return handle;
}

Handle Engine::create_recorder(Handle port_handle, const RecorderOptions& options) {
  Slot& port = need(port_handle, Kind::kPort, "port");
  if (port.recorders >= Port::kRecordersMax) {
    throw EngineError("MEDIA_COMMAND", "too many recorders on one port");
  }
  auto feed = std::make_shared<RecordFeed>(options);
  std::string problem;
  if (!feed->open(problem)) throw EngineError("MEDIA_COMMAND", problem);
  const Handle handle = reserve(Kind::kRecorder);
  feed->handle = handle;
  auto recorder = std::make_unique<Recorder>(options, feed);
  recorder->handle = handle;
  slots_[handle_index(handle)].owner = port_handle;
  port.recorders++;
  try {
    equip_pair(port_handle);
    push({CommandKind::kAddRecorder, handle, port_handle, false, std::move(recorder)});
  } catch (const EngineError&) {
    release_owned(handle);
    throw;
  }
  io_->add(std::move(feed));
  return handle;
}

bool Engine::is_port(Handle handle) const { return find(handle, Kind::kPort) != nullptr; }

void Engine::set_port(Handle handle, const PortSettings& settings) {
  Slot& slot = need(handle, Kind::kPort, "port");
  if (!slot.is_watched && !slot.port->attend(realtime_->reactor())) {
    throw EngineError("MEDIA_UNAVAILABLE", kUnwatched);
  }
  slot.is_watched = true;
  slot.settings = settings;
  auto change = plan(slot);
  change->has_settings = true;
  change->settings = settings;
  change->silence = silence(settings.codec, settings.ptime_ms);
  push({CommandKind::kChangePort, handle, 0, false, std::move(change)});
  if (slot.peer != 0) equip(slot.peer);
}

void Engine::pause_recorder(Handle recorder, bool paused) {
  need(recorder, Kind::kRecorder, "port or recorder");
  push({CommandKind::kPauseRecorder, recorder, 0, paused, nullptr});
}

void Engine::connect(Handle a, Handle b) {
  Slot& first = need(a, Kind::kPort, "port");
  Slot* const second = b == 0 ? nullptr : &need(b, Kind::kPort, "port");
  if (a == b) throw EngineError("MEDIA_COMMAND", "a port cannot be joined to itself");
  if (Slot* const before = find(first.peer, Kind::kPort)) before->peer = 0;
  first.peer = b;
  if (second != nullptr) {
    Slot* const before = find(second->peer, Kind::kPort);
    if (before != nullptr && before != &first) before->peer = 0;
    second->peer = a;
  }
  equip_pair(a);
  push({CommandKind::kConnect, a, b, false, nullptr});
}

PortStats Engine::ask(Handle handle) const {
  const Slot* const slot = find(handle, Kind::kPort);
  if (slot == nullptr) {
    throw EngineError("MEDIA_COMMAND", "no such port: " + std::to_string(handle));
  }
  return slot->stats->load();
}

void Engine::close(Handle handle) {
  const uint32_t index = handle_index(handle);
  if (index == 0 || index >= slots_.size()) return;
  Slot& slot = slots_[index];
  if (slot.kind == Kind::kFree || make_handle(index, slot.generation) != handle) return;
  if (slot.kind == Kind::kClip) {
    release(handle);  // players of it hold the samples
    return;
  }
  push({CommandKind::kClose, handle, 0, false, nullptr});
  // Players and recorders live until their last event has been drained.
  if (slot.kind != Kind::kPort) return;
  if (Slot* const peer = find(slot.peer, Kind::kPort)) peer->peer = 0;
  pool_.give_back(slot.rtp_port, steady_now_us());
  release(handle);
}

size_t Engine::drain(std::span<EventRecord> out) {
  // Reset before reading: an event posted while we read makes a new notification.
  pending_.exchange(false, std::memory_order_acq_rel);
  size_t count = 0;
  for (EventRing* const ring : {&realtime_->events(), &io_->events()}) {
    while (count < out.size() && ring->pop(out[count])) {
      const auto type = static_cast<EventType>(out[count].type);
      if (type == EventType::kPlayDone || type == EventType::kRecordDone) {
        release_owned(static_cast<Handle>(out[count].handle));
      }
      count++;
    }
  }
  return count;
}

EngineStats Engine::stats() const {
  EngineStats out;
  out.ports = pool_.in_use();
  out.events_dropped = realtime_->events_dropped() + io_->events_dropped();
  out.early_port_reuses = pool_.early_reuses();
  return out;
}

}  // namespace tandem
