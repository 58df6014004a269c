// WAV files: a reader safe against any header, a writer whose file is valid at every moment.
//
// Pure file code with blocking calls: I/O thread (or JS thread for opening), never the real-time
// thread. No resampling. Errors are values, not exceptions.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace tandem {

enum class FileError : uint8_t {
  kNone,
  kOpen,         // cannot be opened (errno tells)
  kNotRegular,   // a directory, pipe or device
  kNotWav,       // no RIFF/WAVE, no fmt, no data
  kUnsupported,  // not PCM16, mu-law or A-law; not 1 or 2 channels; rate outside 8..48 kHz
  kRead,
  kWrite,        // disk full and the like
  kFull,         // the 4 GB of a RIFF file are used up
};

// A file descriptor with one owner.
class FileHandle {
 public:
  FileHandle() = default;
  explicit FileHandle(int fd) : fd_(fd) {}
  ~FileHandle() { close(); }
  FileHandle(FileHandle&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  FileHandle& operator=(FileHandle&& other) noexcept;
  int fd() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }
  int close();  // 0, or errno

 private:
  int fd_ = -1;
};

class WavReader {
 public:
  FileError open(const char* path);
  void close() { file_.close(); }
  bool is_open() const { return file_.is_open(); }

  int sample_rate() const { return rate_hz_; }
  int channels() const { return channels_; }
  int64_t frames() const { return frames_; }            // per channel
  int64_t duration_ms() const { return rate_hz_ > 0 ? frames_ * 1000 / rate_hz_ : 0; }
  int64_t position() const { return position_; }        // frames read so far

  // Fills `out` with mono samples (stereo is averaged). Returns samples, 0 at the end, -1 on error.
  int read(std::span<int16_t> out);
  bool seek(int64_t frame);                             // false past the end

 private:
  enum class Format : uint8_t { kPcm16, kUlaw, kAlaw };
  FileError parse_format(std::span<const uint8_t> chunk);
  void convert(std::span<const uint8_t> raw, std::span<int16_t> out) const;

  FileHandle file_;
  Format format_ = Format::kPcm16;
  int rate_hz_ = 0;
  int channels_ = 0;
  int frame_bytes_ = 0;
  int64_t data_offset_ = 0;
  int64_t frames_ = 0;
  int64_t position_ = 0;
  std::vector<uint8_t> buffer_;  // one block of raw bytes
};

// PCM16, 1 or 2 channels. The sizes in the header never exceed what is on disk and are brought up
// to date after each second of audio, so a crash at any moment leaves a file that plays.
class WavWriter {
 public:
  WavWriter() = default;
  ~WavWriter() { close(); }
  WavWriter(WavWriter&&) noexcept = default;
  WavWriter& operator=(WavWriter&& other) noexcept;  // closes what was open here

  // Creates or replaces. channels 1 or 2, rate 8000..48000.
  FileError open(const char* path, int rate_hz, int channels);
  // Interleaved samples; a whole number of frames.
  FileError write(std::span<const int16_t> interleaved);
  FileError close();  // idempotent; patches the header
  bool is_open() const { return file_.is_open(); }
  int64_t frames() const { return channels_ > 0 ? data_bytes_ / (2 * channels_) : 0; }
  int64_t duration_ms() const { return rate_hz_ > 0 ? frames() * 1000 / rate_hz_ : 0; }

 private:
  FileError patch();

  FileHandle file_;
  int rate_hz_ = 0;
  int channels_ = 0;
  int64_t data_bytes_ = 0;
  int64_t patched_bytes_ = 0;
};

}  // namespace tandem
