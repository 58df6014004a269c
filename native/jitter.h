// Adaptive jitter buffer of one received stream. Sans-I/O: packets and times in, decisions out.
//
// Not the relay path (that has no buffer), no decoding, no RTP parsing: sequence numbers and
// timestamps come already unwrapped. After the model of NetEQ: each packet's delay relative to the
// fastest of the last two seconds goes into histograms with forgetting; the target delay is a high
// quantile; play-out is brought to it by stretching time (Pull::kAccelerate, kExpand) and by
// cutting or lengthening silence. Audio that is there is jumped over only above max_delay.
//
// Concealment does not move the play-out position by itself: a packet that comes after concealment
// began is still played (delay grows, to be shortened later), while a packet after a real loss is
// played as soon as as much was concealed as is missing.
//
// Play-out loop of the owner, once per tick, `fifo` being decoded audio not yet played:
//   while (fifo holds less than a frame) {
//     switch (buffer.pull(tick_us + fifo_us, ref, fifo_us)) {
//       case kFrame:      decode(ref.payload)
//       case kAccelerate: decode, then Stretch::accelerate (ref.urgent)
//       case kExpand:     decode, then Stretch::expand (ref.urgent)
//       case kFec:        decoder.decode_fec(ref.payload, ref.duration_ticks long)
//       case kLost:       decoder.conceal(ref.duration_ticks long)
//       case kSilence:    Opus: conceal (it makes the comfort noise); others: ComfortNoise
//       case kEmpty:      nothing is coming: silence, ref.duration_ticks long
//     }
//   }
// Every answer carries ref.duration_ticks > 0, so the loop ends; for what has no payload it is a
// multiple of 2.5 ms and at most 20 ms.
//
// Two times matter: when a packet is asked for, which is its deadline, and when it will be heard,
// later by what the fifo holds. The target is held against the first. Since asking happens on
// ticks, the deadline moves in steps of a tick however little a splice takes out: the buffer
// leaves it alone in a band one tick wide above the target.
//
// Memory: all slots are allocated at construction; the slot used last is used first, so only as
// many are touched as packets wait. ref.payload is valid until the next insert() or reset().
// One thread at a time.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace tandem {

struct JitterOptions {
  int clock_rate_hz = 8000;   // of the RTP timestamps
  int min_delay_ms = 20;      // target never below
  int max_delay_ms = 200;     // target never above; audio older than this is dropped
  int tick_ms = 20;           // how often the owner pulls
  int packet_ms = 20;         // spacing assumed until packets tell
  int slots = 64;             // packets that can wait; the oldest is dropped when full
  int slot_bytes = 1280;      // larger payloads are refused
  bool fec = false;           // payloads carry redundancy of their predecessor (Opus)
  int dtx_bytes_max = 0;      // payloads up to this size start a silence (Opus: 2)
};

enum class Pull : uint8_t { kFrame, kLost, kFec, kSilence, kEmpty, kExpand, kAccelerate };

enum class Insert : uint8_t {
  kStored,
  kDuplicate,  // seen before
  kLate,       // its time has passed; counted as a late discard
  kTooBig,     // larger than a slot
};

struct PayloadRef {
  std::span<const uint8_t> payload;  // kFrame, kAccelerate, kExpand, kFec
  int64_t seq = 0;
  int64_t ts = 0;
  int64_t arrival_us = 0;
  int duration_ticks = 0;            // always set: how much audio this answer stands for
  bool marker = false;
  bool urgent = false;               // far from the target: stretch even where it may be heard
};

struct JitterStats {
  uint64_t received = 0;
  uint64_t played = 0;          // packets handed out
  uint64_t duplicates = 0;
  uint64_t late_discards = 0;   // arrived after their time
  uint64_t overflows = 0;       // dropped: no slot, too big, or older than max_delay
  uint64_t lost = 0;            // missing when play-out passed their place
  uint64_t fec = 0;             // of these, rebuilt from redundancy
  uint64_t accelerates = 0;
  uint64_t expands = 0;
  uint64_t resyncs = 0;         // timestamp jumps followed
  int64_t concealed_ticks = 0;  // audio asked for by kLost
};

class JitterBuffer {
 public:
  static constexpr int64_t kFifoUnknown = -1;

  explicit JitterBuffer(const JitterOptions& options);

  // duration_ticks: how long the payload plays (codec.h payload_duration_ticks); 0: learnt from
  // the spacing of timestamps. arrival_us and now_us are of one monotonic clock.
  Insert insert(int64_t seq, int64_t ts, int64_t arrival_us, std::span<const uint8_t> payload,
                bool marker, int duration_ticks = 0);
  // A packet of the stream that carries no audio (telephone event, comfort noise): its number is
  // not a loss, and the pause it makes is a silence.
  void note(int64_t seq);
  // play_us: when the first sample asked for will be heard (tick time plus fifo_us).
  // fifo_us: audio decoded but not yet played; unknown costs up to a tick of extra delay.
  Pull pull(int64_t play_us, PayloadRef& out, int64_t fifo_us = kFifoUnknown);
  // New source (SSRC change, codec change): forgets packets, delays and timing; keeps counters.
  void reset();

