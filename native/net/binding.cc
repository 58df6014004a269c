// The only file of `net` that knows Node: UDP sockets on its event loop. Exports the class
// UdpSocket; its twin is src/sip/udp-socket.ts.
//
// Each turn of the loop a socket receives one batch at most, so that a flood starves nobody: what
// is left waits in the kernel, and the loop comes back. A datagram costs one call and one string.
// The batch is one callback scope: what it queued (microtasks, ticks) runs before the loop goes on.
// An exception of a callback is an uncaught one; if a handler lets the process live, the datagrams
// behind it are delivered still.
#include <napi.h>
#include <net/if.h>
#include <uv.h>

#include <array>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>

#include "net/udp_socket.h"

namespace tandem {
namespace {

/// Addresses as JavaScript strings, made once for as long as no other source takes their place.
/// Sources can be forged: the place is chosen by the address alone and the last comer has it.
class SourceNames {
 public:
  napi_value of(Napi::Env env, const Address& source) {
    Address key = source;
    key.set_port(0);
    Entry& entry = entries_[place_of(key)];
    const bool is_known =
        entry.key.is_set() && std::memcmp(entry.key.data(), key.data(), key.size()) == 0;
    if (!is_known) {
      entry.name = Napi::Reference<Napi::String>::New(Napi::String::New(env, ip_text(key)), 1);
      entry.key = key;
    }
    return entry.name.Value();
  }

 private:
  static constexpr size_t kPlaces = 256;
  struct Entry {
    Address key;
    Napi::Reference<Napi::String> name;
  };

  static size_t place_of(const Address& key) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(key.data());
    uint32_t hash = 2'166'136'261;  // FNV-1a
    for (socklen_t i = 0; i < key.size(); i++) hash = (hash ^ bytes[i]) * 16'777'619;
    return (hash ^ (hash >> 16)) % kPlaces;
  }

  std::array<Entry, kPlaces> entries_;
};

/// What all sockets of one Node environment share; the loop runs one at a time.
struct Shared {
  explicit Shared(Napi::Env env) : context(env, "tandem UDP socket") {}

  Napi::AsyncContext context;
  DatagramBatch batch;
  SourceNames names;
  std::array<char, DatagramBatch::kBytesMax + 1> outgoing;
};

class Socket;

/// A descriptor that the loop watches. Its memory is the loop's until it is closed, and the
/// environment waits for that when it ends.
struct Watch {
  uv_poll_t poll{};
  napi_async_cleanup_hook_handle hook = nullptr;
  Socket* owner = nullptr;  // none once it is closing

  void close() {
    owner = nullptr;
    uv_close(reinterpret_cast<uv_handle_t*>(&poll), [](uv_handle_t* handle) {
      const std::unique_ptr<Watch> self(static_cast<Watch*>(handle->data));
      napi_remove_async_cleanup_hook(self->hook);
    });
  }
};

class Socket final : public Napi::ObjectWrap<Socket> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "UdpSocket",
                       {InstanceMethod("send", &Socket::send),
                        InstanceMethod("close", &Socket::close)});
  }

  explicit Socket(const Napi::CallbackInfo& info);

 private:
  void send(const Napi::CallbackInfo& info);
  void close(const Napi::CallbackInfo&) { shut(); }

  void watch();
  void listen();
  void receive();
  void deliver(size_t i);
  void call(const Napi::FunctionReference& callback, std::initializer_list<napi_value> arguments);
  void shut();

  std::optional<UdpSocket> socket_;  // none once it is closed
  Watch* watch_ = nullptr;
  Shared& shared_;
  Napi::FunctionReference datagram_;
  Napi::FunctionReference failed_;
};

class NetAddon final : public Napi::Addon<NetAddon> {
 public:
  NetAddon(Napi::Env env, Napi::Object exports) : shared(env) {
    exports.Set("UdpSocket", Socket::define(env));
  }

  Shared shared;
};

std::string name_of(int error) { return uv_err_name(uv_translate_sys_error(error)); }

