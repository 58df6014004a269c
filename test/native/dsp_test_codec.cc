// Codecs: G.711 tables, round trips heard as signal to noise, reference decodes, ITU vectors of
// G.722, Opus loss recovery and pauses, hostile payloads.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "check.h"
#include "codec.h"
#include "dsp_test.h"
#include "g711.h"

extern "C" {
#include <spandsp/telephony.h>
#include <spandsp/bit_operations.h>
// g711.h wants it before it.
#include <spandsp/g711.h>
#include <spandsp/g722.h>
#include <spandsp/private/g722.h>
}

namespace tandem::test {
namespace {

constexpr size_t kFrameMax = 960;

const char* speech_name(int rate_hz) {
  return rate_hz == 8000    ? "speech-en-8k.wav"
         : rate_hz == 16000 ? "speech-en-16k.wav"
                            : "speech-en-48k.wav";
}

// Speech through encoder and decoder, 20 ms at a time, delay taken out.
double round_trip_snr(CodecId id, int rate_hz, const CodecOptions& options = {}) {
  const Samples speech = read_wav(speech_name(rate_hz));
  const auto encoder = make_encoder(id, rate_hz, options);
  const auto decoder = make_decoder(id, rate_hz);
  const size_t frame = static_cast<size_t>(rate_hz) / 50;
  Samples heard;
  std::array<uint8_t, kPayloadBytesMax> payload;
  std::array<int16_t, kFrameMax> out;
  for (size_t at = 0; at + frame <= speech.size(); at += frame) {
    const int bytes = encoder->encode({&speech[at], frame}, payload);
    const int count = decoder->decode({payload.data(), static_cast<size_t>(bytes)}, out);
    if (count != static_cast<int>(frame)) return -100;
    heard.insert(heard.end(), out.begin(), out.begin() + count);
  }
  const auto half_second = static_cast<size_t>(rate_hz) / 2;
  const std::span<const int16_t> all(heard);
  const size_t from = speech.size() / 3;
  const int lag = lag_of(std::span(speech).subspan(from, half_second), all.subspan(from),
                         rate_hz / 50);
  return segmental_snr(speech, all.subspan(static_cast<size_t>(lag)), rate_hz);
}

TEST("G.711 codes survive decoding and encoding") {
  int ulaw_changed = 0;
  int alaw_changed = 0;
  for (int code = 0; code < 256; ++code) {
    const std::array<uint8_t, 1> in{static_cast<uint8_t>(code)};
    std::array<int16_t, 1> linear;
    std::array<uint8_t, 1> back;
    ulaw_decode(in, linear);
    CHECK(linear[0] == ulaw_to_linear(in[0]));
    ulaw_encode(linear, back);
    ulaw_changed += back != in ? 1 : 0;
    alaw_decode(in, linear);
    CHECK(linear[0] == alaw_to_linear(in[0]));
    alaw_encode(linear, back);
    alaw_changed += back != in ? 1 : 0;
  }

  CHECK(ulaw_changed == 1);  // minus zero (0x7f) comes back as plus zero
  CHECK(alaw_changed == 0);
}

TEST("G.711 encoding takes the nearest value over the whole range") {
  int worse = 0;
  for (int value = -32768; value <= 32767; ++value) {
    const std::array<int16_t, 1> in{static_cast<int16_t>(value)};
    std::array<uint8_t, 1> code;
    std::array<int16_t, 1> back;
    ulaw_encode(in, code);
    ulaw_decode(code, back);
    // A step is magnitude/16 at most (plus the bias), the error half of that.
    const int ulaw_error = std::abs(value - back[0]);
    const int ulaw_allowed = (std::min(std::abs(value), 32635) + 132) / 32 + 5;
    worse += ulaw_error > ulaw_allowed && std::abs(value) < 32124 ? 1 : 0;
    alaw_encode(in, code);
    alaw_decode(code, back);
    const int alaw_allowed = std::max(std::abs(value) / 32, 8) + 8;
    worse += std::abs(value - back[0]) > alaw_allowed && std::abs(value) < 32256 ? 1 : 0;
  }

  CHECK(worse == 0);
}

TEST("G.711 law to law follows tables 3 and 4 of the recommendation") {
  int worse = 0;
  for (int code = 0; code < 256; ++code) {
    std::array<uint8_t, 1> byte{static_cast<uint8_t>(code)};
    ulaw_to_alaw(byte, byte);
    CHECK(byte[0] == ::ulaw_to_alaw(static_cast<uint8_t>(code)));
    const int meant = ulaw_to_linear(static_cast<uint8_t>(code));
    worse += std::abs(alaw_to_linear(byte[0]) - meant) > std::max(std::abs(meant) / 16, 16);
    byte[0] = static_cast<uint8_t>(code);
    alaw_to_ulaw(byte, byte);
    CHECK(byte[0] == ::alaw_to_ulaw(static_cast<uint8_t>(code)));
  }

  CHECK(worse == 0);
}

// Codes from one linear value to the other.
int steps_between(int16_t a, int16_t b, bool ulaw) {
  int steps = 0;
  for (int code = 0; code < 256; ++code) {
    const auto byte = static_cast<uint8_t>(code);
    const int value = ulaw ? ulaw_to_linear(byte) : alaw_to_linear(byte);
    steps += value > std::min(a, b) && value <= std::max(a, b) && (byte != 0x7f || !ulaw) ? 1 : 0;
  }
  return steps;
}

TEST("G.711 decodes and encodes the reference files") {
  if (!have_shared()) return skip("no shared test data");
  const Samples speech = read_wav("speech-en-8k.wav");
  for (const bool ulaw : {true, false}) {
    const Bytes reference = read_file(shared_path(ulaw ? "media/speech-en.ulaw"
                                                       : "media/speech-en.alaw"));
    Samples heard(reference.size());
    (ulaw ? ulaw_decode : alaw_decode)(reference, heard);
    const double snr = segmental_snr(speech, heard, 8000);
    Bytes ours(speech.size());
    (ulaw ? ulaw_encode : alaw_encode)(speech, ours);
    Samples ours_heard(ours.size());
    (ulaw ? ulaw_decode : alaw_decode)(ours, ours_heard);
    // Encoders may differ at the edge of a step: the recommendation codes 14 or 13 bits and its
    // decision values between segments are not the middle; the reference took the nearest value
    // of all 16 bits. Never by more than one step.
    size_t equal = 0;
    int apart = 0;
    const size_t both = std::min(ours.size(), reference.size());
    for (size_t i = 0; i < both; ++i) {
      equal += ours[i] == reference[i] ? 1 : 0;
      const bool differ = ours[i] != reference[i];
      apart += differ && steps_between(ours_heard[i], heard[i], ulaw) > 1 ? 1 : 0;
    }
    const double same = 100.0 * static_cast<double>(equal) / static_cast<double>(both);
    note("%s: reference heard at %.1f dB, %.2f %% of codes equal", ulaw ? "mu" : "A", snr, same);
    CHECK_LEAST(snr, 36);
    CHECK_LEAST(same, 93);
    CHECK(apart == 0);
  }
}

// The waveform of Opus differs by its high-pass filter and by what is not heard: low numbers.
TEST("codecs give back the speech they were given") {
  if (!have_shared()) return skip("no shared test data");
  struct Row {
    CodecId id;
    int rate_hz;
    int bitrate;
    double least_db;
  };
  for (const Row& row : {Row{CodecId::kPcmu, 8000, 0, 36}, Row{CodecId::kPcma, 8000, 0, 36},
                         Row{CodecId::kG722, 16000, 0, 27}, Row{CodecId::kG722, 8000, 0, 33},
                         Row{CodecId::kOpus, 8000, 0, 7.5}, Row{CodecId::kOpus, 16000, 0, 8},
                         Row{CodecId::kOpus, 48000, 0, 7.5},
                         Row{CodecId::kOpus, 48000, 128000, 9}}) {
    CodecOptions options;
    options.opus_bitrate_bps = row.bitrate;
    const double snr = round_trip_snr(row.id, row.rate_hz, options);
    note("codec %d at %d Hz, %d bit/s: %.1f dB", static_cast<int>(row.id), row.rate_hz, row.bitrate,
         snr);
    CHECK_LEAST(snr, row.least_db);
  }
}

TEST("G.722 and Opus decode the reference files") {
  if (!have_shared()) return skip("no shared test data");
  const Samples speech = read_wav("speech-en-16k.wav");
  Samples heard;
  std::array<int16_t, kFrameSamplesMax> out;

  const Bytes g722 = read_file(shared_path("media/speech-en.g722"));
  const auto decoder = make_decoder(CodecId::kG722, 16000);
  for (size_t at = 0; at + 160 <= g722.size(); at += 160) {
    const int count = decoder->decode({&g722[at], 160}, out);
    heard.insert(heard.end(), out.begin(), out.begin() + count);
  }
  const size_t from = speech.size() / 3;
  const std::span<const int16_t> part = std::span(speech).subspan(from, 8000);
  int lag = lag_of(part, std::span<const int16_t>(heard).subspan(from), 64);
  const auto late = [&] {
    return std::span<const int16_t>(heard).subspan(static_cast<size_t>(lag));
  };
  note("G.722 reference: %.1f dB, lag %d", segmental_snr(speech, late(), 16000), lag);
  CHECK_LEAST(segmental_snr(speech, late(), 16000), 27);

  heard.clear();
  const auto opus = make_decoder(CodecId::kOpus, 16000);
  for (const Bytes& packet : read_ogg_packets("speech-en.opus")) {
    const int count = opus->decode(packet, out);
    CHECK(count == payload_duration_ticks(CodecId::kOpus, packet) / 3);
    if (count > 0) heard.insert(heard.end(), out.begin(), out.begin() + count);
  }
  lag = lag_of(part, std::span<const int16_t>(heard).subspan(from), 320);
  note("Opus reference: %.1f dB, lag %d", segmental_snr(speech, late(), 16000), lag);
  CHECK_LEAST(segmental_snr(speech, late(), 16000), 5);
}

// 16-bit big-endian words; those with the lowest bit set are the reset flag around the sequence.
Samples read_vector(const char* name) {
  const Bytes bytes = read_file(shared_path(std::string("vectors/g722-itu/") + name));
  Samples words;
  for (size_t i = 0; i + 2 <= bytes.size(); i += 2) {
    const int word = bytes[i] << 8 | bytes[i + 1];
    if ((word & 1) == 0) words.push_back(static_cast<int16_t>(word));
  }
  return words;
}

uint8_t code_of(int16_t word) { return static_cast<uint8_t>(static_cast<uint16_t>(word) >> 8); }

// The sequences of G.722 Appendix II work at the sub-bands, below the filter bank. The library has
// a test mode for just that, reached through its private header; it is the code our codec runs.
// Only mode 1 (64 kbit/s): RTP has no other (RFC 3551 section 4.5.2).
TEST("the G.722 library is exact on the ITU sequences") {
  if (read_vector("bt1c1.xmt").empty()) return skip("no ITU vectors");
  for (const auto& [sent, coded] :
       {std::pair{"bt1c1.xmt", "bt2r1.cod"}, {"bt1c2.xmt", "bt2r2.cod"}}) {
    const Samples in = read_vector(sent);
    const Samples wanted = read_vector(coded);
    g722_encode_state_t* state = g722_encode_init(nullptr, 64000, 0);
    state->itu_test_mode = 1;
    Bytes codes(in.size());
    const int count = g722_encode(state, codes.data(), in.data(), static_cast<int>(in.size()));
    g722_encode_free(state);
    CHECK(count == static_cast<int>(wanted.size()));
    int wrong = 0;
    for (size_t i = 0; i < wanted.size(); ++i) wrong += codes[i] != code_of(wanted[i]);
    CHECK(wrong == 0);
  }
  struct Row {
    const char* coded;
    const char* low;
    const char* high;
  };
  for (const Row& row : {Row{"bt2r1.cod", "bt3l1.rc1", "bt3h1.rc0"},
                         Row{"bt2r2.cod", "bt3l2.rc1", "bt3h2.rc0"},
                         Row{"bt1d3.cod", "bt3l3.rc1", "bt3h3.rc0"}}) {
    const Samples coded = read_vector(row.coded);
    const Samples low = read_vector(row.low);
    const Samples high = read_vector(row.high);
    Bytes codes;
    for (const int16_t word : coded) codes.push_back(code_of(word));
    g722_decode_state_t* state = g722_decode_init(nullptr, 64000, 0);
    state->itu_test_mode = 1;
    Samples out(codes.size() * 2);
    g722_decode(state, out.data(), codes.data(), static_cast<int>(codes.size()));
    g722_decode_free(state);
    int wrong = 0;
    CHECK(low.size() == codes.size() && high.size() == codes.size());
    for (size_t i = 0; i < low.size(); ++i) {
      wrong += out[2 * i] != low[i] || out[2 * i + 1] != high[i];
    }
    CHECK(wrong == 0);
  }
}

// Speech with every fifth packet lost; `fec` or plain concealment. SNR over the lost frames.
double lost_frames_snr(bool fec) {
  const Samples speech = read_wav("speech-en-16k.wav");
  const auto encoder = make_encoder(CodecId::kOpus, 16000, CodecOptions{});
  const auto decoder = make_decoder(CodecId::kOpus, 16000);
  encoder->set_loss(20);
  std::array<uint8_t, kPayloadBytesMax> payload;
  Samples heard;
  Samples meant;
  std::array<int16_t, 320> out;
  bool lost = false;
  for (size_t at = 0, number = 0; at + 320 <= speech.size(); at += 320, ++number) {
    const auto bytes = static_cast<size_t>(encoder->encode({&speech[at], 320}, payload));
    const std::span<const uint8_t> packet(payload.data(), bytes);
    if (lost) {
      fec ? decoder->decode_fec(packet, out) : decoder->conceal(out);
      heard.insert(heard.end(), out.begin(), out.end());
      // The codec's delay at 16 kHz: 6.5 ms of look-ahead.
      meant.insert(meant.end(), &speech[at - 320 - 104], &speech[at - 104]);
    }
    lost = number % 5 == 4;
    if (!lost) decoder->decode(packet, out);
  }
  return segmental_snr(meant, heard, 16000);
}

TEST("Opus rebuilds a lost packet from the next one") {
  if (!have_shared()) return skip("no shared test data");
  const double rebuilt = lost_frames_snr(true);
  const double concealed = lost_frames_snr(false);

  note("lost frames: %.1f dB rebuilt, %.1f dB concealed", rebuilt, concealed);
  CHECK_LEAST(rebuilt, concealed + 2);
}

TEST("Opus sends nothing in a long pause, and says so first") {
  CodecOptions options;
  options.opus_dtx = true;
  const auto encoder = make_encoder(CodecId::kOpus, 16000, options);
  const Samples silence(320);
  std::array<uint8_t, kPayloadBytesMax> payload;
  int announced = 0;
  int nothing = 0;
  bool announced_first = true;

  for (int i = 0; i < 150; ++i) {
    const int bytes = encoder->encode(silence, payload);
    if (bytes == 0 && announced == 0) announced_first = false;
    announced += is_dtx_payload(CodecId::kOpus, {payload.data(), static_cast<size_t>(bytes)});
    nothing += bytes == 0 ? 1 : 0;
  }

  CHECK(announced_first);
  CHECK_BETWEEN(announced, 1, 10);
  CHECK_LEAST(nothing, 110);
}

TEST("payload durations and pauses are told from the bytes") {
  const Bytes g711(480);
  CHECK(payload_duration_ticks(CodecId::kPcmu, g711) == 480);
  CHECK(payload_duration_ticks(CodecId::kG722, std::span(g711).first(160)) == 160);
  CHECK(payload_duration_ticks(CodecId::kPcma, {}) == 0);
  const Bytes silk20{0x08, 1, 2, 3};       // configuration 1: SILK narrow band, 20 ms, one frame
  CHECK(payload_duration_ticks(CodecId::kOpus, silk20) == 960);
  const Bytes too_long{0x1b, 0x3f, 1, 2};  // 63 frames of 60 ms
  CHECK(payload_duration_ticks(CodecId::kOpus, too_long) == 0);
  CHECK(is_dtx_payload(CodecId::kOpus, std::span(silk20).first(1)));
  CHECK(!is_dtx_payload(CodecId::kPcmu, std::span(g711).first(1)));
  CHECK(clock_rate_hz(CodecId::kOpus) == 48000 && clock_rate_hz(CodecId::kG722) == 8000);
}

TEST("hostile payloads never write past the frame") {
  constexpr int16_t kCanary = 0x5a5a;
  Chance chance(11);
  int damaged = 0;
  int wrong_count = 0;
  for (int id = 0; id < kCodecCount; ++id) {
    for (const int rate_hz : {8000, 16000, 48000}) {
      const auto decoder = make_decoder(static_cast<CodecId>(id), rate_hz);
      for (int i = 0; i < 400; ++i) {
        Bytes payload(static_cast<size_t>(chance.below(i % 10 == 0 ? 3000 : 200)));
        for (uint8_t& byte : payload) byte = static_cast<uint8_t>(chance.bits());
        const auto room = static_cast<size_t>(chance.below(1000));
        Samples out(room + 64, kCanary);
        const std::span<int16_t> frame(out.data(), room);
        const int count = decoder->decode(payload, frame);
        wrong_count += count > static_cast<int>(room) || count == 0 || count < -1;
        if (i % 3 == 0) decoder->conceal(frame);
        if (i % 3 == 1) decoder->decode_fec(payload, frame);
        damaged += !std::all_of(out.begin() + static_cast<ptrdiff_t>(room), out.end(),
                                [](int16_t sample) { return sample == kCanary; });
      }
    }
  }

  CHECK(damaged == 0);
  CHECK(wrong_count == 0);
}

TEST("encoders refuse frames and buffers that are not theirs") {
  const Samples frame(160);
  std::array<uint8_t, kPayloadBytesMax> out;
  for (const CodecId id : {CodecId::kPcmu, CodecId::kPcma, CodecId::kG722}) {
    const auto encoder = make_encoder(id, 8000, CodecOptions{});
    CHECK(encoder->encode(frame, std::span(out).first(10)) == -1);
    CHECK(encoder->encode({}, out) == -1);
    CHECK(encoder->encode(frame, out) == 160);
  }
  const auto wide = make_encoder(CodecId::kG722, 48000, CodecOptions{});
  CHECK(wide->sample_rate() == 16000);
  CHECK(wide->encode(std::span(frame).first(159), out) == -1);
  const auto opus = make_encoder(CodecId::kOpus, 8000, CodecOptions{});
  CHECK(opus->encode(std::span(frame).first(150), out) == -1);
  CHECK_BETWEEN(opus->encode(frame, out), 2, kPayloadBytesMax);
  CHECK(make_encoder(CodecId::kOpus, 44100, CodecOptions{}) == nullptr);
  CHECK(make_decoder(CodecId::kPcmu, 0) == nullptr);
  CHECK(make_decoder(static_cast<CodecId>(9), 8000) == nullptr);
}

}  // namespace
}  // namespace tandem::test
