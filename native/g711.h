// G.711 companding by table: linear <-> mu-law / A-law, and mu-law <-> A-law without decoding.
//
// Not a codec with state (that is codec.h) and no concealment (plc.h). Encoding follows the
// decision values of ITU-T G.711 as the G.191 reference does (one's complement magnitude of the
// 14-bit / 13-bit sample), the law-to-law tables are tables 3 and 4 of G.711 itself, so a byte
// that crosses both ways comes back as the recommendation says, which decode+encode does not.
//
// Pure functions over constant tables: any thread. Each handles min(in.size(), out.size())
// elements and returns that number.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tandem {

int ulaw_encode(std::span<const int16_t> in, std::span<uint8_t> out);
int alaw_encode(std::span<const int16_t> in, std::span<uint8_t> out);
int ulaw_decode(std::span<const uint8_t> in, std::span<int16_t> out);
int alaw_decode(std::span<const uint8_t> in, std::span<int16_t> out);

// In place is allowed: `in` and `out` may be the same memory.
int ulaw_to_alaw(std::span<const uint8_t> in, std::span<uint8_t> out);
int alaw_to_ulaw(std::span<const uint8_t> in, std::span<uint8_t> out);

// What an idle channel carries: the code of a zero sample.
inline constexpr uint8_t kUlawSilence = 0xff;
inline constexpr uint8_t kAlawSilence = 0xd5;

}  // namespace tandem
