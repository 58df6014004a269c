// The only file that knows Node: the addon's exports create, set, connect, ask, close and start.
// Its twin is src/media/binding.ts. Arguments are plain data; what is missing or of a wrong type
// is refused with MEDIA_COMMAND, never guessed. What every call needs, settings and figures of a
// port, are arrays in a fixed order (src/media/packed.ts).
//
// Events: one coalesced call with an ArrayBuffer of 32-byte records that is used again for the
// next batch, so the callback reads it before it returns. One engine for each Node environment,
// stopped by its clean-up hook.
#include <napi.h>

#include <memory>
#include <string>

#include "clock.h"
#include "engine.h"

namespace tandem {
namespace {

constexpr size_t kBatchEvents = 512;

Napi::Error error(Napi::Env env, const char* code, const std::string& problem) {
  Napi::Error thrown = Napi::Error::New(env, problem);
  thrown.Set("code", code);
  return thrown;
}

Napi::Error bad(Napi::Env env, const std::string& problem) {
  return error(env, "MEDIA_COMMAND", problem);
}

/// Reads the members of one plain object; names the member when it is not what it must be.
class Fields {
 public:
  Fields(const Napi::Value& value, const char* what) : env_(value.Env()) {
    if (!value.IsObject()) throw bad(env_, std::string(what) + " must be an object");
    object_ = value.As<Napi::Object>();
  }

  bool has(const char* name) const {
    const Napi::Value value = object_.Get(name);
    return !value.IsUndefined() && !value.IsNull();
  }
  double number(const char* name, double min, double max) const {
    const Napi::Value value = object_.Get(name);
    const double out = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
    if (!value.IsNumber() || !(out >= min && out <= max)) {
      throw bad(env_, std::string(name) + " must be a number from " + std::to_string(min) + " to " +
                          std::to_string(max));
    }
    return out;
  }
  template <typename T>
  T integer(const char* name, int64_t min, int64_t max) const {
    return static_cast<T>(static_cast<int64_t>(
        number(name, static_cast<double>(min), static_cast<double>(max))));
  }
  bool boolean(const char* name) const {
    const Napi::Value value = object_.Get(name);
    if (!value.IsBoolean()) throw bad(env_, std::string(name) + " must be a boolean");
    return value.As<Napi::Boolean>().Value();
  }
  std::string text(const char* name) const {
    const Napi::Value value = object_.Get(name);
    if (!value.IsString()) throw bad(env_, std::string(name) + " must be a string");
    return value.As<Napi::String>().Utf8Value();
  }
  Fields object(const char* name) const { return Fields(object_.Get(name), name); }
  Napi::Value value(const char* name) const { return object_.Get(name); }
  Napi::Env env() const { return env_; }

 private:
  Napi::Env env_;
  Napi::Object object_;
};

constexpr int64_t kHandleMax = (int64_t{1} << 53) - 1;
constexpr int64_t kDayMs = 86'400'000;

Handle read_handle(const Napi::Value& value) {
  if (!value.IsNumber()) throw bad(value.Env(), "a handle must be a number");
  const double out = value.As<Napi::Number>().DoubleValue();
  if (!(out >= 0 && out <= static_cast<double>(kHandleMax))) {
    throw bad(value.Env(), "a handle must be a number");
  }
  return static_cast<Handle>(out);
}

/// Reads the elements of one array in their order: half the price of members by name. `name` is for
/// whoever reads the refusal.
class Elements {
 public:
  Elements(const Napi::Value& value, const char* what) : env_(value.Env()) {
    if (!value.IsArray()) throw bad(env_, std::string(what) + " must be an array");
    array_ = value.As<Napi::Array>();
  }

