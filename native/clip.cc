// Clips from memory and from disk; see clip.h.
#include "clip.h"

#include <cerrno>
#include <cstring>

namespace tandem {
namespace {

std::string describe(FileError error) {
  switch (error) {
    case FileError::kOpen:
      return std::string("cannot be opened: ") + std::strerror(errno);
    case FileError::kNotRegular:
      return "is not a regular file";
    case FileError::kNotWav:
      return "is not a WAV file";
    case FileError::kUnsupported:
      return "has a format other than PCM16, mu-law or A-law, 1 or 2 channels, 8 to 48 kHz";
    default:
      return "cannot be read";
  }
}

}  // namespace

std::shared_ptr<const Clip> Clip::open(const std::string& path, uint64_t preload_bytes_max,
                                       std::string& problem) {
  WavReader reader;
  const FileError error = reader.open(path.c_str());
  if (error != FileError::kNone) {
    problem = path + " " + describe(error);
    return nullptr;
  }
  auto clip = std::make_shared<Clip>();
  clip->path = path;
  clip->rate_hz = reader.sample_rate();
  clip->frames = reader.frames();
  if (static_cast<uint64_t>(clip->frames) * sizeof(int16_t) > preload_bytes_max) return clip;
  clip->is_loaded = true;
  clip->samples.resize(static_cast<size_t>(clip->frames));
  size_t filled = 0;
  while (filled < clip->samples.size()) {
    const int got = reader.read(std::span(clip->samples).subspan(filled));
    if (got < 0) {
      problem = path + " cannot be read";
      return nullptr;
    }
    if (got == 0) break;
    filled += static_cast<size_t>(got);
  }
  clip->samples.resize(filled);
  clip->frames = static_cast<int64_t>(filled);
  return clip;
}

ClipStream::ClipStream(std::shared_ptr<const Clip> clip, int64_t begin_frame, int loops)
    : clip_(std::move(clip)),
      begin_frame_(begin_frame),
      loops_left_(loops),
      is_endless_(loops == 0) {}

bool ClipStream::pump(EventRing&) {
  if (is_abandoned_.load(std::memory_order_acquire)) return false;
  if (!reader_.is_open()) {
    if (reader_.open(clip_->path.c_str()) != FileError::kNone || !reader_.seek(begin_frame_)) {
      has_failed_.store(true, std::memory_order_release);
      return false;
    }
  }
  while (ring_.room() > 0) {
    Block block;
    const int got = reader_.read(block.samples);
    if (got < 0) {
      has_failed_.store(true, std::memory_order_release);
      return false;
    }
    if (got > 0) {
      read_any_ = true;
      block.count = static_cast<uint16_t>(got);
      ring_.push(std::move(block));
      continue;
    }
    if (!is_endless_) loops_left_--;
    // A pass that gave nothing (an empty file) must not be repeated for ever.
    const bool again = read_any_ && (is_endless_ || loops_left_ > 0);
    read_any_ = false;
    if (!again || !reader_.seek(0)) {
      has_ended_.store(true, std::memory_order_release);
      return false;
    }
  }
  return true;
}

}  // namespace tandem
