#include "chatloop/core/quarantine.hpp"

#include <algorithm>

#include "chatloop/core/limits.hpp"

namespace chatloop {

bool Quarantine::forgotten(const Offender& offender, TimeUs now) {
    if (offender.until != 0) return now >= offender.until;
    return now - offender.window_from >= kMalformedWindowUs;
}

bool Quarantine::holds(const std::string& peer, TimeUs now) const {
    if (peers_.empty()) return false;
    const auto found = peers_.find(peer);
    return found != peers_.end() && now < found->second.until;
}

bool Quarantine::note(const std::string& peer, TimeUs now) {
    auto found = peers_.find(peer);
    if (found == peers_.end()) {
        make_room(now);
        found = peers_.try_emplace(peer, Offender{now}).first;
    }
    Offender& offender = found->second;
    if (forgotten(offender, now)) offender = Offender{now};
    if (++offender.malformed < kMalformedMax) return false;
    offender.until = now + kQuarantineUs;
    return true;
}

// What is over goes first; else whoever came first, so that names made up by the thousand shut
// nobody else's count out for long.
void Quarantine::make_room(TimeUs now) {
    if (peers_.size() < kOffendersMax) return;
    std::erase_if(peers_, [&](const auto& peer) { return forgotten(peer.second, now); });
    if (peers_.size() < kOffendersMax) return;
    peers_.erase(std::min_element(peers_.begin(), peers_.end(), [](const auto& a, const auto& b) {
        return a.second.window_from < b.second.window_from;
    }));
}

}  // namespace chatloop
