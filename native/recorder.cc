// Recording; see recorder.h.
#include "recorder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "mixer.h"

namespace tandem {
namespace {

constexpr float kVoiceDbov = -45.0f;

/// Cuts `path` to `frames` and corrects the two sizes of its 44-byte header (RIFF at 4, data at
/// 40). The header is corrected first: a crash in between leaves a valid file with a tail.
void cut_wav(const std::string& path, int64_t frames, int channels) {
  constexpr int64_t kHeaderBytes = 44;
  const FileHandle file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  std::array<uint8_t, kHeaderBytes> header{};
  if (!file.is_open()) return;
  if (pread(file.fd(), header.data(), header.size(), 0) != kHeaderBytes) return;
  if (std::memcmp(&header[36], "data", 4) != 0) return;
  const auto data_bytes = static_cast<uint32_t>(frames * channels * 2);
  const auto put = [&header](size_t at, uint32_t value) {
    for (size_t i = 0; i < 4; i++) header[at + i] = static_cast<uint8_t>(value >> (8 * i));
  };
  put(4, data_bytes + kHeaderBytes - 8);
  put(40, data_bytes);
  if (pwrite(file.fd(), header.data(), header.size(), 0) != kHeaderBytes) return;
  // A longer file than its header says still plays, so a refused cut is no failure.
  if (ftruncate(file.fd(), kHeaderBytes + data_bytes) != 0) return;
}

}  // namespace

RecordFeed::RecordFeed(const RecorderOptions& options) : options_(options) {
  lead_.reserve(kLeadBlocks + 1);
}

bool RecordFeed::open(std::string& problem) {
  const FileError error = writer_.open(options_.path.c_str(), options_.rate_hz, options_.channels);
  if (error == FileError::kNone) return true;
  problem = options_.path + " cannot be written: " + std::strerror(errno);
  return false;
}

void RecordFeed::put(const Block& block) {
  if (!ring_.push(block)) missed_.fetch_add(1, std::memory_order_relaxed);
}

bool RecordFeed::pump(EventRing& events) {
  // Read before the ring is emptied: every block put before finish() is then seen.
  const int reason = reason_.load(std::memory_order_acquire);
  Block block;
  while (ring_.pop(block)) write(block);
  // Time that was lost to a slow disk stays in the recording, as silence.
  for (uint32_t missed = missed_.exchange(0, std::memory_order_relaxed); missed > 0; missed--) {
    block.samples.fill(0);
    block.count = static_cast<uint16_t>(options_.rate_hz / 50 * options_.channels);
    block.has_voice = false;
    write(block);
  }
  if (reason == kRunning) return true;
  finish_file(events, reason);
  return false;
}

void RecordFeed::write(const Block& block) {
  const std::span<const int16_t> samples = std::span(block.samples).first(block.count);
  if (!options_.trim_silence) {
    write_raw(samples);
    return;
  }
  if (!has_begun_ && !block.has_voice) {
    lead_.push_back(block);
    if (lead_.size() > kLeadBlocks) lead_.erase(lead_.begin());
    return;
  }
  if (!has_begun_) {
    has_begun_ = true;
    for (const Block& lead : lead_) write_raw(std::span(lead.samples).first(lead.count));
    lead_.clear();
  }
  write_raw(samples);
  if (block.has_voice) tail_left_ = kTailBlocks;
  if (tail_left_ > 0) {
    tail_left_--;
    keep_frames_ = writer_.frames();
  }
}

void RecordFeed::write_raw(std::span<const int16_t> samples) {
  if (has_failed_.load(std::memory_order_relaxed)) return;
  if (writer_.write(samples) != FileError::kNone) {
    has_failed_.store(true, std::memory_order_release);
  }
}

void RecordFeed::finish_file(EventRing& events, int reason) {
  int64_t frames = writer_.frames();
  if (writer_.close() != FileError::kNone) has_failed_.store(true, std::memory_order_relaxed);
  if (options_.trim_silence && keep_frames_ < frames) {
    frames = keep_frames_;
    cut_wav(options_.path, frames, options_.channels);
  }
  const bool has_failed = has_failed_.load(std::memory_order_relaxed);
  const int told = has_failed ? static_cast<int>(RecordReason::kFailed) : reason;
  events.post(EventType::kRecordDone, handle, told,
              static_cast<double>(frames) * 1000 / options_.rate_hz);
}

Recorder::Recorder(const RecorderOptions& options, std::shared_ptr<RecordFeed> feed)
    : source_(options.source),
      channels_(options.channels),
      max_samples_(options.max_ms * options.rate_hz / 1000),
      silence_ms_(options.silence_ms),
      feed_(std::move(feed)),
      in_(options.rate_hz),
      out_(options.rate_hz),
      energy_(options.rate_hz, kVoiceDbov) {}

Recorder::~Recorder() { finish(RecordReason::kStopped); }

void Recorder::hear(const AudioFrame& frame) {
  if (source_ == RecordSource::kOut || frame.empty()) return;
  FrameBuffer buffer{};
  heard_.push(in_.convert(frame, buffer));
}

void Recorder::say(const AudioFrame& frame) {
  if (source_ == RecordSource::kIn || frame.empty()) return;
  FrameBuffer buffer{};
  said_.push(out_.convert(frame, buffer));
}

bool Recorder::step() {
  if (is_finished_) return false;
  if (feed_->has_failed()) {
    finish(RecordReason::kFailed);
    return false;
  }
  // The two sides tick in different phases: each gives what it has, silence where it has none.
  std::array<int16_t, 320> heard{};
  std::array<int16_t, 320> said{};
  size_t count = frame_samples(in_.rate_hz());
  heard_.take(std::span(heard).first(count));
  said_.take(std::span(said).first(count));
  if (is_paused_) return true;
  if (max_samples_ > 0) {
    count = std::min(count, static_cast<size_t>(max_samples_ - samples_));
  }
  const std::span<const int16_t> in = std::span(heard).first(count);
  const std::span<const int16_t> out = std::span(said).first(count);
  std::array<int16_t, 320> mixed{};
  mix_saturate(in, out, std::span(mixed).first(count));
  energy_.update(std::span(mixed).first(count));
  RecordFeed::Block block;
  block.has_voice = !energy_.silent();
  block.count = static_cast<uint16_t>(count * static_cast<size_t>(channels_));
  if (channels_ == 2) {
    interleave(in, out, std::span(block.samples).first(block.count));
  } else {
    std::copy_n(mixed.begin(), count, block.samples.begin());
  }
  feed_->put(block);
  samples_ += static_cast<int64_t>(count);
  if (max_samples_ > 0 && samples_ >= max_samples_) {
    finish(RecordReason::kMaxLength);
  } else if (silence_ms_ > 0 && energy_.silent_ms() >= silence_ms_) {
    finish(RecordReason::kSilence);
  }
  return !is_finished_;
}

void Recorder::finish(RecordReason reason) {
  if (is_finished_) return;
  is_finished_ = true;
  feed_->finish(reason);
}

}  // namespace tandem
