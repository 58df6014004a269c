// See g711.h.
#include "g711.h"

#include <algorithm>
#include <array>

namespace tandem {
namespace {

constexpr int kSegmentMax = 7;
constexpr int kUlawBias = 33;      // of the 14-bit magnitude (G.711 table 2a, segment edges 31+2^n)
constexpr int kUlawClip = 0x1fff;  // largest 14-bit magnitude

// 14-bit two's complement sample to mu-law. The magnitude of a negative sample is its one's
// complement, as in the ITU-T G.191 reference.
constexpr uint8_t ulaw_of(int sample14) {
  const bool negative = sample14 < 0;
  int magnitude = (negative ? ~sample14 : sample14) + kUlawBias;
  magnitude = std::min(magnitude, kUlawClip);
  int segment = 0;
  for (int rest = magnitude >> 6; rest != 0; rest >>= 1) ++segment;
  const int step = (magnitude >> (segment + 1)) & 0x0f;
  const int code = 0xff ^ ((segment << 4) | step);
  return static_cast<uint8_t>(negative ? code & 0x7f : code);
}

// 13-bit two's complement sample to A-law; even bits are inverted on the line (0x55).
constexpr uint8_t alaw_of(int sample13) {
  const bool negative = sample13 < 0;
  int magnitude = (negative ? ~sample13 : sample13) >> 1;
  if (magnitude > 15) {
    int segment = 1;
    while (magnitude > 16 + 15) {
      magnitude >>= 1;
      ++segment;
    }
    magnitude -= 16;
    magnitude += std::min(segment, kSegmentMax) << 4;
  }
  return static_cast<uint8_t>((negative ? magnitude : magnitude | 0x80) ^ 0x55);
}

constexpr int16_t ulaw_value(int code) {
  const int inverted = ~code & 0xff;
  const int segment = (inverted >> 4) & 7;
  const int step = inverted & 0x0f;
  const int magnitude = ((((step << 1) + kUlawBias) << segment) - kUlawBias) * 4;
  return static_cast<int16_t>((inverted & 0x80) != 0 ? -magnitude : magnitude);
}

constexpr int16_t alaw_value(int code) {
  const int plain = code ^ 0x55;
  const int segment = (plain >> 4) & 7;
  const int step = (plain & 0x0f) * 2 + 1;
  const int magnitude = (segment == 0 ? step : (step + 32) << (segment - 1)) * 8;
  return static_cast<int16_t>((plain & 0x80) != 0 ? magnitude : -magnitude);
}

// Encoders look up the top bits of the sample: 16 K and 8 K bytes, both stay in cache.
constexpr auto kUlawEncode = [] {
  std::array<uint8_t, 1 << 14> table{};
  for (int i = 0; i < 1 << 14; ++i) table[i] = ulaw_of(i < 1 << 13 ? i : i - (1 << 14));
  return table;
}();

constexpr auto kAlawEncode = [] {
  std::array<uint8_t, 1 << 13> table{};
  for (int i = 0; i < 1 << 13; ++i) table[i] = alaw_of(i < 1 << 12 ? i : i - (1 << 13));
  return table;
}();

constexpr auto kUlawDecode = [] {
  std::array<int16_t, 256> table{};
  for (int i = 0; i < 256; ++i) table[i] = ulaw_value(i);
  return table;
}();

constexpr auto kAlawDecode = [] {
  std::array<int16_t, 256> table{};
  for (int i = 0; i < 256; ++i) table[i] = alaw_value(i);
  return table;
}();

// G.711 table 3, bytes as they are on the line.
constexpr std::array<uint8_t, 256> kUlawToAlaw{
     42,  43,  40,  41,  46,  47,  44,  45,  34,  35,  32,  33,  38,  39,  36,  37,
     58,  59,  56,  57,  62,  63,  60,  61,  50,  51,  48,  49,  54,  55,  52,  53,
     10,  11,   8,   9,  14,  15,  12,  13,   2,   3,   0,   1,   6,   7,   4,  26,
     27,  24,  25,  30,  31,  28,  29,  18,  19,  16,  17,  22,  23,  20,  21, 106,
    104, 105, 110, 111, 108, 109,  98,  99,  96,  97, 102, 103, 100, 101, 122, 120,
    126, 127, 124, 125, 114, 115, 112, 113, 118, 119, 116, 117,  75,  73,  79,  77,
     66,  67,  64,  65,  70,  71,  68,  69,  90,  91,  88,  89,  94,  95,  92,  93,
     82,  82,  83,  83,  80,  80,  81,  81,  86,  86,  87,  87,  84,  84,  85,  85,
    170, 171, 168, 169, 174, 175, 172, 173, 162, 163, 160, 161, 166, 167, 164, 165,
    186, 187, 184, 185, 190, 191, 188, 189, 178, 179, 176, 177, 182, 183, 180, 181,
    138, 139, 136, 137, 142, 143, 140, 141, 130, 131, 128, 129, 134, 135, 132, 154,
    155, 152, 153, 158, 159, 156, 157, 146, 147, 144, 145, 150, 151, 148, 149, 234,
    232, 233, 238, 239, 236, 237, 226, 227, 224, 225, 230, 231, 228, 229, 250, 248,
    254, 255, 252, 253, 242, 243, 240, 241, 246, 247, 244, 245, 203, 201, 207, 205,
    194, 195, 192, 193, 198, 199, 196, 197, 218, 219, 216, 217, 222, 223, 220, 221,
    210, 210, 211, 211, 208, 208, 209, 209, 214, 214, 215, 215, 212, 212, 213, 213,
};

// G.711 table 4.
constexpr std::array<uint8_t, 256> kAlawToUlaw{
     42,  43,  40,  41,  46,  47,  44,  45,  34,  35,  32,  33,  38,  39,  36,  37,
     57,  58,  55,  56,  61,  62,  59,  60,  49,  50,  47,  48,  53,  54,  51,  52,
     10,  11,   8,   9,  14,  15,  12,  13,   2,   3,   0,   1,   6,   7,   4,   5,
     26,  27,  24,  25,  30,  31,  28,  29,  18,  19,  16,  17,  22,  23,  20,  21,
     98,  99,  96,  97, 102, 103, 100, 101,  93,  93,  92,  92,  95,  95,  94,  94,
    116, 118, 112, 114, 124, 126, 120, 122, 106, 107, 104, 105, 110, 111, 108, 109,
     72,  73,  70,  71,  76,  77,  74,  75,  64,  65,  63,  63,  68,  69,  66,  67,
     86,  87,  84,  85,  90,  91,  88,  89,  79,  79,  78,  78,  82,  83,  80,  81,
    170, 171, 168, 169, 174, 175, 172, 173, 162, 163, 160, 161, 166, 167, 164, 165,
    185, 186, 183, 184, 189, 190, 187, 188, 177, 178, 175, 176, 181, 182, 179, 180,
    138, 139, 136, 137, 142, 143, 140, 141, 130, 131, 128, 129, 134, 135, 132, 133,
    154, 155, 152, 153, 158, 159, 156, 157, 146, 147, 144, 145, 150, 151, 148, 149,
    226, 227, 224, 225, 230, 231, 228, 229, 221, 221, 220, 220, 223, 223, 222, 222,
    244, 246, 240, 242, 252, 254, 248, 250, 234, 235, 232, 233, 238, 239, 236, 237,
    200, 201, 198, 199, 204, 205, 202, 203, 192, 193, 191, 191, 196, 197, 194, 195,
    214, 215, 212, 213, 218, 219, 216, 217, 207, 207, 206, 206, 210, 211, 208, 209,
};

template <typename In, typename Out, typename Convert>
int each(std::span<const In> in, std::span<Out> out, Convert convert) {
  const size_t count = std::min(in.size(), out.size());
  for (size_t i = 0; i < count; ++i) out[i] = convert(in[i]);
  return static_cast<int>(count);
}

}  // namespace

int ulaw_encode(std::span<const int16_t> in, std::span<uint8_t> out) {
  return each(in, out, [](int16_t s) { return kUlawEncode[static_cast<uint16_t>(s) >> 2]; });
}

int alaw_encode(std::span<const int16_t> in, std::span<uint8_t> out) {
  return each(in, out, [](int16_t s) { return kAlawEncode[static_cast<uint16_t>(s) >> 3]; });
}

int ulaw_decode(std::span<const uint8_t> in, std::span<int16_t> out) {
  return each(in, out, [](uint8_t code) { return kUlawDecode[code]; });
}

int alaw_decode(std::span<const uint8_t> in, std::span<int16_t> out) {
  return each(in, out, [](uint8_t code) { return kAlawDecode[code]; });
}

int ulaw_to_alaw(std::span<const uint8_t> in, std::span<uint8_t> out) {
  return each(in, out, [](uint8_t code) { return kUlawToAlaw[code]; });
}

int alaw_to_ulaw(std::span<const uint8_t> in, std::span<uint8_t> out) {
  return each(in, out, [](uint8_t code) { return kAlawToUlaw[code]; });
}

}  // namespace tandem
