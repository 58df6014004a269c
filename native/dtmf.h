// DTMF: telephone events in RTP (RFC 4733) received and sent, tones in the audio heard and made.
//
// Not RTP (the owner splits payload types and keeps sequence numbers), no decision what to report
// when a digit comes both ways. Keys are indices into "0123456789*#ABCD", which are the event codes
// of RFC 4733 section 3.2. A digit is reported once, when it ends.
//
// No allocation after construction; one thread at a time.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "tone.h"

struct dtmf_rx_state_s;

namespace tandem {

inline constexpr char kDtmfKeys[] = "0123456789*#ABCD";
inline constexpr int kDtmfKeyCount = 16;
inline constexpr int kNoKey = -1;
// Index of a key written as text (either case), kNoKey when it is none.
int dtmf_key(char text);

struct DtmfDigit {
  int key = kNoKey;
  int duration_ms = 0;
};

// Receiving side of RFC 4733. Survives any loss that leaves one packet of a digit, repeats,
// reordering, missing end packets, digits longer than 65535 units (section 2.5.1.3) and senders
// that wrongly advance the timestamp within a digit.
class EventReceiver {
 public:
  explicit EventReceiver(int clock_rate_hz) : clock_rate_hz_(clock_rate_hz) {}

  // One event packet. Returns how many digits ended by it (0..2): its own, and the one before when
  // that one's end was lost. Order of `digits` is the order of pressing.
  int receive(uint32_t ssrc, uint32_t ts, bool marker, std::span<const uint8_t> payload,
              int64_t now_us, std::span<DtmfDigit, 2> digits);
  // Call each tick: reports the digit whose end packets were all lost. Returns 0 or 1.
  int poll(int64_t now_us, DtmfDigit& digit);
  // A digit is going on: audio around it should not be passed on (RFC 4733 section 2.5.1.6).
  bool active() const { return active_; }
  // Forgets the digit that is going on; what has ended stays known.
  void abandon() { active_ = false; }
  void reset();

 private:
  static constexpr uint8_t kUnused = 0xff;
  static constexpr int kDoneMax = 8;  // digits remembered, so that repeats are known
  struct Done {
    uint32_t ssrc = 0;
    uint32_t ts = 0;        // start
    uint32_t units = 0;     // length
    uint8_t key = kUnused;
  };
  bool is_done(uint32_t ssrc, uint32_t ts, uint8_t key) const;
  bool continues(uint32_t ts, bool marker) const;
  bool is_before(uint32_t ts, uint32_t reference) const;
  const Done* last_done(uint32_t ssrc) const;
  void remember(const Done& done);
  DtmfDigit digit_of(uint8_t key, uint32_t units) const;
  DtmfDigit finish();

  int clock_rate_hz_;
  bool active_ = false;
  uint8_t key_ = 0;
  uint32_t ssrc_ = 0;
  uint32_t start_ts_ = 0;     // of the digit
  uint32_t segment_ts_ = 0;   // of its current segment
  uint32_t segment_units_ = 0;
  int64_t last_us_ = 0;
  std::array<Done, kDoneMax> done_{};
  int done_next_ = 0;
};

// Sending side of RFC 4733: a queue of digits and pauses turned into packets, one per packet time.
class EventSender {
 public:
  static constexpr int kQueueMax = 64;
  enum class Step : uint8_t {
    kIdle,   // nothing to send: audio as usual
    kEvent,  // send `packet` instead of audio
    kPause,  // between digits: audio as usual, but digits are still waiting
  };
  struct Packet {
    std::array<uint8_t, 4> payload{};
    uint32_t timestamp = 0;  // of the digit's start, not of now
    bool marker = false;
  };

  EventSender(int clock_rate_hz, int ptime_ms, int volume_dbm0 = 10);

  // Queues a digit; at least 40 ms long (Q.24) with at least 40 ms after it; lengths are rounded
  // up to packets and bounded at 10 s. false: queue full or no such key.
  bool push(int key, int duration_ms = 100, int gap_ms = 100);
  bool push_pause(int duration_ms);
  // Once each packet time; ts_now is the timestamp that audio sent now would carry.
  Step next(uint32_t ts_now, Packet& packet);
  bool busy() const { return count_ > 0 || phase_ != Phase::kNone; }
  // Drops what waits; a digit on the line is ended properly.
  void cancel();

 private:
  enum class Phase : uint8_t { kNone, kOn, kEnd, kGap };
  struct Item {
    int8_t key;          // kNoKey: pause
    int32_t packets;     // on, or length of the pause
    int32_t gap_packets;
  };
  int packets_of(int ms) const;
  bool put(const Item& item);
  void fill(bool end, Packet& packet) const;
  Step begin(uint32_t ts_now, Packet& packet);
  Step sound(Packet& packet);

  int ptime_ms_;
  uint32_t packet_units_;
  uint8_t volume_;
  std::array<Item, kQueueMax> queue_{};
  int head_ = 0;
  int count_ = 0;
  Phase phase_ = Phase::kNone;
  Item now_{};
  int left_ = 0;
  uint32_t ts_ = 0;
  uint32_t units_ = 0;
};

// Hears digits in 8 kHz audio (libspandsp). Durations are right to about 13 ms.
class InbandDetector {
 public:
  InbandDetector();
  ~InbandDetector();
  InbandDetector(const InbandDetector&) = delete;
  InbandDetector& operator=(const InbandDetector&) = delete;

  // One frame of 8 kHz audio (at most 60 ms). Returns how many digits ended in it (0..2).
  int process(std::span<const int16_t> frame, std::span<DtmfDigit, 2> digits);
  bool active() const { return key_ != kNoKey; }
  // Forgets the digit that is going on: the audio after it is another's.
  void abandon() { key_ = kNoKey; }

 private:
  struct Free {
    void operator()(dtmf_rx_state_s* state) const;
  };
  static void report(void* self, int code, int level, int delay);

  std::unique_ptr<dtmf_rx_state_s, Free> state_;
  int64_t samples_ = 0;   // heard so far
  int64_t started_ = 0;
  int key_ = kNoKey;
  std::array<DtmfDigit, 2> ended_{};
  int ended_count_ = 0;
};

// Makes digits in the audio: a queue of digits and pauses turned into samples.
class DtmfTone {
 public:
  static constexpr int kQueueMax = 64;
  // Level of the low group; the high group is 2 dB above it (line pre-emphasis, Q.23 practice).
  explicit DtmfTone(int rate_hz, float level_dbov = -16.0f);

  bool push(int key, int duration_ms = 100, int gap_ms = 100);  // false: full or no such key
  bool push_pause(int duration_ms);
  // Fills `out`; zeros when there is nothing. Returns samples up to the end of the last gap.
  int generate(std::span<int16_t> out);
  bool busy() const { return count_ > 0 || left_ > 0; }
  void cancel() { count_ = 0; left_ = 0; }

 private:
  struct Item {
    int8_t key;
    int32_t on_ms;
    int32_t gap_ms;
  };
  bool put(const Item& item);
  void start_next();

  int rate_hz_;
  float level_dbov_;
  int edge_samples_;
  std::array<Item, kQueueMax> queue_{};
  int head_ = 0;
  int count_ = 0;
  int on_ = 0;        // samples of tone in the current item
  int position_ = 0;
  int left_ = 0;      // samples left of the current item, gap included
  std::array<Oscillator, 2> oscillators_;
};

}  // namespace tandem
