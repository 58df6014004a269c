// WAV files: every format read, a writer that may die at any moment, headers made to hurt.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "check.h"
#include "dsp_test.h"
#include "file.h"
#include "g711.h"

namespace tandem::test {
namespace {

void put16(Bytes& bytes, uint32_t value) {
  bytes.push_back(static_cast<uint8_t>(value));
  bytes.push_back(static_cast<uint8_t>(value >> 8));
}

void put32(Bytes& bytes, uint32_t value) {
  put16(bytes, value);
  put16(bytes, value >> 16);
}

void put_name(Bytes& bytes, const char* name) {
  for (int i = 0; i < 4; ++i) bytes.push_back(static_cast<uint8_t>(name[i]));
}

struct Format {
  uint32_t tag = 1;
  uint32_t channels = 1;
  uint32_t rate_hz = 8000;
  uint32_t bits = 16;
};

Bytes format_chunk(const Format& format) {
  Bytes bytes;
  const uint32_t align = format.channels * format.bits / 8;
  put_name(bytes, "fmt ");
  put32(bytes, 16);
  put16(bytes, format.tag);
  put16(bytes, format.channels);
  put32(bytes, format.rate_hz);
  put32(bytes, format.rate_hz * align);
  put16(bytes, align);
  put16(bytes, format.bits);
  return bytes;
}

Bytes data_chunk(const Bytes& data, uint32_t size) {
  Bytes bytes;
  put_name(bytes, "data");
  put32(bytes, size);
  for (const uint8_t byte : data) bytes.push_back(byte);
  return bytes;
}

Bytes riff(std::initializer_list<Bytes> chunks, uint32_t size = 0x1000) {
  Bytes bytes;
  put_name(bytes, "RIFF");
  put32(bytes, size);
  put_name(bytes, "WAVE");
  for (const Bytes& chunk : chunks) {
    for (const uint8_t byte : chunk) bytes.push_back(byte);
  }
  return bytes;
}

std::string written(const Bytes& bytes) {
  const std::string path = scratch_path("header.wav");
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (!bytes.empty()) std::fwrite(bytes.data(), 1, bytes.size(), file);
  std::fclose(file);
  return path;
}

struct Read {
  FileError error;
  int rate_hz = 0;
  int64_t frames = 0;
  Samples samples;
};

Read read_back(const std::string& path) {
  WavReader reader;
  Read result{reader.open(path.c_str()), reader.sample_rate(), reader.frames(), {}};
  if (result.error != FileError::kNone) return result;
  Samples block(777);
  for (int count; (count = reader.read(block)) > 0;) {
    result.samples.insert(result.samples.end(), block.begin(), block.begin() + count);
  }
  return result;
}

TEST("a recording that nobody closed is a valid file") {
  const std::string path = scratch_path("crash.wav");
  WavWriter writer;
  const Samples audio = sine(440, 8000, 20, 9000);
  const auto valid_frames = [&] {
    // As strict players read it: the sizes in the header are what counts.
    const Bytes bytes = read_file(path);
    uint32_t riff_bytes = 0;
    uint32_t data_bytes = 0;
    std::memcpy(&riff_bytes, &bytes[4], 4);
    std::memcpy(&data_bytes, &bytes[40], 4);
    CHECK(riff_bytes + 8 == data_bytes + 44);
    CHECK(data_bytes + 44 <= bytes.size());
    return read_back(path).frames;
  };
  CHECK(writer.open(path.c_str(), 8000, 1) == FileError::kNone);
  CHECK(valid_frames() == 0);
  for (int i = 1; i <= 130; ++i) {
    CHECK(writer.write(audio) == FileError::kNone);
    CHECK_BETWEEN(static_cast<double>(i * 160 - valid_frames()), 0, 7999);
  }

  const Read crashed = read_back(path);  // 2.6 s written, not closed
  CHECK(crashed.error == FileError::kNone && crashed.rate_hz == 8000);
  CHECK(crashed.samples.size() == 16000);
  CHECK(std::equal(audio.begin(), audio.end(), crashed.samples.begin()));
  CHECK(writer.close() == FileError::kNone);
  CHECK(read_back(path).samples.size() == 130 * 160);
  CHECK(writer.close() == FileError::kNone);
  CHECK(writer.write(audio) == FileError::kWrite);
}

TEST("stereo recordings keep their channels and are read as mono") {
  const std::string path = scratch_path("stereo.wav");
  WavWriter writer;
  CHECK(writer.open(path.c_str(), 16000, 2) == FileError::kNone);
  Samples frames;
  for (int i = 0; i < 1000; ++i) {
    frames.push_back(static_cast<int16_t>(i * 20));
    frames.push_back(static_cast<int16_t>(i * -10 + 3));
  }
  CHECK(writer.write(frames) == FileError::kNone);
  CHECK(writer.write(std::span(frames).first(1)) == FileError::kNone);  // half a frame: not taken
  CHECK(writer.frames() == 1000 && writer.duration_ms() == 62);
  writer.close();

  const Read mono = read_back(path);
  CHECK(mono.rate_hz == 16000 && mono.samples.size() == 1000);
  bool right = true;
  for (int i = 0; i < 1000; ++i) right &= mono.samples[static_cast<size_t>(i)] == (i * 10 + 3) >> 1;
  CHECK(right);
  const Bytes bytes = read_file(path);
  CHECK(bytes[22] == 2 && bytes[32] == 4);
}

TEST("every format and any order of chunks is read") {
  const Bytes data{1, 0, 2, 0, 3, 0, 4, 0};
  Bytes list;
  put_name(list, "LIST");
  put32(list, 5);
  for (const uint8_t byte : {1, 2, 3, 4, 5, 0}) list.push_back(byte);  // odd: padded
  const Format pcm;
  CHECK(read_back(written(riff({format_chunk(pcm), data_chunk(data, 8)}))).samples ==
        (Samples{1, 2, 3, 4}));
  CHECK(read_back(written(riff({list, data_chunk(data, 8), list, format_chunk(pcm)}))).samples ==
        (Samples{1, 2, 3, 4}));
  CHECK(read_back(written(riff({format_chunk(pcm), data_chunk(data, 0xffffffffu)}))).frames == 4);
  CHECK(read_back(written(riff({format_chunk(pcm), data_chunk(data, 0)}, 0))).frames == 4);
  CHECK(read_back(written(riff({format_chunk(pcm), data_chunk(data, 0)}))).frames == 0);
  CHECK(read_back(written(riff({format_chunk(pcm), data_chunk(data, 7)}))).frames == 3);
  const Bytes codes{0xff, 0x80, 0x00, 0xd5};
  Samples linear(4);
  ulaw_decode(codes, linear);
  CHECK(read_back(written(riff({format_chunk({7, 1, 8000, 8}), data_chunk(codes, 4)}))).samples ==
        linear);
  alaw_decode(codes, linear);
  CHECK(read_back(written(riff({format_chunk({6, 1, 8000, 8}), data_chunk(codes, 4)}))).samples ==
        linear);
  CHECK(read_back(written(riff({format_chunk({6, 2, 8000, 8}), data_chunk(codes, 4)}))).samples ==
        (Samples{static_cast<int16_t>((linear[0] + linear[1]) >> 1),
                 static_cast<int16_t>((linear[2] + linear[3]) >> 1)}));
  Bytes extensible = format_chunk({0xfffe, 1, 48000, 16});
  extensible[4] = 40;
  put16(extensible, 22);
  put16(extensible, 16);
  put32(extensible, 4);
  put16(extensible, 1);
  extensible.resize(8 + 40);
  CHECK(read_back(written(riff({extensible, data_chunk(data, 8)}))).samples ==
        (Samples{1, 2, 3, 4}));
}

TEST("what is not a sound file is refused by name") {
  const Bytes data(8);
  const Bytes good_data = data_chunk(data, 8);
  const auto error_of = [](const Bytes& bytes) { return read_back(written(bytes)).error; };
  CHECK(error_of({}) == FileError::kNotWav);
  CHECK(error_of(Bytes(100)) == FileError::kNotWav);
  CHECK(error_of(riff({good_data})) == FileError::kNotWav);
  CHECK(error_of(riff({format_chunk({})})) == FileError::kNotWav);
  for (const Format& format :
       {Format{3, 1, 8000, 32}, Format{1, 1, 8000, 8}, Format{1, 1, 8000, 24},
        Format{1, 0, 8000, 16}, Format{1, 3, 8000, 16}, Format{1, 1, 7999, 16},
        Format{1, 1, 96000, 16}, Format{1, 1, 0, 16}, Format{0xfffe, 1, 8000, 16}}) {
    const FileError error = error_of(riff({format_chunk(format), good_data}));
    CHECK(error == FileError::kUnsupported || error == FileError::kNotWav);
  }
  Bytes bad_align = format_chunk({});
  bad_align[20] = 1;
  CHECK(error_of(riff({bad_align, good_data})) == FileError::kUnsupported);
  WavReader reader;
  CHECK(reader.open("/dev/null") == FileError::kNotRegular);
  CHECK(reader.open("/") == FileError::kNotRegular);
  CHECK(reader.open("/nowhere/at/all.wav") == FileError::kOpen);
  Samples block(10);
  CHECK(reader.read(block) == -1);
  WavWriter writer;
  CHECK(writer.open("/nowhere/at/all.wav", 8000, 1) == FileError::kOpen);
  CHECK(writer.open("/dev/null", 8000, 1) == FileError::kNotRegular);
  CHECK(writer.open(scratch_path("x.wav").c_str(), 8000, 3) == FileError::kUnsupported);
}

TEST("damaged headers never read outside the file") {
  const Bytes clean = riff({format_chunk({}), data_chunk(Bytes(400, 5), 400)});
  Chance chance(8);
  int opened = 0;
  for (int i = 0; i < 3000; ++i) {
    Bytes bytes = clean;
    for (int hits = 1 + chance.below(4); hits > 0; --hits) {
      const auto at = static_cast<size_t>(chance.below(44));
      bytes[at] = static_cast<uint8_t>(chance.one_in(0.3) ? 0xff : chance.bits());
    }
    if (chance.one_in(0.2)) bytes.resize(static_cast<size_t>(chance.below(444)));
    const Read result = read_back(written(bytes));
    if (result.error != FileError::kNone) continue;
    ++opened;
    CHECK(result.frames * 2 <= static_cast<int64_t>(bytes.size()) || result.frames <= 400);
    CHECK(static_cast<int64_t>(result.samples.size()) == result.frames);
  }
  note("%d of 3000 could still be played", opened);
  CHECK_BETWEEN(opened, 100, 2900);

  Bytes endless;  // chunks of no size: the walk is bounded
  for (int i = 0; i < 5000; ++i) {
    put_name(endless, "junk");
    put32(endless, 0);
  }
  CHECK(read_back(written(riff({endless, format_chunk({}), data_chunk(Bytes(8), 8)}))).error ==
        FileError::kNotWav);
}

TEST("reading goes anywhere in the file and survives its shortening") {
  Bytes data;
  for (uint32_t i = 0; i < 20000; ++i) put16(data, i);
  const std::string path = written(riff({format_chunk({}), data_chunk(data, 40000)}));
  WavReader reader;
  Samples block(100);
  CHECK(reader.open(path.c_str()) == FileError::kNone);
  CHECK(reader.duration_ms() == 2500);
  CHECK(reader.seek(15000) && reader.read(block) == 100 && block[0] == 15000);
  CHECK(reader.position() == 15100);
  CHECK(reader.seek(19950) && reader.read(block) == 50 && reader.read(block) == 0);
  CHECK(!reader.seek(20001) && !reader.seek(-1));
  CHECK(reader.seek(0));
  CHECK(truncate(path.c_str(), 44 + 150) == 0);
  CHECK(reader.read(block) == 75 && reader.read(block) == 0);
}

}  // namespace
}  // namespace tandem::test