/// new UdpSocket(address, port, receiveBufferBytes, datagram, failed)
Socket::Socket(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<Socket>(info), shared_(info.Env().GetInstanceData<NetAddon>()->shared) {
  const std::string ip = info[0].As<Napi::String>();
  const auto port = static_cast<uint16_t>(info[1].As<Napi::Number>().Uint32Value());
  datagram_ = Napi::Persistent(info[3].As<Napi::Function>());
  failed_ = Napi::Persistent(info[4].As<Napi::Function>());
  try {
    socket_.emplace(ip, port, info[2].As<Napi::Number>().Int32Value());
    const Address local = socket_->local();
    Value().Set("address", ip_text(local));
    Value().Set("port", static_cast<double>(local.port()));
    watch();
  } catch (const SocketError& refusal) {
    // In the words of node:net, which operators know: "bind EADDRINUSE 127.0.0.1:5060".
    const std::string code = name_of(refusal.error);
    const std::string at = port == 0 ? ip : ip + ":" + std::to_string(port);
    Napi::Error error = Napi::Error::New(Env(), std::string(refusal.call) + " " + code + " " + at);
    error.Set("code", code);
    throw error;
  }
}

void Socket::watch() {
  uv_loop_t* loop = nullptr;
  napi_get_uv_event_loop(Env(), &loop);
  auto watch = std::make_unique<Watch>();
  const int problem = uv_poll_init(loop, &watch->poll, socket_->descriptor());
  if (problem != 0) throw SocketError{"poll", -problem};
  watch->poll.data = watch.get();
  watch->owner = this;
  napi_add_async_cleanup_hook(
      Env(),
      [](napi_async_cleanup_hook_handle, void* data) {
        Socket* owner = static_cast<Watch*>(data)->owner;
        if (owner != nullptr) owner->shut();
      },
      watch.get(), &watch->hook);
  watch_ = watch.release();
  listen();
  Ref();  // an open socket has work to do whether or not anybody holds it
}

void Socket::listen() {
  uv_poll_start(&watch_->poll, UV_READABLE, [](uv_poll_t* poll, int status, int) {
    Socket& socket = *static_cast<Watch*>(poll->data)->owner;
    // An error that waits on the socket stops the watch; receiving takes it off the socket.
    if (status < 0) socket.listen();
    socket.receive();
  });
}

void Socket::receive() {
  const Napi::HandleScope handles(Env());
  // What is called may close and drop this socket.
  [[maybe_unused]] const Napi::Object self = Value();
  const int count = socket_->receive(shared_.batch);
  if (count == 0) return;
  const Napi::CallbackScope callbacks(Env(), shared_.context);
  if (count < 0) call(failed_, {Napi::String::New(Env(), "recvmsg " + name_of(-count))});
  for (int i = 0; i < count && socket_.has_value(); i++) deliver(i);
}

void Socket::deliver(size_t i) {
  const Napi::Env env = Env();
  const std::string_view text = shared_.batch.text(i);
  const Address& source = shared_.batch.source(i);
  napi_value value = nullptr;
  napi_create_string_latin1(env, text.data(), text.size(), &value);
  call(datagram_, {value, shared_.names.of(env, source), Napi::Number::New(env, source.port())});
}

void Socket::call(const Napi::FunctionReference& callback,
                  std::initializer_list<napi_value> arguments) {
  const napi_status status = napi_call_function(Env(), Env().Undefined(), callback.Value(),
                                                arguments.size(), arguments.begin(), nullptr);
  napi_value thrown = nullptr;
  if (status != napi_pending_exception) return;
  if (napi_get_and_clear_last_exception(Env(), &thrown) != napi_ok) return;
  napi_fatal_exception(Env(), thrown);
}

/// send(text, port, address)
void Socket::send(const Napi::CallbackInfo& info) {
  if (!socket_.has_value()) return;
  std::array<char, INET6_ADDRSTRLEN + IF_NAMESIZE> ip;
  size_t size = 0;
  uint32_t port = 0;
  auto& text = shared_.outgoing;
  napi_get_value_string_latin1(Env(), info[0], text.data(), text.size(), &size);
  napi_get_value_uint32(Env(), info[1], &port);
  napi_get_value_string_latin1(Env(), info[2], ip.data(), ip.size(), nullptr);
  socket_->send({text.data(), size}, parse_ip(ip.data(), static_cast<uint16_t>(port)));
}

void Socket::shut() {
  if (watch_ == nullptr) return;
  watch_->close();  // before the descriptor, whose number may be another's at once
  watch_ = nullptr;
  socket_.reset();
  datagram_.Reset();
  failed_.Reset();
  Unref();
}

}  // namespace

NODE_API_NAMED_ADDON(tandem_net, NetAddon)

}  // namespace tandem
