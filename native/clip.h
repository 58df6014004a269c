// A WAV file to be played: whole in memory when small, else read ahead block by block on the I/O
// thread, once for each player. Opening blocks: control thread.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "file.h"
#include "io_thread.h"
#include "queue.h"

namespace tandem {

struct Clip {
  std::string path;
  int rate_hz = 8000;
  int64_t frames = 0;
  bool is_loaded = false;
  std::vector<int16_t> samples;  // when is_loaded
  int64_t duration_ms() const { return frames * 1000 / rate_hz; }

  /// Null when the file is not a WAV we play; `problem` says why.
  static std::shared_ptr<const Clip> open(const std::string& path, uint64_t preload_bytes_max,
                                          std::string& problem);
};

/// Blocks of one clip on their way from disk to one player.
class ClipStream final : public IoTask {
 public:
  static constexpr size_t kBlockSamples = 960;

  struct Block {
    std::array<int16_t, kBlockSamples> samples;
    uint16_t count = 0;
  };

  /// `loops` 0: for ever.
  ClipStream(std::shared_ptr<const Clip> clip, int64_t begin_frame, int loops);

  bool pump(EventRing& events) override;

  // Real-time thread:
  bool take(Block& out) { return ring_.pop(out); }
  /// All blocks have been put in the ring (seen before the last take() that failed means ended).
  bool has_ended() const { return has_ended_.load(std::memory_order_acquire); }
  bool has_failed() const { return has_failed_.load(std::memory_order_acquire); }
  void abandon() { is_abandoned_.store(true, std::memory_order_release); }

 private:
  static constexpr uint32_t kBlocks = 64;

  std::shared_ptr<const Clip> clip_;
  int64_t begin_frame_;
  int loops_left_;
  bool is_endless_;
  bool read_any_ = false;
  WavReader reader_;
  SpscRing<Block> ring_{kBlocks};
  std::atomic<bool> has_ended_{false};
  std::atomic<bool> has_failed_{false};
  std::atomic<bool> is_abandoned_{false};
};

}  // namespace tandem
