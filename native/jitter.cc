// See jitter.h. Model: libwebrtc modules/audio_coding/neteq (g3doc), RFC 3550 appendix A.1 for
// sequence restarts.
#include "jitter.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>

namespace tandem {
namespace {

constexpr int64_t kMs = 1000;  // microseconds

// Delay estimate. Two memories: about one second at 50 packets a second, which follows a network
// that got worse, and ten seconds, which remembers that it does so now and then.
constexpr int64_t kBucketUs = 5 * kMs;
constexpr float kForgetFast = 0.98f;
constexpr float kForgetSlow = 0.998f;
constexpr float kQuantileFast = 0.95f;   // NetEQ's UnderrunOptimizer
constexpr float kQuantileSlow = 0.985f;  // late-loss budget of about 1 %
constexpr int64_t kBlockUs = 500 * kMs;
constexpr int64_t kShrinkUsPerSecond = 20 * kMs;

// Stretching: a splice about every third 20 ms packet is not heard as a change of speed.
constexpr int64_t kStretchEveryUs = 60 * kMs;
constexpr int64_t kStretchSlackUs = 5 * kMs;     // one bucket: the target's own noise
constexpr int64_t kSpliceUsMax = 12'500;         // stretch.h: most that one splice takes out
constexpr int64_t kUrgentUs = 80 * kMs;

constexpr int64_t kFillerMs = 20;           // a packet may come while we fill: ask again soon
constexpr int64_t kIdleAfterUs = 500 * kMs;  // Opus DTX sends at least each 400 ms
constexpr int64_t kConcealUsMax = 120 * kMs;  // longer known gaps are waited through
constexpr int64_t kJumpUs = 1000 * kMs;     // timestamp against arrival: the sender's clock jumped
constexpr int64_t kTicksSane = int64_t{1} << 40;  // 265 days at 48 kHz; larger would overflow
constexpr int64_t kAheadUsMax = 3600 * 1000 * kMs;  // a clock run away that far starts anew
constexpr int kStaleRunMax = 5;             // then it is a restarted sender (RFC 3550 A.1)
constexpr int64_t kDropoutMax = 3000;       // RFC 3550 A.1: a larger step is not a loss
constexpr int64_t kLossMemoryUs = 10'000 * kMs;
constexpr int kSeenWindow = 64;

// Differences of numbers that come from the network: defined for any two values.
int64_t distance(int64_t to, int64_t from) {
  return static_cast<int64_t>(static_cast<uint64_t>(to) - static_cast<uint64_t>(from));
}

JitterOptions bounded(JitterOptions options) {
  options.clock_rate_hz = std::clamp(options.clock_rate_hz, 8000, 96000);
  options.min_delay_ms = std::clamp(options.min_delay_ms, 0, 500);
  options.max_delay_ms = std::clamp(options.max_delay_ms, options.min_delay_ms, 600);
  options.tick_ms = std::clamp(options.tick_ms, 1, 100);
  options.packet_ms = std::clamp(options.packet_ms, 5, 120);
  options.slots = std::clamp(options.slots, 4, 1024);
  options.slot_bytes = std::clamp(options.slot_bytes, 1, 65535);
  return options;
}

}  // namespace

// ---- delay statistics

void JitterBuffer::Histogram::add(int64_t delay_us) {
  const auto bucket = std::clamp<int64_t>(delay_us / kBucketUs, 0, kBuckets - 1);
  // While young, a plain average: the first packets count alike.
  const float forget = std::min(forget_, 1.0f - 1.0f / static_cast<float>(++seen_));
  seen_ = std::min(seen_, 1'000'000);
  for (float& weight : weight_) weight *= forget;
  weight_[static_cast<size_t>(bucket)] += 1.0f - forget;
}

int64_t JitterBuffer::Histogram::quantile_us(float probability) const {
  float above = 0.0f;
  for (int bucket = kBuckets - 1; bucket > 0; --bucket) {
    above += weight_[static_cast<size_t>(bucket)];
    if (above > 1.0f - probability) return (bucket + 1) * kBucketUs;
  }
  return kBucketUs;
}

void JitterBuffer::Histogram::clear() {
  weight_.fill(0.0f);
  seen_ = 0;
}

JitterBuffer::JitterBuffer(const JitterOptions& options)
    : options_(bounded(options)),
      quantum_(options_.clock_rate_hz / 400),
      bytes_(std::make_unique_for_overwrite<uint8_t[]>(static_cast<size_t>(options_.slots) *
                                                       static_cast<size_t>(options_.slot_bytes))),
      fast_(kForgetFast),
      slow_(kForgetSlow) {
  free_.reserve(static_cast<size_t>(options_.slots));
  entries_.reserve(static_cast<size_t>(options_.slots));
  reset();
}

void JitterBuffer::reset() {
  free_.clear();
  for (int slot = options_.slots - 1; slot >= 0; --slot) {
    free_.push_back(static_cast<uint16_t>(slot));
  }
  entries_.clear();
  state_ = State::kIdle;
  silence_ = false;
  anchored_ = false;
  held_ = 0;
  last_stretch_us_ = 0;
  delay_us_ = 0;
  started_ = false;
  seen_mask_ = 0;
  noted_mask_ = 0;
  stale_run_ = 0;
  packet_ticks_ = int64_t{options_.packet_ms} * options_.clock_rate_hz / 1000;
  spacing_candidate_ = 0;
  fast_.clear();
  slow_.clear();
  base_us_ = 0;
  target_us_ = options_.min_delay_ms * kMs;
  target_at_us_ = 0;
  loss_until_us_ = 0;
}

int JitterBuffer::packet_ms() const {
  return static_cast<int>(to_us(packet_ticks_) / kMs);
}

int64_t JitterBuffer::age_us(int64_t time_us, int64_t ts) const {
  return time_us - to_us(ts) - base_us_;
}

void JitterBuffer::observe(int64_t time_us, int64_t ts) {
  const int64_t transit_us = time_us - to_us(ts);
  if (time_us - block_start_us_ >= kBlockUs) {
    const int64_t blocks = std::min<int64_t>((time_us - block_start_us_) / kBlockUs, kMinBlocks);
    block_start_us_ = time_us;
    for (int64_t i = 0; i < blocks; ++i) {
      std::rotate(block_min_us_.begin(), block_min_us_.end() - 1, block_min_us_.end());
      block_min_us_[0] = transit_us;
    }
  }
  block_min_us_[0] = std::min(block_min_us_[0], transit_us);
  base_us_ = *std::min_element(block_min_us_.begin(), block_min_us_.end());
  fast_.add(transit_us - base_us_);
  slow_.add(transit_us - base_us_);
  retarget(time_us);
}

// Up at once, down slowly: being late is heard, being a little later than needed is not.
void JitterBuffer::retarget(int64_t time_us) {
  int64_t wanted = std::max(fast_.quantile_us(kQuantileFast), slow_.quantile_us(kQuantileSlow));
  // Redundancy travels one packet behind: without that much delay it comes too late to help.
  if (options_.fec && time_us < loss_until_us_) wanted += to_us(packet_ticks_) + kBucketUs;
  wanted = std::clamp<int64_t>(wanted, options_.min_delay_ms * kMs, options_.max_delay_ms * kMs);
  const int64_t elapsed = std::clamp<int64_t>(time_us - target_at_us_, 0, 1000 * kMs);
  const int64_t lowest = target_us_ - elapsed * kShrinkUsPerSecond / (1000 * kMs);
  target_us_ = std::max(wanted, lowest);
  target_at_us_ = time_us;
}

// ---- packets in

// Marks a number as received; false when it was before.
bool JitterBuffer::unseen(int64_t seq) {
  const int64_t ahead = distance(seq, newest_seq_);
  if (ahead > 0) {
    seen_mask_ = ahead < kSeenWindow ? seen_mask_ << ahead : 0;
    noted_mask_ = ahead < kSeenWindow ? noted_mask_ << ahead : 0;
    newest_seq_ = seq;
    seen_mask_ |= 1;
    return true;
  }
  if (ahead <= -kSeenWindow) return true;  // too old to tell; refused as late
  const uint64_t bit = uint64_t{1} << -ahead;
  if ((seen_mask_ & bit) != 0) return false;
  seen_mask_ |= bit;
  return true;
}

void JitterBuffer::start(int64_t seq, int64_t raw_ts, int64_t arrival_us) {
  started_ = true;
  origin_us_ = arrival_us;
  placed_seq_ = seq;
  placed_raw_ts_ = raw_ts;
  placed_ts_ = 0;
  placed_us_ = 0;
  newest_seq_ = seq;
  seen_mask_ = 1;
  noted_mask_ = 0;
  block_min_us_.fill(0);
  block_start_us_ = 0;
}

// Shorter spacing is believed at once, longer only when seen twice in a row (a pause looks alike).
void JitterBuffer::learn_spacing(int64_t seq_step, int64_t ts_step) {
  const int64_t longest = int64_t{120} * options_.clock_rate_hz / 1000;
  if (seq_step != 1 || ts_step < quantum_ || ts_step > longest) return;
  if (ts_step < packet_ticks_ || ts_step == spacing_candidate_) packet_ticks_ = ts_step;
  spacing_candidate_ = ts_step;
}

// Puts a packet on our time line. false: its numbers make no sense any more (too old).
bool JitterBuffer::place(int64_t seq, int64_t raw_ts, int64_t time_us, int64_t& ts) {
  const int64_t seq_step = distance(seq, placed_seq_);
  const int64_t ts_step = distance(raw_ts, placed_raw_ts_);
  const bool sane = ts_step < kTicksSane && ts_step > -kTicksSane;
  if (seq_step <= 0) {
    if (seq_step <= -kSeenWindow || !sane || ts_step >= 0) return false;
    ts = placed_ts_ + ts_step;
    return to_us(-ts_step) <= kJumpUs;
  }
  const int64_t passed_us = time_us - placed_us_;
  const int64_t shift_us = sane ? to_us(ts_step) - passed_us : kJumpUs + 1;
  if (ts_step <= 0 || shift_us > kJumpUs || shift_us < -kJumpUs) {
    // The sender's clock jumped (new source behind the same SSRC, a hold that stopped the clock):
    // go on as if the packet had travelled like the one before it.
    ts = std::max(placed_ts_ + packet_ticks_, placed_ts_ + to_ticks(passed_us));
    ++stats_.resyncs;
  } else {
    ts = placed_ts_ + ts_step;
    learn_spacing(seq_step, ts_step);
  }
  if (to_us(ts) - time_us > kAheadUsMax) return false;
  placed_seq_ = seq;
  placed_raw_ts_ = raw_ts;
  placed_ts_ = ts;
  placed_us_ = time_us;
  return true;
}

Insert JitterBuffer::late() {
  ++stats_.late_discards;
  return Insert::kLate;
}

Insert JitterBuffer::insert(int64_t seq, int64_t ts, int64_t arrival_us,
                            std::span<const uint8_t> payload, bool marker, int duration_ticks) {
  ++stats_.received;
  if (payload.size() > static_cast<size_t>(options_.slot_bytes)) {
    ++stats_.overflows;
    return Insert::kTooBig;
  }
  Entry entry{seq, 0, ts, arrival_us, 0, 0, 0, marker};
  if (!started_) {
    start(seq, ts, arrival_us);
    return insert_placed(entry, 0, payload, duration_ticks);
  }
  if (!unseen(seq)) {
    ++stats_.duplicates;
    return Insert::kDuplicate;
  }
  const int64_t time_us = std::max<int64_t>(arrival_us - origin_us_, 0);
  if (place(seq, ts, time_us, entry.ts)) {
    stale_run_ = 0;
    return insert_placed(entry, time_us, payload, duration_ticks);
  }
  if (++stale_run_ < kStaleRunMax) return late();
  reset();
  start(seq, ts, arrival_us);
  entry.ts = 0;
  return insert_placed(entry, 0, payload, duration_ticks);
}

Insert JitterBuffer::insert_placed(Entry entry, int64_t time_us, std::span<const uint8_t> payload,
                                   int duration_ticks) {
  observe(time_us, entry.ts);
  if (anchored_ && (entry.ts < next_ts_ || distance(entry.seq, next_seq_) < 0)) return late();
  const int64_t longest = int64_t{120} * options_.clock_rate_hz / 1000;
  const int64_t duration = duration_ticks > 0 ? duration_ticks : packet_ticks_;
  entry.duration = static_cast<int32_t>(std::clamp<int64_t>(duration, quantum_, longest));
  if (duration_ticks > 0) packet_ticks_ = entry.duration;
  if (!store(entry, payload)) return Insert::kLate;
  if (state_ == State::kIdle) state_ = State::kWaiting;
  return Insert::kStored;
}

bool JitterBuffer::store(const Entry& entry, std::span<const uint8_t> payload) {
  if (free_.empty()) {
    ++stats_.overflows;
    if (entry.seq < entries_.front().seq) return false;
    drop_first();
  }
  auto at = entries_.end();
  while (at != entries_.begin() && (at - 1)->seq > entry.seq) --at;
  Entry& stored = *entries_.insert(at, entry);
  stored.slot = free_.back();
  stored.bytes = static_cast<uint16_t>(payload.size());
  free_.pop_back();
  if (!payload.empty()) {
    std::memcpy(bytes_.get() + size_t{stored.slot} * static_cast<size_t>(options_.slot_bytes),
                payload.data(), payload.size());
  }
  return true;
}

void JitterBuffer::note(int64_t seq) {
  if (!started_ || !unseen(seq)) return;
  const int64_t behind = distance(newest_seq_, seq);
  if (behind < kSeenWindow) noted_mask_ |= uint64_t{1} << behind;
}

// ---- audio out

// The first waiting packet is given up; play-out goes on after it.
void JitterBuffer::drop_first() {
  const Entry first = entries_.front();
  free_.push_back(first.slot);
  entries_.erase(entries_.begin());
  next_seq_ = first.seq + 1;
  next_ts_ = first.ts + first.duration;
  anchored_ = true;
  held_ = 0;
}

void JitterBuffer::drop_too_old(int64_t time_us) {
  const int64_t limit_us =
      options_.max_delay_ms * kMs + std::max<int64_t>(to_us(packet_ticks_), kFillerMs * kMs);
  while (entries_.size() > 1 && age_us(time_us, entries_.front().ts) > limit_us) {
    drop_first();
    ++stats_.overflows;
  }
}

// Numbers between play-out and `seq` that carried audio and are not here.
int64_t JitterBuffer::missing_before(int64_t seq) const {
  const int64_t gap = distance(seq, next_seq_);
  if (!anchored_ || gap <= 0) return 0;
  const int64_t back = distance(newest_seq_, seq);  // bits 1 + back .. gap + back of the mask
  if (back < 0 || back + 1 >= kSeenWindow) return gap;
  const uint64_t older = noted_mask_ >> (back + 1);
  const uint64_t within = gap < kSeenWindow ? (uint64_t{1} << gap) - 1 : ~uint64_t{0};
  return gap - std::popcount(older & within);
}

void JitterBuffer::count_lost(int64_t first_seq, int64_t time_us) {
  const int64_t missing = missing_before(first_seq);
  if (missing == 0 || missing > kDropoutMax) return;
  stats_.lost += static_cast<uint64_t>(missing);
  loss_until_us_ = time_us + kLossMemoryUs;
}

Pull JitterBuffer::pull(int64_t play_us, PayloadRef& out, int64_t fifo_us) {
  out = PayloadRef{};
  const int64_t tick_us = options_.tick_ms * kMs;
  fifo_us_ = fifo_us < 0 ? tick_us : std::min(fifo_us, 1000 * kMs);
  wait_fill_us_ = fifo_us_ < tick_us ? tick_us - fifo_us_ : tick_us;
  if (!started_) return filler(Pull::kEmpty, packet_ticks_, out);
  const int64_t time_us = play_us - origin_us_;
  drop_too_old(time_us);
  if (entries_.empty()) return starve(out);
  if (state_ != State::kPlaying) return wait(time_us, out);
  if (entries_.front().ts > next_ts_) return cross_gap(time_us, out);
  return play(time_us, out);
}

// Old enough for the target, or kept for so long that the target must be wrong about it.
bool JitterBuffer::is_due(int64_t time_us, const Entry& entry) const {
  const int64_t fetch_us = time_us - fifo_us_;
  const int64_t kept_us = fetch_us - (entry.arrival_us - origin_us_);
  return age_us(fetch_us, entry.ts) >= target_us_ || kept_us >= target_us_ + to_us(packet_ticks_);
}

// Start of the stream or of a talk spurt: the first packet is played when it is as old as the
// target says, which sets the delay for free.
Pull JitterBuffer::wait(int64_t time_us, PayloadRef& out) {
  state_ = State::kWaiting;
  if (is_due(time_us, entries_.front())) return play(time_us, out);
  const Pull kind = silence_ ? Pull::kSilence : anchored_ ? Pull::kLost : Pull::kEmpty;
  return filler(kind, to_ticks(wait_fill_us_), out);
}

// Nothing is here.
Pull JitterBuffer::starve(PayloadRef& out) {
  if (state_ != State::kPlaying) {
    state_ = State::kIdle;
    return filler(Pull::kEmpty, packet_ticks_, out);
  }
  if (to_us(held_) >= kIdleAfterUs) {
    state_ = State::kIdle;
    silence_ = true;
    return filler(Pull::kEmpty, packet_ticks_, out);
  }
  const Pull kind = filler(silence_ ? Pull::kSilence : Pull::kLost, packet_ticks_, out);
  held_ += out.duration_ticks;
  return kind;
}

// A packet is here, but not the next one.
Pull JitterBuffer::cross_gap(int64_t time_us, PayloadRef& out) {
  const Entry& first = entries_.front();
  const int64_t gap = first.ts - next_ts_;
  const int64_t missing = missing_before(first.seq);
  if (missing == 0) {  // the sender paused (RFC 3551 section 4.1), and said nothing
    if (!silence_) stats_.concealed_ticks -= std::min(held_, gap);
    silence_ = true;
    held_ = 0;
    return wait(time_us, out);
  }
  if (held_ >= gap) return play(time_us, out);
  if (to_us(gap - held_) > kConcealUsMax) return wait(time_us, out);
  if (options_.fec && missing == 1 && held_ == 0) {
    count_lost(first.seq, time_us);
    ++stats_.fec;
    refer(first, out);
    out.duration_ticks = static_cast<int>(gap);
    next_seq_ = first.seq;
    next_ts_ = first.ts;
    return Pull::kFec;
  }
  const Pull kind = filler(silence_ ? Pull::kSilence : Pull::kLost, gap - held_, out);
  held_ += out.duration_ticks;
  return kind;
}

Pull JitterBuffer::play(int64_t time_us, PayloadRef& out) {
  const Entry first = entries_.front();
  count_lost(first.seq, time_us);
  refer(first, out);
  const bool resumed = state_ != State::kPlaying;
  const bool pause = first.bytes <= options_.dtx_bytes_max;
  delay_us_ = age_us(time_us, first.ts);
  drop_first();
  state_ = State::kPlaying;
  silence_ = pause;
  ++stats_.played;
  if (pause || resumed) return Pull::kFrame;
  return stretch(time_us, delay_us_ - fifo_us_, out);
}

Pull JitterBuffer::stretch(int64_t time_us, int64_t fetch_age_us, PayloadRef& out) {
  const int64_t error_us = fetch_age_us - target_us_;
  const int64_t tick_us = options_.tick_ms * kMs;
  // A splice that the fifo can pay for leaves the deadline where it is.
  const int64_t step_us = fifo_us_ < tick_us && fifo_us_ >= kSpliceUsMax ? 0 : tick_us;
  const bool shorten = error_us >= step_us + kStretchSlackUs;
  const bool lengthen = error_us < -kStretchSlackUs;
  out.urgent = error_us > kUrgentUs || error_us < -kUrgentUs;
  if (!shorten && !lengthen) return Pull::kFrame;
  if (!out.urgent && time_us - last_stretch_us_ < kStretchEveryUs) return Pull::kFrame;
  last_stretch_us_ = time_us;
  ++(shorten ? stats_.accelerates : stats_.expands);
  return shorten ? Pull::kAccelerate : Pull::kExpand;
}

// Answers without payload: at most 20 ms, in steps of 2.5 ms, which is what Opus can conceal.
Pull JitterBuffer::filler(Pull kind, int64_t ticks, PayloadRef& out) {
  const int64_t longest = kFillerMs * options_.clock_rate_hz / 1000;
  const int64_t steps = std::max<int64_t>((std::min(ticks, longest) + quantum_ - 1) / quantum_, 1);
  out.duration_ticks = static_cast<int>(steps * quantum_);
  if (kind == Pull::kLost) stats_.concealed_ticks += out.duration_ticks;
  return kind;
}

void JitterBuffer::refer(const Entry& entry, PayloadRef& out) const {
  const size_t at = size_t{entry.slot} * static_cast<size_t>(options_.slot_bytes);
  out.payload = {bytes_.get() + at, entry.bytes};
  out.seq = entry.seq;
  out.ts = entry.raw_ts;
  out.arrival_us = entry.arrival_us;
  out.duration_ticks = entry.duration;
  out.marker = entry.marker;
}

}  // namespace tandem
