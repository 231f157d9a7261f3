#include "chatloop/router/poison.hpp"

#include <algorithm>
#include <utility>

namespace chatloop {

namespace {

constexpr TimeUs kLastWordUs = kSecondUs;      // then what was heard before has to do
constexpr TimeUs kOverUs = 10 * kSecondUs;     // nobody has died

}  // namespace

Accident::Accident(const Route& route, std::vector<FrameRows> frames, TimeUs now)
    : generation_(route.generation),
      at_(now),
      sent_(route.sent),
      answered_(route.answered),
      frames_(std::move(frames)) {
    for (size_t i = 0; i < route.hops.size(); ++i) {
        const HopReport& report = route.reports[i];
        hops_.push_back({route.hops[i], report.accepted, report.forwarded, false, false});
    }
}

void Accident::note_report(Incarnation worker, const wire::RouteReport& report) {
    if (report.generation != generation_ || report.hop >= hops_.size()) return;
    Hop& hop = hops_[report.hop];
    if (hop.worker != worker) return;
    hop.accepted = std::max(hop.accepted, report.accepted);
    hop.forwarded = std::max(hop.forwarded, report.forwarded);
    hop.is_final = true;
}

// Who said how far it had come did not die of it: that was later.
void Accident::note_death(Incarnation worker) {
    for (Hop& hop : hops_)
        if (hop.worker == worker && !hop.is_final) hop.is_dead = true;
}

bool Accident::is_over(TimeUs now) const { return now - at_ >= kOverUs; }

bool Accident::knows(const Hop& hop, TimeUs now) const {
    return hop.is_final || hop.is_dead || now - at_ >= kLastWordUs;
}

std::optional<std::vector<ItemRows>> Accident::verdict(TimeUs now) const {
    const auto is_dead = [](const Hop& hop) { return hop.is_dead; };
    const auto first = std::find_if(hops_.begin(), hops_.end(), is_dead);
    if (first == hops_.end()) return std::nullopt;
    const auto next = std::find_if_not(first, hops_.end(), is_dead);
    FrameNumber passed = answered_;
    if (next != hops_.end()) {
        if (!knows(*next, now)) return std::nullopt;
        passed = std::max(passed, next->accepted);
    }
    FrameNumber reached = sent_;
    if (first != hops_.begin()) {
        const Hop& before = *(first - 1);
        if (!knows(before, now)) return std::nullopt;
        reached = before.forwarded;
    }
    if (passed >= reached) return std::vector<ItemRows>{};
    const auto frame = std::find_if(frames_.begin(), frames_.end(), [&](const FrameRows& rows) {
        return rows.number == passed + 1;
    });
    return frame == frames_.end() ? std::vector<ItemRows>{} : frame->items;
}

}  // namespace chatloop