  int target_delay_ms() const { return static_cast<int>(target_us_ / 1000); }
  // Delay at which audio is heard, relative to the fastest packets.
  int delay_ms() const { return static_cast<int>(delay_us_ / 1000); }
  int waiting() const { return static_cast<int>(entries_.size()); }
  int packet_ms() const;
  const JitterStats& stats() const { return stats_; }

 private:
  static constexpr int kBuckets = 128;    // of 5 ms; the last one holds all above
  static constexpr int kMinBlocks = 4;    // fastest transit: minimum over four half seconds

  // Distribution of relative delay with exponential forgetting.
  class Histogram {
   public:
    explicit Histogram(float forget) : forget_(forget) {}
    void add(int64_t delay_us);
    int64_t quantile_us(float probability) const;  // upper edge of the bucket
    void clear();

   private:
    float forget_;
    int seen_ = 0;
    std::array<float, kBuckets> weight_{};
  };

  struct Entry {
    int64_t seq;
    int64_t ts;          // on our own time line: starts at 0, jumps taken out
    int64_t raw_ts;
    int64_t arrival_us;
    int32_t duration;    // ticks
    uint16_t bytes;
    uint16_t slot;
    bool marker;
  };

  enum class State : uint8_t {
    kIdle,     // nothing came for long, or never: the next packet starts anew
    kWaiting,  // a packet is there, but its time has not come
    kPlaying,
  };

  int64_t to_us(int64_t ticks) const { return ticks * 1000000 / options_.clock_rate_hz; }
  int64_t to_ticks(int64_t us) const { return us * options_.clock_rate_hz / 1000000; }
  int64_t age_us(int64_t time_us, int64_t ts) const;  // past the fastest possible play-out
  bool unseen(int64_t seq);
  bool place(int64_t seq, int64_t raw_ts, int64_t time_us, int64_t& ts);
  void start(int64_t seq, int64_t raw_ts, int64_t arrival_us);
  void learn_spacing(int64_t seq_step, int64_t ts_step);
  void observe(int64_t time_us, int64_t ts);
  void retarget(int64_t time_us);
  Insert insert_placed(Entry entry, int64_t time_us, std::span<const uint8_t> payload,
                       int duration_ticks);
  Insert late();
  bool store(const Entry& entry, std::span<const uint8_t> payload);
  void drop_first();
  void drop_too_old(int64_t time_us);
  void count_lost(int64_t first_seq, int64_t time_us);
  int64_t missing_before(int64_t seq) const;
  bool is_due(int64_t time_us, const Entry& entry) const;
  Pull wait(int64_t time_us, PayloadRef& out);
  Pull starve(PayloadRef& out);
  Pull cross_gap(int64_t time_us, PayloadRef& out);
  Pull play(int64_t time_us, PayloadRef& out);
  Pull stretch(int64_t time_us, int64_t fetch_age_us, PayloadRef& out);
  Pull filler(Pull kind, int64_t ticks, PayloadRef& out);
  void refer(const Entry& entry, PayloadRef& out) const;

  JitterOptions options_;
  int quantum_;                     // 2.5 ms in ticks
  std::unique_ptr<uint8_t[]> bytes_;
  std::vector<uint16_t> free_;      // stack of slots
  std::vector<Entry> entries_;      // ordered by seq

  State state_ = State::kIdle;
  bool silence_ = false;            // the gap we are in is a pause of the sender, not a loss
  bool anchored_ = false;           // next_seq_ and next_ts_ mean something
  int64_t next_seq_ = 0;
  int64_t next_ts_ = 0;
  int64_t held_ = 0;                // ticks filled while next_ts_ stood still
  int64_t fifo_us_ = 0;             // of the pull that runs
  int64_t wait_fill_us_ = 0;        // what completes the tick
  int64_t last_stretch_us_ = 0;
  int64_t delay_us_ = 0;

  bool started_ = false;            // a packet was seen since reset
  int64_t origin_us_ = 0;           // arrival of the first: all times inside count from here
  int64_t placed_seq_ = 0;          // newest packet on the time line
  int64_t placed_ts_ = 0;
  int64_t placed_raw_ts_ = 0;
  int64_t placed_us_ = 0;
  int64_t newest_seq_ = 0;
  uint64_t seen_mask_ = 0;          // bit n: newest_seq_ - n was received
  uint64_t noted_mask_ = 0;         // and carries no audio
  int stale_run_ = 0;               // packets in a row with impossible numbers
  int64_t packet_ticks_ = 0;
  int64_t spacing_candidate_ = 0;

  Histogram fast_;
  Histogram slow_;
  std::array<int64_t, kMinBlocks> block_min_us_{};
  int64_t block_start_us_ = 0;
  int64_t base_us_ = 0;             // fastest transit of the last two seconds
  int64_t target_us_ = 0;
  int64_t target_at_us_ = 0;
  int64_t loss_until_us_ = 0;       // redundancy is worth waiting for until then

  JitterStats stats_;
};

}  // namespace tandem
