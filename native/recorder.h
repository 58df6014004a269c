// Recording one leg into a WAV file: the real-time half (what is heard and said, limits, silence)
// and the I/O half (writing, trimming, finishing), joined by a ring of 20 ms blocks.
// The file on disk is valid at every moment. Trimmed silence at the start is never written; at the
// end it is cut off when the recording finishes.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "audio.h"
#include "file.h"
#include "io_thread.h"
#include "resource.h"
#include "tone.h"

namespace tandem {

enum class RecordSource : uint8_t { kIn = 0, kOut = 1, kBoth = 2 };

struct RecorderOptions {
  std::string path;
  int channels = 1;  // 2: left what the leg says to us (in), right what it is told (out)
  RecordSource source = RecordSource::kIn;
  int rate_hz = 8000;
  int64_t max_ms = 0;      // 0: no limit
  int64_t silence_ms = 0;  // 0: off
  bool trim_silence = false;
};

/// The way of blocks to disk.
class RecordFeed final : public IoTask {
 public:
  struct Block {
    std::array<int16_t, 2 * 320> samples;  // 20 ms, 16 kHz, two channels
    uint16_t count = 0;
    bool has_voice = false;
  };

  explicit RecordFeed(const RecorderOptions& options);
  /// Control thread, before anything else; `problem` says why not.
  bool open(std::string& problem);

  // Real-time thread:
  void put(const Block& block);
  void finish(RecordReason reason) {
    reason_.store(static_cast<int>(reason), std::memory_order_release);
  }
  bool has_failed() const { return has_failed_.load(std::memory_order_acquire); }

  bool pump(EventRing& events) override;

  Handle handle = 0;

 private:
  /// 5 s: how long a disk may hang before audio is replaced by silence.
  static constexpr uint32_t kBlocks = 256;
  static constexpr int kRunning = -1;
  static constexpr size_t kLeadBlocks = 5;   // 100 ms kept before the first voice
  static constexpr int kTailBlocks = 10;     // 200 ms kept after the last

  void write(const Block& block);
  void write_raw(std::span<const int16_t> samples);
  void finish_file(EventRing& events, int reason);

  RecorderOptions options_;
  WavWriter writer_;
  SpscRing<Block> ring_{kBlocks};
  std::atomic<int> reason_{kRunning};
  std::atomic<bool> has_failed_{false};
  std::atomic<uint32_t> missed_{0};  // blocks the ring had no room for
  std::vector<Block> lead_;
  bool has_begun_ = false;
  int64_t keep_frames_ = 0;
  int tail_left_ = 0;
};

class Recorder final : public Resource {
 public:
  Recorder(const RecorderOptions& options, std::shared_ptr<RecordFeed> feed);
  ~Recorder() override;

  Handle handle = 0;
  RecordSource source() const { return source_; }
  void pause(bool paused) { is_paused_ = paused; }

  void hear(const AudioFrame& frame);  // from the leg
  void say(const AudioFrame& frame);   // toward the leg
  /// Once a tick of the leg, after hear(). False when the recording has ended by itself; finish()
  /// has then been called.
  bool step();
  /// Ends it; the I/O thread completes the file and reports.
  void finish(RecordReason reason);

 private:
  static constexpr size_t kWaitingSamples = 320 * 6;

  RecordSource source_;
  int channels_;
  int64_t max_samples_;
  int64_t silence_ms_;
  std::shared_ptr<RecordFeed> feed_;
  RateInput in_;
  RateInput out_;
  SampleFifo<kWaitingSamples> heard_;
  SampleFifo<kWaitingSamples> said_;
  Energy energy_;
  int64_t samples_ = 0;
  bool is_paused_ = false;
  bool is_finished_ = false;
};

}  // namespace tandem