  Napi::Value next() { return array_.Get(at_++); }
  template <typename T>
  T integer(const char* name, int64_t min, int64_t max) {
    const Napi::Value value = next();
    const double out = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
    if (!(out >= static_cast<double>(min) && out <= static_cast<double>(max))) {
      throw bad(env_, std::string(name) + " must be a number from " + std::to_string(min) + " to " +
                          std::to_string(max));
    }
    return static_cast<T>(static_cast<int64_t>(out));
  }
  bool boolean(const char* name) {
    const Napi::Value value = next();
    if (!value.IsBoolean()) throw bad(env_, std::string(name) + " must be a boolean");
    return value.As<Napi::Boolean>().Value();
  }
  Napi::Env env() const { return env_; }

 private:
  Napi::Env env_;
  Napi::Array array_;
  uint32_t at_ = 0;
};

/// In the order of `packSettings` in src/media/packed.ts.
PortSettings read_settings(Elements in) {
  PortSettings out;
  const Napi::Value ip = in.next();
  const auto port = in.integer<uint16_t>("remote.port", 0, 65535);
  const auto rtcp_port = in.integer<uint16_t>("remote.rtcpPort", 0, 65535);
  out.rtcp_mux = in.boolean("remote.rtcpMux");
  if (!ip.IsNull()) {
    if (ip.IsString() && port != 0) {
      out.remote = Address::parse(ip.As<Napi::String>().Utf8Value(), port);
    }
    if (!out.remote.is_set()) throw bad(in.env(), "remote must be an IP literal and a port");
    out.remote_rtcp = out.remote;
    out.remote_rtcp.set_port(rtcp_port);
    if (out.remote.is_any()) out.remote = out.remote_rtcp = Address();
  }
  out.codec = in.integer<CodecId>("codec", 0, kCodecCount - 1);
  out.payload_type = in.integer<uint8_t>("payloadType", 0, 127);
  out.receive_payload_type = in.integer<uint8_t>("receivePayloadType", 0, 127);
  out.ptime_ms = in.integer<int>("ptimeMs", 10, 120);
  out.has_dtmf = in.boolean("dtmf");
  out.dtmf_payload_type = in.integer<uint8_t>("dtmf.payloadType", 0, 127);
  out.dtmf_receive_payload_type = in.integer<uint8_t>("dtmf.receivePayloadType", 0, 127);
  out.dtmf_clock_rate_hz = in.integer<int>("dtmf.clockRateHz", 8000, 48000);
  out.direction = in.integer<Direction>("direction", 0, 3);
  out.latch = in.integer<LatchMode>("latch", 0, 2);
  out.opus_bitrate_bps = in.integer<int>("opus.bitrate", 0, 510'000);
  out.opus_complexity = in.integer<int>("opus.complexity", 0, 10);
  out.opus_fec = in.boolean("opus.fec");
  out.opus_dtx = in.boolean("opus.dtx");
  out.jitter_min_ms = in.integer<int>("jitter.minMs", 0, 1000);
  out.jitter_max_ms = in.integer<int>("jitter.maxMs", out.jitter_min_ms, 2000);
  out.silent_timeout_ms = in.integer<int64_t>("silentTimeoutMs", 0, kDayMs);
  out.inband_dtmf = in.boolean("inbandDtmf");
  out.proven = in.boolean("proven");
  return out;
}

TonePlan read_tone(const Fields& in) {
  TonePlan plan;
  const Napi::Value hz = in.value("hz");
  if (!hz.IsArray()) throw bad(in.env(), "hz must be an array");
  const auto list = hz.As<Napi::Array>();
  if (list.Length() > plan.spec.hz.size()) throw bad(in.env(), "a tone has at most 2 frequencies");
  plan.is_silence = list.Length() == 0;
  for (uint32_t i = 0; i < list.Length(); i++) {
    const Napi::Value value = list.Get(i);
    const double each = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : 0;
    if (!(each >= 20 && each <= 3900)) throw bad(in.env(), "a frequency is from 20 to 3900 Hz");
    plan.spec.hz[i] = static_cast<float>(each);
  }
  plan.spec.on_ms = in.integer<int>("onMs", 1, kDayMs);
  plan.spec.off_ms = in.integer<int>("offMs", 0, kDayMs);
  plan.spec.level_dbov = static_cast<float>(in.number("levelDb", -90, 0));
  plan.spec.count = in.integer<int>("count", 0, 1'000'000);
  return plan;
}

PlayerRequest read_player(const Fields& in) {
  PlayerRequest out;
  out.port = read_handle(in.value("port"));
  out.clip = read_handle(in.value("clip"));
  if (in.has("tone")) out.tone = read_tone(in.object("tone"));
  if (in.has("digits")) out.digits = in.text("digits");
  out.loop = in.integer<int>("loop", 0, 1'000'000);
  out.offset_ms = in.integer<int64_t>("offsetMs", 0, kDayMs);
  return out;
}

RecorderOptions read_recorder(const Fields& in) {
  RecorderOptions out;
  out.path = in.text("path");
  out.channels = in.integer<int>("channels", 1, 2);
  const std::string source = in.text("source");
  if (source == "in") {
    out.source = RecordSource::kIn;
  } else if (source == "out") {
    out.source = RecordSource::kOut;
  } else if (source == "both") {
    out.source = RecordSource::kBoth;
  } else {
    throw bad(in.env(), "source must be in, out or both");
  }
  out.rate_hz = in.integer<int>("sampleRateHz", 8000, 16000);
  if (out.rate_hz != 8000 && out.rate_hz != 16000) {
    throw bad(in.env(), "sampleRateHz must be 8000 or 16000");
  }
  out.max_ms = in.integer<int64_t>("maxMs", 0, kDayMs);
  out.silence_ms = in.integer<int64_t>("silenceMs", 0, kDayMs);
  out.trim_silence = in.boolean("trimSilence");
  return out;
}

const char* name_of(Realtime::Scheduling scheduling) {
  switch (scheduling) {
    case Realtime::Scheduling::kFifo:
      return "fifo";
    case Realtime::Scheduling::kNice:
      return "nice";
    case Realtime::Scheduling::kNormal:
      break;
  }
  return "normal";
}

class Addon final : public Napi::Addon<Addon> {
 public:
  Addon(Napi::Env, Napi::Object exports) {
    DefineAddon(exports, {
                             InstanceMethod("start", &Addon::start, napi_enumerable),
                             InstanceMethod("create", &Addon::create, napi_enumerable),
                             InstanceMethod("set", &Addon::set, napi_enumerable),
                             InstanceMethod("connect", &Addon::connect, napi_enumerable),
                             InstanceMethod("ask", &Addon::ask, napi_enumerable),
                             InstanceMethod("close", &Addon::close, napi_enumerable),
                         });
  }
  ~Addon() { stop(); }

 private:
  Napi::Value start(const Napi::CallbackInfo& info);
  Napi::Value create(const Napi::CallbackInfo& info);
  Napi::Value set(const Napi::CallbackInfo& info);
  Napi::Value connect(const Napi::CallbackInfo& info);
  Napi::Value ask(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);

  Napi::Value create_port(const Fields& in);

  /// Runs `act` on the engine; refusals become errors with their code.
  template <typename Act>
  Napi::Value with_engine(const Napi::CallbackInfo& info, Act&& act) {
    if (engine_ == nullptr) throw error(info.Env(), "MEDIA_UNAVAILABLE", "start() was not called");
    try {
      return act(*engine_);
    } catch (const EngineError& refusal) {
      throw error(info.Env(), refusal.code(), refusal.what());
    }
  }

  static void deliver(napi_env env, napi_value callback, void* context, void* data);
  void stop();

  std::unique_ptr<Engine> engine_;
  napi_threadsafe_function notifier_ = nullptr;
  Napi::Reference<Napi::ArrayBuffer> batch_;
  EventRecord* records_ = nullptr;
};

Napi::Value Addon::start(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (engine_ != nullptr) throw bad(env, "start() was called before");
  const Fields in(info[0], "options");
  if (!info[1].IsFunction()) throw bad(env, "onEvents must be a function");
  EngineOptions options;
  options.realtime_priority = in.integer<int>("realtimePriority", 0, 99);
  options.ports.address = in.text("address");
  options.ports.port_min = in.integer<uint16_t>("portMin", 1024, 65535);
  options.ports.port_max = in.integer<uint16_t>("portMax", options.ports.port_min, 65535);
  options.ports.quarantine_us = in.integer<int64_t>("quarantineMs", 0, kDayMs) * 1000;
  options.clip_preload_bytes_max = in.integer<uint64_t>("clipPreloadBytesMax", 0, INT32_MAX);
  if (!Address::parse(options.ports.address, 0).is_set()) {
    throw bad(env, "address must be an IP literal");
  }

  auto batch = Napi::ArrayBuffer::New(env, kBatchEvents * sizeof(EventRecord));
  records_ = static_cast<EventRecord*>(batch.Data());
  batch_ = Napi::Persistent(batch);
  const napi_value name = Napi::String::New(env, "tandem media events");
  if (napi_create_threadsafe_function(env, info[1], nullptr, name, 0, 1, nullptr, nullptr, this,
                                      &Addon::deliver, &notifier_) != napi_ok) {
    throw bad(env, "no thread-safe function");
  }
  // Events alone do not keep the process: whoever owns the calls does.
  napi_unref_threadsafe_function(env, notifier_);
  // Hooks run last in, first out: the engine stops before its notifier is taken away.
  env.AddCleanupHook([this] { stop(); });
  try {
    engine_ = std::make_unique<Engine>(options, [this] {
      napi_call_threadsafe_function(notifier_, nullptr, napi_tsfn_nonblocking);
    });
  } catch (const EngineError& refusal) {
    throw error(env, refusal.code(), refusal.what());
  }
  Napi::Object out = Napi::Object::New(env);
  out.Set("backend", engine_->backend());
  out.Set("scheduling", name_of(engine_->scheduling()));
  return out;
}

void Addon::stop() {
  engine_.reset();
  if (notifier_ != nullptr) napi_release_threadsafe_function(notifier_, napi_tsfn_abort);
  notifier_ = nullptr;
}

/// JavaScript thread: everything that waits, in batches.
void Addon::deliver(napi_env raw_env, napi_value callback, void* context, void*) {
  auto& self = *static_cast<Addon*>(context);
  if (raw_env == nullptr || self.engine_ == nullptr) return;
  const Napi::Env env(raw_env);
  const Napi::Function on_events(env, callback);
  for (;;) {
    const size_t count = self.engine_->drain({self.records_, kBatchEvents});
    if (count == 0) return;
    try {
      on_events.Call({self.batch_.Value(), Napi::Number::New(env, static_cast<double>(count))});
    } catch (const Napi::Error& thrown) {
      napi_fatal_exception(env, thrown.Value());
    }
    if (self.engine_ == nullptr || count < kBatchEvents) return;
  }
}

Napi::Value Addon::create_port(const Fields& in) {
  PortRequest request;
  if (in.has("address")) request.address = in.text("address");
  request.rtcp_mux = in.boolean("rtcpMux");
  request.ssrc = in.integer<uint32_t>("ssrc", 0, UINT32_MAX);
  if (in.has("phase")) request.phase = in.integer<uint32_t>("phase", 0, kPhases - 1);
  if (in.has("rtpPort")) request.rtp_port = in.integer<uint16_t>("rtpPort", 0, 65535);
  const PortMade made = engine_->create_port(request);
  Napi::Object out = Napi::Object::New(in.env());
  out.Set("handle", static_cast<double>(made.handle));
  out.Set("rtpPort", static_cast<double>(made.rtp_port));
  out.Set("rtcpPort", static_cast<double>(made.rtcp_port));
  return out;
}

Napi::Value Addon::create(const Napi::CallbackInfo& info) {
  if (!info[0].IsString()) throw bad(info.Env(), "kind must be a string");
  const std::string kind = info[0].As<Napi::String>().Utf8Value();
  const Fields in(info[1], "options");
  return with_engine(info, [&](Engine& engine) -> Napi::Value {
    if (kind == "port") return create_port(in);
    Napi::Object out = Napi::Object::New(info.Env());
    if (kind == "clip") {
      int64_t duration_ms = 0;
      out.Set("handle", static_cast<double>(engine.create_clip(in.text("path"), duration_ms)));
      out.Set("durationMs", static_cast<double>(duration_ms));
    } else if (kind == "player") {
      out.Set("handle", static_cast<double>(engine.create_player(read_player(in))));
    } else if (kind == "recorder") {
      const Handle port = read_handle(in.value("port"));
      out.Set("handle", static_cast<double>(engine.create_recorder(port, read_recorder(in))));
    } else {
      throw bad(info.Env(), "unknown kind " + kind);
    }
    return out;
  });
}

Napi::Value Addon::set(const Napi::CallbackInfo& info) {
  const Handle handle = read_handle(info[0]);
  return with_engine(info, [&](Engine& engine) -> Napi::Value {
    if (engine.is_port(handle)) {
      engine.set_port(handle, read_settings(Elements(info[1], "settings")));
    } else {
      engine.pause_recorder(handle, Fields(info[1], "settings").boolean("paused"));
    }
    return info.Env().Undefined();
  });
}

Napi::Value Addon::connect(const Napi::CallbackInfo& info) {
  const Handle a = read_handle(info[0]);
  const Handle b = read_handle(info[1]);
  return with_engine(info, [&](Engine& engine) -> Napi::Value {
    engine.connect(a, b);
    return info.Env().Undefined();
  });
}

/// Handle 0 asks the engine itself.
Napi::Object tell(Napi::Env env, const EngineStats& stats) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("ports", static_cast<double>(stats.ports));
  out.Set("eventsDropped", static_cast<double>(stats.events_dropped));
  out.Set("earlyPortReuses", static_cast<double>(stats.early_port_reuses));
  return out;
}

/// In the order that `unpackStats` in src/media/packed.ts reads.
Napi::Array tell(Napi::Env env, const PortStats& stats) {
  Napi::Array out = Napi::Array::New(env);
  uint32_t at = 0;
  const auto number = [&](auto value) { out.Set(at++, static_cast<double>(value)); };
  number(stats.packets_received);
  number(stats.bytes_received);
  number(stats.packets_sent);
  number(stats.bytes_sent);
  number(stats.packets_lost);
  number(stats.jitter_ms);
  number(stats.round_trip_ms);
  number(stats.remote_loss_fraction);
  number(stats.late_discards);
  number(stats.concealed_ms);
  number(stats.jitter_buffer_ms);
  number(stats.bad_packets);
  number(stats.wrong_source);
  number(stats.mode);
  number(stats.last_packet_us == 0 ? -1 : (steady_now_us() - stats.last_packet_us) / 1000);
  number(stats.ssrc_in);
  number(stats.ssrc_out);
  out.Set(at, stats.peer.text());
  return out;
}

Napi::Value Addon::ask(const Napi::CallbackInfo& info) {
  const Handle handle = read_handle(info[0]);
  return with_engine(info, [&](Engine& engine) -> Napi::Value {
    if (handle == 0) return tell(info.Env(), engine.stats());
    return tell(info.Env(), engine.ask(handle));
  });
}

Napi::Value Addon::close(const Napi::CallbackInfo& info) {
  const Handle handle = read_handle(info[0]);
  return with_engine(info, [&](Engine& engine) -> Napi::Value {
    engine.close(handle);
    return info.Env().Undefined();
  });
}

}  // namespace

NODE_API_NAMED_ADDON(tandem_media, Addon)

}  // namespace tandem
