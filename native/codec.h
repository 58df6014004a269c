// The audio codecs behind one interface: PCMU, PCMA, G.722, Opus.
//
// Not RTP (payload types, timestamps), not resampling (resample.h), not jitter. An object works at
// ONE linear rate, told by sample_rate(): 8000 for G.711; 8000 or 16000 for G.722 (8000 decodes
// the lower band only, cheaper and enough when the other leg is narrow band); the leg's internal
// rate for Opus, because libopus opened at 8 kHz costs less than half of 48 kHz and saves the
// resampler. When sample_rate() differs from the leg's internal rate the owner puts a Resampler
// in between.
//
// Ownership and threads: make_* allocate everything (call off the real-time thread); after that
// encode/decode/conceal neither allocate nor lock. One object belongs to one leg and one thread at
// a time. Payloads are hostile: any bytes of any length are safe, and nothing is ever written past
// `out`.
//
// RFC 3551 (G.711, G.722), RFC 6716 and 7587 (Opus).
#pragma once

#include <cstdint>
#include <memory>
#include <span>

namespace tandem {

// Numbers are the contract with src/core/codec.ts (nativeId).
enum class CodecId : uint8_t { kPcmu = 0, kPcma = 1, kG722 = 2, kOpus = 3 };
inline constexpr int kCodecCount = 4;

// Largest frame any decoder returns: 120 ms (RFC 6716 section 3.2.5) at 48 kHz.
inline constexpr int kFrameSamplesMax = 5760;
// Largest payload an encoder writes: an Opus frame is at most 1275 bytes plus TOC (RFC 6716 3.2).
inline constexpr int kPayloadBytesMax = 1276;

struct CodecOptions {
  int opus_bitrate_bps = 0;       // 0: by rate: 16 k at 8 kHz, 24 k at 16 kHz, 32 k at 48 kHz
  int opus_complexity = 5;        // 0..10
  bool opus_fec = true;           // peer asked for in-band FEC: allowed, used once loss is reported
  bool opus_dtx = false;          // stop sending in silence (RFC 7587 section 3.1.3)
};

class Encoder {
 public:
  virtual ~Encoder() = default;
  // One frame in (10, 20, 40 or 60 ms at sample_rate(); G.711 and G.722 take any length, G.722 at
  // 16 kHz an even one). Returns payload bytes, 0 when nothing has to be sent (Opus DTX), or -1
  // when the frame length is not the codec's or `out` is too small.
  virtual int encode(std::span<const int16_t> frame, std::span<uint8_t> out) = 0;
  virtual int sample_rate() const = 0;
  // Loss the receiver reports (RTCP), percent. Opus turns in-band FEC on above 0 % (with
  // hysteresis by the codec itself); others ignore it.
  virtual void set_loss(float percent) { (void)percent; }
  // Opus only: 0..10, lowered under load. Others ignore it.
  virtual void set_complexity(int complexity) { (void)complexity; }
};

class Decoder {
 public:
  virtual ~Decoder() = default;
  // One payload to linear. Returns samples written, or -1 when the payload is not valid or its
  // frames do not fit `out`; the caller then conceals. G.711/G.722 longer than `out` are cut.
  virtual int decode(std::span<const uint8_t> payload, std::span<int16_t> out) = 0;
  // Makes out.size() samples for a packet that is missing; always fills `out`. Lengths: any up to
  // 120 ms; Opus wants a multiple of 2.5 ms and rounds inside. Returns samples (== out.size()).
  virtual int conceal(std::span<int16_t> out) = 0;
  // The missing packet is rebuilt from the redundancy in the packet after it, when there is any;
  // otherwise the same as conceal(). Returns samples (== out.size()).
  virtual int decode_fec(std::span<const uint8_t> next_payload, std::span<int16_t> out) {
    (void)next_payload;
    return conceal(out);
  }
  virtual int sample_rate() const = 0;
};

// internal_rate: the leg's, 8000, 16000 or 48000. nullptr when the rate is not one of these or the
// codec library refuses.
std::unique_ptr<Encoder> make_encoder(CodecId id, int internal_rate, const CodecOptions& options);
std::unique_ptr<Decoder> make_decoder(CodecId id, int internal_rate);

// RTP clock of the codec in Hz: 8000, and 48000 for Opus (G.722 says 8000, RFC 3551 4.5.2).
int clock_rate_hz(CodecId id);

// How long a received payload plays, in units of the RTP clock, from its bytes alone; 0 when it is
// not a valid payload. For JitterBuffer::insert.
int payload_duration_ticks(CodecId id, std::span<const uint8_t> payload);

// RFC 7587 / 6716 section 2.1.9: an Opus payload of at most two bytes says "silence until told
// otherwise". Always false for the others.
bool is_dtx_payload(CodecId id, std::span<const uint8_t> payload);

}  // namespace tandem
