// What has a handle or travels between threads: built on the control thread, used on the real-time
// thread, freed on the I/O thread. The real-time thread only moves owning pointers.
#pragma once

#include <memory>

#include "event.h"

namespace tandem {

class Resource {
 public:
  Resource() = default;
  virtual ~Resource() = default;
  Resource(const Resource&) = delete;
  Resource& operator=(const Resource&) = delete;
};

enum class CommandKind : uint8_t {
  kNone,
  kAddPort,       // object: Port
  kChangePort,    // a: port, object: PortChange
  kConnect,       // a, b: ports; b 0 unbridges
  kAddPlayer,     // a: player, b: port, object: Player
  kAddRecorder,   // a: recorder, b: port, object: Recorder
  kPauseRecorder, // a: recorder, flag
  kClose,         // a
  kStop,
};

/// One step asked of the real-time thread. Moved through a ring; never copied.
struct Command {
  CommandKind kind = CommandKind::kNone;
  Handle a = 0;
  Handle b = 0;
  bool flag = false;
  std::unique_ptr<Resource> object;
};

}  // namespace tandem
