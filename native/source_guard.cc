// Source checks and latching; see source_guard.h.
#include "source_guard.h"

namespace tandem {
namespace {

constexpr int kRankOther = 1;
constexpr int kRankSamePort = 2;
constexpr int kRankSameIp = 3;
constexpr int kRankExact = 4;

}  // namespace

void SourceGuard::configure(const Address& remote, LatchMode mode, int64_t now_us) {
  if (remote == remote_ && mode == mode_ && is_locked()) return;
  *this = SourceGuard();
  remote_ = remote;
  mode_ = mode;
  configured_us_ = now_us;
}

int SourceGuard::rank(const Address& from) const {
  if (from == remote_) return kRankExact;
  if (from.same_ip(remote_)) return kRankSameIp;
  return from.port() == remote_.port() ? kRankSamePort : kRankOther;
}

bool SourceGuard::is_final() const { return rank_ == kRankExact; }

/// Whether a source that signaling did not name may prove itself now.
bool SourceGuard::may_be_candidate(int rank, int64_t now_us) const {
  if (mode_ == LatchMode::kSignalled || rank <= rank_) return false;
  if (rank < kRankSameIp && mode_ != LatchMode::kAnySource) return false;
  return is_learning(now_us) || (rank == kRankSameIp && !is_locked());
}

bool SourceGuard::has_proved(const Address& from, const RtpPacket& packet) {
  for (Candidate& candidate : candidates_) {
    if (candidate.count == 0 || !(candidate.from == from)) continue;
    const bool continues =
        candidate.ssrc == packet.ssrc && candidate.next_sequence == packet.sequence;
    candidate.count = continues ? candidate.count + 1 : 1;
    candidate.ssrc = packet.ssrc;
    candidate.next_sequence = static_cast<uint16_t>(packet.sequence + 1);
    return candidate.count >= kConsecutive;
  }
  Candidate& slot = candidates_[next_candidate_++ % candidates_.size()];
  slot = {from, packet.ssrc, static_cast<uint16_t>(packet.sequence + 1), 1};
  return false;
}

SourceGuard::Verdict SourceGuard::check(const Address& from, const RtpPacket& packet,
                                        int64_t now_us) {
  if (is_locked() && from == locked_) return Verdict::kAccept;
  if (!remote_.is_set()) return Verdict::kReject;
  const int rank = this->rank(from);
  if (rank != kRankExact && (!may_be_candidate(rank, now_us) || !has_proved(from, packet))) {
    return Verdict::kReject;
  }
  locked_ = from;
  rank_ = rank;
  return Verdict::kLatched;
}

}  // namespace tandem
