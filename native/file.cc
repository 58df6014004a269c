// See file.h. RIFF/WAVE as in the Microsoft/IBM multimedia programming interface 1.0 and
// WAVEFORMATEXTENSIBLE.
#include "file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "g711.h"

namespace tandem {
namespace {

static_assert(std::endian::native == std::endian::little, "samples are written as they are");

constexpr int kChunksMax = 256;              // a header that has more is not a sound file
constexpr size_t kChunkHeaderBytes = 8;
constexpr size_t kFormatBytesMin = 16;
constexpr size_t kFormatBytesMax = 40;       // WAVEFORMATEXTENSIBLE
constexpr uint32_t kSizeUnknown = 0xffffffffu;  // what a writer to a pipe leaves
constexpr uint16_t kTagPcm = 1;
constexpr uint16_t kTagAlaw = 6;
constexpr uint16_t kTagUlaw = 7;
constexpr uint16_t kTagExtensible = 0xfffe;
constexpr int kRateMinHz = 8000;
constexpr int kRateMaxHz = 48000;
constexpr size_t kBlockBytes = 16384;
constexpr size_t kHeaderBytes = 44;          // RIFF + fmt + data, what we write
constexpr int64_t kDataBytesMax = 0xffffffffll - static_cast<int64_t>(kHeaderBytes);
constexpr mode_t kFileMode = 0640;

uint32_t read_u16(const uint8_t* bytes) {
  return static_cast<uint32_t>(bytes[0]) | (static_cast<uint32_t>(bytes[1]) << 8);
}

uint32_t read_u32(const uint8_t* bytes) {
  return read_u16(bytes) | (read_u16(bytes + 2) << 16);
}

void write_u16(uint8_t* bytes, uint32_t value) {
  bytes[0] = static_cast<uint8_t>(value);
  bytes[1] = static_cast<uint8_t>(value >> 8);
}

void write_u32(uint8_t* bytes, uint32_t value) {
  write_u16(bytes, value);
  write_u16(bytes + 2, value >> 16);
}

bool is(const uint8_t* bytes, const char* name) { return std::memcmp(bytes, name, 4) == 0; }

// As many bytes as there are up to `count`; -1 on error.
ssize_t read_at(int fd, uint8_t* bytes, size_t count, int64_t offset) {
  size_t done = 0;
  while (done < count) {
    const ssize_t got = pread(fd, bytes + done, count - done, offset + static_cast<int64_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -1;
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return static_cast<ssize_t>(done);
}

bool write_at(int fd, const uint8_t* bytes, size_t count, int64_t offset) {
  size_t done = 0;
  while (done < count) {
    const ssize_t put = pwrite(fd, bytes + done, count - done, offset + static_cast<int64_t>(done));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    done += static_cast<size_t>(put);
  }
  return true;
}

bool regular(int fd, int64_t& size) {
  struct stat status {};
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return false;
  size = status.st_size;
  return true;
}

int16_t average(int32_t left, int32_t right) { return static_cast<int16_t>((left + right) >> 1); }

}  // namespace

FileHandle& FileHandle::operator=(FileHandle&& other) noexcept {
  if (this != &other) {
    close();
    fd_ = other.fd_;
    other.fd_ = -1;
  }
  return *this;
}

int FileHandle::close() {
  if (fd_ < 0) return 0;
  const int failed = ::close(fd_) == 0 ? 0 : errno;
  fd_ = -1;
  return failed;
}

// ---- reading

FileError WavReader::parse_format(std::span<const uint8_t> chunk) {
  if (chunk.size() < kFormatBytesMin) return FileError::kNotWav;
  uint32_t tag = read_u16(chunk.data());
  const uint32_t channels = read_u16(chunk.data() + 2);
  const uint32_t rate = read_u32(chunk.data() + 4);
  const uint32_t align = read_u16(chunk.data() + 12);
  const uint32_t bits = read_u16(chunk.data() + 14);
  if (tag == kTagExtensible) {
    if (chunk.size() < kFormatBytesMax) return FileError::kNotWav;
    tag = read_u16(chunk.data() + 24);  // the sub-format's GUID begins with the plain tag
  }
  const bool companded = tag == kTagUlaw || tag == kTagAlaw;
  const uint32_t bits_wanted = companded ? 8 : 16;
  if ((tag != kTagPcm && !companded) || bits != bits_wanted) return FileError::kUnsupported;
  if (channels < 1 || channels > 2 || align != channels * bits / 8) return FileError::kUnsupported;
  if (rate < kRateMinHz || rate > kRateMaxHz) return FileError::kUnsupported;
  format_ = tag == kTagPcm ? Format::kPcm16 : tag == kTagUlaw ? Format::kUlaw : Format::kAlaw;
  channels_ = static_cast<int>(channels);
  rate_hz_ = static_cast<int>(rate);
  frame_bytes_ = static_cast<int>(align);
  return FileError::kNone;
}

FileError WavReader::open(const char* path) {
  *this = WavReader{};
  // Non-blocking, so that a pipe put in place of the file cannot hang us.
  FileHandle file{::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (!file.is_open()) return FileError::kOpen;
  int64_t file_bytes = 0;
  if (!regular(file.fd(), file_bytes)) return FileError::kNotRegular;

  std::array<uint8_t, 12> riff{};
  if (read_at(file.fd(), riff.data(), riff.size(), 0) != 12) return FileError::kNotWav;
  if (!is(riff.data(), "RIFF") || !is(riff.data() + 8, "WAVE")) return FileError::kNotWav;
  const uint32_t riff_bytes = read_u32(riff.data() + 4);
  const bool streamed = riff_bytes == 0 || riff_bytes == kSizeUnknown;

  bool format_seen = false;
  int64_t data_bytes = -1;
  int64_t offset = 12;
  for (int chunks = 0; chunks < kChunksMax && !(format_seen && data_bytes >= 0); ++chunks) {
    std::array<uint8_t, kChunkHeaderBytes> header{};
    if (read_at(file.fd(), header.data(), header.size(), offset) != 8) break;
    const uint32_t size = read_u32(header.data() + 4);
    offset += static_cast<int64_t>(kChunkHeaderBytes);
    if (is(header.data(), "fmt ") && !format_seen) {
      std::array<uint8_t, kFormatBytesMax> chunk{};
      const size_t wanted = std::min<size_t>(size, chunk.size());
      const ssize_t got = read_at(file.fd(), chunk.data(), wanted, offset);
      if (got < 0) return FileError::kRead;
      const FileError error = parse_format({chunk.data(), static_cast<size_t>(got)});
      if (error != FileError::kNone) return error;
      format_seen = true;
    } else if (is(header.data(), "data") && data_bytes < 0) {
      const bool open_end = size == kSizeUnknown || (size == 0 && streamed);
      const int64_t rest = std::max<int64_t>(file_bytes - offset, 0);
      data_bytes = open_end ? rest : std::min<int64_t>(size, rest);
      data_offset_ = offset;
    }
    offset += int64_t{size} + (size & 1);  // chunks are padded to even
  }
  if (!format_seen || data_bytes < 0) return FileError::kNotWav;
  frames_ = data_bytes / frame_bytes_;
  buffer_.resize(kBlockBytes);
  file_ = std::move(file);
  return FileError::kNone;
}

bool WavReader::seek(int64_t frame) {
  if (frame < 0 || frame > frames_) return false;
  position_ = frame;
  return true;
}

int WavReader::read(std::span<int16_t> out) {
  if (!is_open()) return -1;
  size_t done = 0;
  while (done < out.size() && position_ < frames_) {
    const auto frame_bytes = static_cast<size_t>(frame_bytes_);
    const size_t wanted = std::min({out.size() - done, kBlockBytes / frame_bytes,
                                    static_cast<size_t>(frames_ - position_)});
    const ssize_t got = read_at(file_.fd(), buffer_.data(), wanted * frame_bytes,
                                data_offset_ + position_ * frame_bytes_);
    if (got < 0) return -1;
    const size_t frames = static_cast<size_t>(got) / frame_bytes;
    convert({buffer_.data(), frames * frame_bytes}, out.subspan(done, frames));
    done += frames;
    position_ += static_cast<int64_t>(frames);
    if (frames < wanted) frames_ = position_;  // the file became shorter
  }
  return static_cast<int>(done);
}

void WavReader::convert(std::span<const uint8_t> raw, std::span<int16_t> out) const {
  const auto sample = [&](size_t index) -> int16_t {
    if (format_ == Format::kPcm16) {
      return static_cast<int16_t>(static_cast<uint16_t>(read_u16(raw.data() + 2 * index)));
    }
    int16_t value = 0;
    const auto code = raw.subspan(index, 1);
    if (format_ == Format::kUlaw) {
      ulaw_decode(code, {&value, 1});
    } else {
      alaw_decode(code, {&value, 1});
    }
    return value;
  };
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = channels_ == 1 ? sample(i) : average(sample(2 * i), sample(2 * i + 1));
  }
}

// ---- writing

WavWriter& WavWriter::operator=(WavWriter&& other) noexcept {
  if (this == &other) return *this;
  close();
  file_ = std::move(other.file_);
  rate_hz_ = other.rate_hz_;
  channels_ = other.channels_;
  data_bytes_ = other.data_bytes_;
  patched_bytes_ = other.patched_bytes_;
  return *this;
}

FileError WavWriter::open(const char* path, int rate_hz, int channels) {
  close();
  if (rate_hz < kRateMinHz || rate_hz > kRateMaxHz || channels < 1 || channels > 2) {
    return FileError::kUnsupported;
  }
  FileHandle file{::open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK, kFileMode)};
  if (!file.is_open()) return FileError::kOpen;
  int64_t old_bytes = 0;
  if (!regular(file.fd(), old_bytes)) return FileError::kNotRegular;
  if (ftruncate(file.fd(), 0) != 0) return FileError::kWrite;
  file_ = std::move(file);
  rate_hz_ = rate_hz;
  channels_ = channels;
  data_bytes_ = 0;
  const FileError error = patch();
  if (error != FileError::kNone) file_.close();
  return error;
}

FileError WavWriter::write(std::span<const int16_t> interleaved) {
  if (!is_open()) return FileError::kWrite;
  const size_t samples = interleaved.size() / static_cast<size_t>(channels_) *
                         static_cast<size_t>(channels_);
  const auto bytes = static_cast<int64_t>(samples * sizeof(int16_t));
  if (data_bytes_ + bytes > kDataBytesMax) return FileError::kFull;
  if (!write_at(file_.fd(), reinterpret_cast<const uint8_t*>(interleaved.data()),
                static_cast<size_t>(bytes), static_cast<int64_t>(kHeaderBytes) + data_bytes_)) {
    return FileError::kWrite;
  }
  data_bytes_ += bytes;
  const int64_t second_bytes = int64_t{rate_hz_} * channels_ * 2;
  return data_bytes_ - patched_bytes_ >= second_bytes ? patch() : FileError::kNone;
}

FileError WavWriter::patch() {
  std::array<uint8_t, kHeaderBytes> header{};
  const auto data_bytes = static_cast<uint32_t>(data_bytes_);
  const auto frame_bytes = static_cast<uint32_t>(2 * channels_);
  const auto rate = static_cast<uint32_t>(rate_hz_);
  std::memcpy(header.data(), "RIFF", 4);
  write_u32(header.data() + 4, data_bytes + static_cast<uint32_t>(kHeaderBytes) - 8);
  std::memcpy(header.data() + 8, "WAVEfmt ", 8);
  write_u32(header.data() + 16, static_cast<uint32_t>(kFormatBytesMin));
  write_u16(header.data() + 20, kTagPcm);
  write_u16(header.data() + 22, static_cast<uint32_t>(channels_));
  write_u32(header.data() + 24, rate);
  write_u32(header.data() + 28, rate * frame_bytes);
  write_u16(header.data() + 32, frame_bytes);
  write_u16(header.data() + 34, 16);
  std::memcpy(header.data() + 36, "data", 4);
  write_u32(header.data() + 40, data_bytes);
  if (!write_at(file_.fd(), header.data(), header.size(), 0)) return FileError::kWrite;
  patched_bytes_ = data_bytes_;
  return FileError::kNone;
}

FileError WavWriter::close() {
  if (!is_open()) return FileError::kNone;
  const FileError error = patched_bytes_ == data_bytes_ ? FileError::kNone : patch();
  const int failed = file_.close();
  return error == FileError::kNone && failed != 0 ? FileError::kWrite : error;
}

}  // namespace tandem
