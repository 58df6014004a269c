// Players; see player.h.
#include "player.h"

namespace tandem {
namespace {

constexpr int kToneRateHz = 8000;
constexpr int kShortPauseMs = 500;
constexpr int kLongPauseMs = 1000;
constexpr int kDigitMs = 100;

}  // namespace

Player::Player(int source_rate_hz)
    : source_rate_hz_(source_rate_hz),
      to_{Resampler(source_rate_hz, kRatesHz[0]), Resampler(source_rate_hz, kRatesHz[1]),
          Resampler(source_rate_hz, kRatesHz[2])} {}

Player::~Player() {
  if (stream_ != nullptr) stream_->abandon();
}

std::unique_ptr<Player> Player::of_clip(std::shared_ptr<const Clip> clip, int loops,
                                        int64_t offset_ms, std::shared_ptr<ClipStream>& stream) {
  auto player = std::make_unique<Player>(clip->rate_hz);
  const int64_t begin = std::clamp<int64_t>(offset_ms * clip->rate_hz / 1000, 0, clip->frames);
  player->loops_left_ = loops;
  player->is_endless_ = loops == 0;
  if (clip->is_loaded) {
    player->position_ = static_cast<size_t>(begin);
  } else {
    stream = std::make_shared<ClipStream>(clip, begin, loops);
    player->stream_ = stream;
  }
  player->clip_ = std::move(clip);
  return player;
}

std::unique_ptr<Player> Player::of_tone(const TonePlan& plan) {
  auto player = std::make_unique<Player>(kToneRateHz);
  player->tone_.emplace(kToneRateHz, plan.spec);
  player->is_silence_ = plan.is_silence;
  return player;
}

std::unique_ptr<Player> Player::of_digits(const std::string& digits) {
  if (digits.empty() || digits.size() > kDigitsMax) return nullptr;
  auto player = std::make_unique<Player>(kToneRateHz);
  for (const char text : digits) {
    if (text == 'w') {
      player->steps_.push_back({kNoKey, kShortPauseMs});
    } else if (text == 'W') {
      player->steps_.push_back({kNoKey, kLongPauseMs});
    } else {
      const int key = dtmf_key(text);
      if (key == kNoKey) return nullptr;
      player->steps_.push_back({key, kDigitMs});
    }
  }
  return player;
}

Player::State Player::fill(std::span<int16_t> frame, int rate_hz) {
  if (fifo_rate_hz_ != rate_hz) {
    fifo_.clear();
    fifo_rate_hz_ = rate_hz;
  }
  // 20 ms of source at a time; a rate that is no whole multiple gives a sample more or less.
  const size_t piece_samples = std::min<size_t>(kPiece, static_cast<size_t>(source_rate_hz_) / 50);
  std::array<int16_t, kPiece> piece{};
  while (state_ == State::kPlaying && fifo_.size() < frame.size()) {
    size_t count = 0;
    const State state = source(std::span(piece).first(piece_samples), count);
    if (count > 0) {
      taken_ += static_cast<int64_t>(count);
      const auto got = std::span<const int16_t>(piece).first(count);
      const int made = to_[rate_index(rate_hz)].process(got, fifo_.tail());
      fifo_.grow(static_cast<size_t>(std::max(0, made)));
    }
    state_ = state;
    if (state == State::kPlaying && count == 0) break;  // the disk is behind: silence for now
  }
  const size_t got = fifo_.take(frame);
  std::fill(frame.begin() + static_cast<long>(got), frame.end(), int16_t{0});
  if (state_ == State::kFinished && fifo_.size() > 0) return State::kPlaying;
  return state_;
}

Player::State Player::source(std::span<int16_t> piece, size_t& count) {
  if (tone_) return source_tone(piece, count);
  return stream_ != nullptr ? source_streamed(piece, count) : source_loaded(piece, count);
}

Player::State Player::source_loaded(std::span<int16_t> piece, size_t& count) {
  const std::vector<int16_t>& samples = clip_->samples;
  while (count < piece.size()) {
    if (position_ >= samples.size()) {
      if (!is_endless_) loops_left_--;
      if (samples.empty() || (!is_endless_ && loops_left_ <= 0)) return State::kFinished;
      position_ = 0;
    }
    const size_t run = std::min(piece.size() - count, samples.size() - position_);
    std::copy_n(samples.begin() + static_cast<long>(position_), run,
                piece.begin() + static_cast<long>(count));
    position_ += run;
    count += run;
  }
  const bool is_last = position_ >= samples.size() && !is_endless_ && loops_left_ <= 1;
  return is_last ? State::kFinished : State::kPlaying;
}

Player::State Player::source_streamed(std::span<int16_t> piece, size_t& count) {
  while (count < piece.size()) {
    if (block_position_ >= block_.count) {
      // The flag is read before the ring: ended and then empty is really the end.
      const bool has_ended = stream_->has_ended();
      if (stream_->has_failed()) return State::kFailed;
      block_position_ = 0;
      block_.count = 0;
      if (!stream_->take(block_)) return has_ended ? State::kFinished : State::kPlaying;
    }
    const size_t run = std::min<size_t>(piece.size() - count, block_.count - block_position_);
    std::copy_n(block_.samples.begin() + static_cast<long>(block_position_), run,
                piece.begin() + static_cast<long>(count));
    block_position_ += run;
    count += run;
  }
  return State::kPlaying;
}

Player::State Player::source_tone(std::span<int16_t> piece, size_t& count) {
  count = static_cast<size_t>(std::max(0, tone_->generate(piece)));
  if (is_silence_) std::fill(piece.begin(), piece.end(), int16_t{0});
  return tone_->done() ? State::kFinished : State::kPlaying;
}

double Player::played_ms() const {
  // What waits in the FIFO has not been heard.
  const double waiting_ms =
      fifo_rate_hz_ > 0 ? static_cast<double>(fifo_.size()) * 1000 / fifo_rate_hz_ : 0;
  const double taken_ms = static_cast<double>(taken_) * 1000 / source_rate_hz_;
  return std::max(0.0, taken_ms - waiting_ms) + extra_ms_;
}

}  // namespace tandem
