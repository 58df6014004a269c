// See dtmf.h.
#include "dtmf.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>

extern "C" {
#include <spandsp/telephony.h>
// dtmf.h wants these before it.
#include <spandsp/logging.h>
#include <spandsp/queue.h>
#include <spandsp/tone_generate.h>
#include <spandsp/super_tone_rx.h>
#include <spandsp/dtmf.h>
}

namespace tandem {
namespace {

// Receiving.
constexpr size_t kEventBytes = 4;           // RFC 4733 section 2.3
constexpr uint8_t kEndBit = 0x80;
constexpr uint8_t kVolumeMask = 0x3f;
constexpr uint32_t kUnitsMax = 0xffff;      // longest duration field; longer events are split
constexpr int64_t kSilentEndUs = 250'000;   // five packets of 50 ms missed: the key is up
constexpr int kStaleSeconds = 10;           // older timestamps than that are a new time line

// Sending.
constexpr int kDigitMsMin = 40;             // Q.24: what every receiver must recognise
constexpr int kGapMsMin = 40;               // and the pause it needs
constexpr int kDurationMsMax = 10'000;
constexpr int kEndRepeats = 2;              // after the first end packet (section 2.5.1.4)

// Hearing: spandsp decides once per Goertzel block of 102 samples.
constexpr size_t kGoertzelBlock = 102;
constexpr int kDetectorHz = 8000;

// Making.
constexpr int kEdgeMs = 5;
constexpr float kHighGroupDb = 2.0f;
constexpr float kLowGroupDbovMax = -10.5f;  // both groups together just fit 16 bits
constexpr float kFullScale = 32767.0f;
constexpr size_t kMixBlock = 64;
constexpr std::array<float, 4> kLowHz{697.0f, 770.0f, 852.0f, 941.0f};
constexpr std::array<float, 4> kHighHz{1209.0f, 1336.0f, 1477.0f, 1633.0f};
constexpr char kKeypad[] = "123A456B789C*0#D";  // row by row

uint32_t read_u16(std::span<const uint8_t> bytes) {
  return (static_cast<uint32_t>(bytes[0]) << 8) | bytes[1];
}

int samples_of(int ms, int rate_hz) {
  return static_cast<int>(int64_t{ms} * rate_hz / 1000);
}

bool valid_key(int key) { return key >= 0 && key < kDtmfKeyCount; }

}  // namespace

int dtmf_key(char text) {
  if (text >= 'a' && text <= 'd') text = static_cast<char>(text - 'a' + 'A');
  for (int key = 0; key < kDtmfKeyCount; ++key) {
    if (kDtmfKeys[key] == text) return key;
  }
  return kNoKey;
}

// ---- RFC 4733, receiving

void EventReceiver::reset() {
  active_ = false;
  done_.fill(Done{});
  done_next_ = 0;
}

bool EventReceiver::is_done(uint32_t ssrc, uint32_t ts, uint8_t key) const {
  // A timestamp inside the digit counts as the digit: some senders advance it.
  return std::any_of(done_.begin(), done_.end(), [&](const Done& done) {
    return done.key == key && done.ssrc == ssrc && ts - done.ts <= done.units;
  });
}

// Does a packet of the same key and source belong to the digit that is going on?
bool EventReceiver::continues(uint32_t ts, bool marker) const {
  const uint32_t step = ts - segment_ts_;
  if (step == 0) return true;
  if (marker) return false;
  // A new press cannot start while the old one sounds; a timestamp in there is a sender that
  // advances it with each packet.
  if (step <= segment_units_) return true;
  // The next segment of a long digit (section 2.5.1.3). Its predecessor's last packets may be lost.
  return (step == kUnitsMax || step == kUnitsMax + 1) && segment_units_ > kUnitsMax / 2;
}

// From before the digit that is going on or was last: `reference` is its timestamp.
bool EventReceiver::is_before(uint32_t ts, uint32_t reference) const {
  const auto age = static_cast<int64_t>(static_cast<int32_t>(reference - ts));
  return age > 0 && age < int64_t{kStaleSeconds} * clock_rate_hz_;
}

const EventReceiver::Done* EventReceiver::last_done(uint32_t ssrc) const {
  const Done& last = done_[static_cast<size_t>(done_next_ + kDoneMax - 1) % kDoneMax];
  return last.key != kUnused && last.ssrc == ssrc ? &last : nullptr;
}

void EventReceiver::remember(const Done& done) {
  done_[static_cast<size_t>(done_next_)] = done;
  done_next_ = (done_next_ + 1) % kDoneMax;
}

DtmfDigit EventReceiver::digit_of(uint8_t key, uint32_t units) const {
  return {key, static_cast<int>(int64_t{units} * 1000 / clock_rate_hz_)};
}

DtmfDigit EventReceiver::finish() {
  const uint32_t units = segment_ts_ - start_ts_ + segment_units_;
  remember({ssrc_, start_ts_, units, key_});
  active_ = false;
  return digit_of(key_, units);
}

int EventReceiver::receive(uint32_t ssrc, uint32_t ts, bool marker,
                           std::span<const uint8_t> payload, int64_t now_us,
                           std::span<DtmfDigit, 2> digits) {
  if (payload.size() < kEventBytes || payload[0] >= kDtmfKeyCount) return 0;
  const uint8_t key = payload[0];
  const bool end = (payload[1] & kEndBit) != 0;
  const uint32_t units = read_u16(payload.subspan(2));
  if (is_done(ssrc, ts, key)) return 0;

  int ended = 0;
  const bool same = active_ && ssrc == ssrc_;
  const Done* last = last_done(ssrc);
  if (same && key == key_ && continues(ts, marker)) {
    segment_units_ = ts == segment_ts_ ? std::max(segment_units_, units) : units;
    segment_ts_ = ts;
  } else if (same && is_before(ts, segment_ts_)) {
    if (key == key_ && !is_before(ts, start_ts_)) return 0;  // an earlier segment of this digit
    if (last != nullptr && is_before(ts, last->ts)) return 0;  // its place has been passed
    // The only packet left of the digit before, overtaken by the one that is going on.
    remember({ssrc, ts, units, key});
    digits[0] = digit_of(key, units);
    return 1;
  } else if (!same && last != nullptr && is_before(ts, last->ts)) {
    return 0;
  } else {
    if (active_) digits[static_cast<size_t>(ended++)] = finish();
    active_ = true;
    key_ = key;
    ssrc_ = ssrc;
    start_ts_ = ts;
    segment_ts_ = ts;
    segment_units_ = units;
  }
  last_us_ = now_us;
  if (end) digits[static_cast<size_t>(ended++)] = finish();
  return ended;
}

int EventReceiver::poll(int64_t now_us, DtmfDigit& digit) {
  if (!active_ || now_us - last_us_ < kSilentEndUs) return 0;
  digit = finish();
  return 1;
}

// ---- RFC 4733, sending

EventSender::EventSender(int clock_rate_hz, int ptime_ms, int volume_dbm0)
    : ptime_ms_(std::clamp(ptime_ms, 5, 120)),
      packet_units_(static_cast<uint32_t>(int64_t{std::clamp(clock_rate_hz, 8000, 96000)} *
                                          ptime_ms_ / 1000)),
      volume_(static_cast<uint8_t>(std::clamp<int>(volume_dbm0, 0, kVolumeMask))) {}

int EventSender::packets_of(int ms) const {
  return (std::clamp(ms, 0, kDurationMsMax) + ptime_ms_ - 1) / ptime_ms_;
}

bool EventSender::put(const Item& item) {
  if (count_ == kQueueMax) return false;
  queue_[static_cast<size_t>((head_ + count_) % kQueueMax)] = item;
  ++count_;
  return true;
}

bool EventSender::push(int key, int duration_ms, int gap_ms) {
  if (!valid_key(key)) return false;
  return put({static_cast<int8_t>(key), packets_of(std::max(duration_ms, kDigitMsMin)),
              packets_of(std::max(gap_ms, kGapMsMin))});
}

bool EventSender::push_pause(int duration_ms) {
  return put({static_cast<int8_t>(kNoKey), 0, std::max(packets_of(duration_ms), 1)});
}

void EventSender::cancel() {
  count_ = 0;
  if (phase_ == Phase::kGap) phase_ = Phase::kNone;
  if (phase_ == Phase::kOn) left_ = 1;
}

void EventSender::fill(bool end, Packet& packet) const {
  packet.payload = {static_cast<uint8_t>(now_.key),
                    static_cast<uint8_t>((end ? kEndBit : 0) | volume_),
                    static_cast<uint8_t>(units_ >> 8), static_cast<uint8_t>(units_)};
  packet.timestamp = ts_;
  packet.marker = false;
}

EventSender::Step EventSender::next(uint32_t ts_now, Packet& packet) {
  if (phase_ == Phase::kNone) {
    if (count_ == 0) return Step::kIdle;
    now_ = queue_[static_cast<size_t>(head_)];
    head_ = (head_ + 1) % kQueueMax;
    --count_;
    const bool pause = now_.key == kNoKey;
    phase_ = pause ? Phase::kGap : Phase::kOn;
    left_ = pause ? now_.gap_packets : now_.packets;
    if (!pause) return begin(ts_now, packet);
  }
  switch (phase_) {
    case Phase::kOn:
      return sound(packet);
    case Phase::kEnd:
      fill(true, packet);
      if (--left_ == 0) {
        phase_ = Phase::kGap;
        left_ = now_.gap_packets - kEndRepeats;
        if (left_ <= 0) phase_ = Phase::kNone;
      }
      return Step::kEvent;
    case Phase::kGap:
      if (--left_ <= 0) phase_ = Phase::kNone;
      return Step::kPause;
    case Phase::kNone:
      break;
  }
  return Step::kIdle;
}

EventSender::Step EventSender::begin(uint32_t ts_now, Packet& packet) {
  ts_ = ts_now;
  units_ = 0;
  const Step step = sound(packet);
  packet.marker = true;  // section 2.5.1.1: on the first packet of an event
  return step;
}

// One more packet time of tone. The last one carries the end bit and is sent twice more.
EventSender::Step EventSender::sound(Packet& packet) {
  units_ += packet_units_;
  if (units_ > kUnitsMax) {
    // Section 2.5.1.3: the segment is full; it is reported with the largest duration and no end
    // bit, and the rest goes on under a timestamp that much later.
    const uint32_t rest = units_ - kUnitsMax;
    units_ = kUnitsMax;
    fill(false, packet);
    ts_ += kUnitsMax;
    units_ = rest;
    if (left_ > 1) --left_;  // the end needs a packet of its own
    return Step::kEvent;
  }
  const bool end = --left_ <= 0;
  fill(end, packet);
  if (end) {
    phase_ = Phase::kEnd;
    left_ = kEndRepeats;
  }
  return Step::kEvent;
}

// ---- in the audio, hearing

void InbandDetector::Free::operator()(dtmf_rx_state_s* state) const { dtmf_rx_free(state); }

InbandDetector::InbandDetector() : state_(dtmf_rx_init(nullptr, nullptr, nullptr)) {
  if (state_ != nullptr) dtmf_rx_set_realtime_callback(state_.get(), report, this);
}

InbandDetector::~InbandDetector() = default;

void InbandDetector::report(void* self, int code, int level, int delay) {
  (void)level;
  (void)delay;
  auto* detector = static_cast<InbandDetector*>(self);
  if (detector->key_ != kNoKey && detector->ended_count_ < 2) {
    // A tone has to stand for one block more before it is reported than before its end is.
    const int64_t samples =
        detector->samples_ - detector->started_ + static_cast<int64_t>(kGoertzelBlock);
    detector->ended_[static_cast<size_t>(detector->ended_count_++)] = {
        detector->key_, static_cast<int>(samples * 1000 / kDetectorHz)};
  }
  detector->key_ = code > 0 && code < 128 ? dtmf_key(static_cast<char>(code)) : kNoKey;
  detector->started_ = detector->samples_;
}

int InbandDetector::process(std::span<const int16_t> frame, std::span<DtmfDigit, 2> digits) {
  if (state_ == nullptr) return 0;
  ended_count_ = 0;
  while (!frame.empty()) {
    // Up to the end of a Goertzel block, so that reports come with the right time.
    const size_t in_block = static_cast<size_t>(samples_) % kGoertzelBlock;
    const size_t count = std::min(frame.size(), kGoertzelBlock - in_block);
    samples_ += static_cast<int64_t>(count);
    dtmf_rx(state_.get(), frame.data(), static_cast<int>(count));
    frame = frame.subspan(count);
  }
  // The detector keeps a list of its own, which would fill up.
  char unread[16];
  dtmf_rx_get(state_.get(), unread, sizeof unread - 1);
  std::copy_n(ended_.begin(), ended_count_, digits.begin());
  return ended_count_;
}

// ---- in the audio, making

DtmfTone::DtmfTone(int rate_hz, float level_dbov)
    : rate_hz_(rate_hz), level_dbov_(level_dbov), edge_samples_(samples_of(kEdgeMs, rate_hz)) {}

bool DtmfTone::put(const Item& item) {
  if (count_ == kQueueMax) return false;
  queue_[static_cast<size_t>((head_ + count_) % kQueueMax)] = item;
  ++count_;
  return true;
}

bool DtmfTone::push(int key, int duration_ms, int gap_ms) {
  if (!valid_key(key)) return false;
  return put({static_cast<int8_t>(key), std::clamp(duration_ms, kDigitMsMin, kDurationMsMax),
              std::clamp(gap_ms, kGapMsMin, kDurationMsMax)});
}

bool DtmfTone::push_pause(int duration_ms) {
  return put({static_cast<int8_t>(kNoKey), 0, std::clamp(duration_ms, 1, kDurationMsMax)});
}

void DtmfTone::start_next() {
  const Item item = queue_[static_cast<size_t>(head_)];
  head_ = (head_ + 1) % kQueueMax;
  --count_;
  on_ = samples_of(item.on_ms, rate_hz_);
  position_ = 0;
  left_ = on_ + samples_of(item.gap_ms, rate_hz_);
  if (item.key == kNoKey) return;
  const char* place = std::strchr(kKeypad, kDtmfKeys[item.key]);
  const auto index = static_cast<size_t>(place - kKeypad);
  const float low = std::min(level_dbov_, kLowGroupDbovMax);
  const auto amplitude = [](float dbov) {
    return kFullScale * std::sqrt(2.0f) * std::pow(10.0f, dbov / 20.0f);
  };
  oscillators_[0].set(kLowHz[index / 4], rate_hz_, amplitude(low));
  oscillators_[1].set(kHighHz[index % 4], rate_hz_, amplitude(low + kHighGroupDb));
}

int DtmfTone::generate(std::span<int16_t> out) {
  size_t at = 0;
  while (at < out.size()) {
    if (left_ <= 0) {
      if (count_ == 0) break;
      start_next();
    }
    const bool on = position_ < on_;
    const auto part = static_cast<size_t>(on ? on_ - position_ : left_);
    const size_t count = std::min({part, out.size() - at, kMixBlock});
    std::array<float, kMixBlock> mix{};
    if (on) {
      for (Oscillator& oscillator : oscillators_) oscillator.add({mix.data(), count});
    }
    for (size_t i = 0; i < count; ++i, ++position_) {
      const int distance = std::min(position_, on_ - 1 - position_);
      const float edge =
          std::clamp(static_cast<float>(distance) / static_cast<float>(edge_samples_), 0.0f, 1.0f);
      out[at + i] = static_cast<int16_t>(mix[i] * edge);
    }
    at += count;
    left_ -= static_cast<int>(count);
  }
  std::fill(out.begin() + static_cast<ptrdiff_t>(at), out.end(), int16_t{0});
  return static_cast<int>(at);
}

}  // namespace tandem
