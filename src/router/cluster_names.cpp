// A worker's name is one place. Who may take it: a process that goes on asking for it, once the one
// that has it is gone. A HELLO alone proves nothing: that of a process that died may be read behind
// its successor's, when the bytes of its connection come late.
#include <algorithm>

#include "chatloop/core/limits.hpp"
#include "chatloop/router/cluster.hpp"

namespace chatloop {

namespace {

constexpr TimeUs kInsistsUs = 50 * kMillisecondUs;  // a HELLO comes every 100 ms
constexpr TimeUs kTellUs = kSecondUs;               // then both logs say who has the name

}  // namespace

const WorkerPeer* Cluster::holder_of(const std::string& name) const {
    const auto found = std::find_if(workers_.begin(), workers_.end(), [&](const auto& entry) {
        return entry.second.hello.name == name;
    });
    return found == workers_.end() ? nullptr : &found->second;
}

// Whether the process that says HELLO may have the name of `holder`. One that is asked again after
// the answer could be sent to it lives; one that is not heard for half of what makes it silent, or
// cannot be reached, has lost its name.
bool Cluster::yields(WorkerPeer& holder, const std::string& peer, Incarnation sender, TimeUs now) {
    Claim& claim = claims_[holder.hello.name];
    if (claim.incarnation != sender) {
        claim = {sender, peer, now, false};
        holder.heartbeat_at = now;  // shows whether it can be reached
    }
    const bool insists = now - claim.since >= kInsistsUs;
    const bool is_gone = holder.unreachable_at != 0 || now - holder.heard_at > dead_us() / 2;
    if (insists && is_gone) return true;
    if (!claim.told && now - claim.since >= kTellUs) {
        claim.told = true;
        ++counters_.workers_refused;
        events_.on_worker_event(holder, "has a name that another process asks for: it is refused");
    }
    send_to(peer, wire::Reject{"in_use", holder.hello.name + " is another process, which lives: "
                                         "give each its own worker.worker_id", true});
    return false;
}

// What was taken for gone under this name is not taken back: another has it.
void Cluster::replace_lost(const std::string& name) {
    for (const auto& [lost_name, incarnation] : lost_)
        if (lost_name == name) never_again(incarnation);
    std::erase_if(lost_, [&](const auto& entry) { return entry.first == name; });
}

void Cluster::never_again(Incarnation incarnation) {
    replaced_.push_back(incarnation);
    if (replaced_.size() > kWorkersMax) replaced_.pop_front();
}

void Cluster::forget_name(const WorkerPeer& gone) {
    claims_.erase(gone.hello.name);
    lost_.emplace_back(gone.hello.name, gone.incarnation);
    if (lost_.size() > kWorkersMax) lost_.pop_front();
}

// Its HELLO was a dead process's.
void Cluster::drop_claim(const std::string& peer) {
    std::erase_if(claims_, [&](const auto& entry) { return entry.second.peer == peer; });
}

}  // namespace chatloop
