// Health: who is silent, who fails too often, and which frame left a hop without reaching the next.
// A suspicion may be wrong: it costs time, never a token.
#include <algorithm>

#include "chatloop/core/limits.hpp"
#include "chatloop/core/rules.hpp"
#include "chatloop/router/cluster.hpp"

namespace chatloop {

namespace {

constexpr TimeUs kUnreachableUs = 250 * kMillisecondUs;  // a connection made anew is back
constexpr int64_t kPatience = 10;  // times the silence of a fault: until then it may return
constexpr TimeUs kFaultWindowUs = 60 * kSecondUs;
constexpr size_t kFaultsMax = 3;                // in the window
constexpr TimeUs kProbationUs = 30 * kSecondUs;
constexpr TimeUs kOneFaultUs = 500 * kMillisecondUs;  // what is seen twice happened once
constexpr size_t kRecordsMax = 2 * kWorkersMax;
constexpr size_t kBadEdgesMax = 4 * kWorkersMax;
constexpr uint32_t kDoublingsMax = 6;

}  // namespace

TimeUs Cluster::dead_us() const {
    return TimeUs{config_.heartbeat_interval_ms} * config_.failure_threshold * kMillisecondUs;
}

// Any message of a worker is a sign of life.
void Cluster::note_alive(WorkerPeer& worker, TimeUs now) {
    worker.heard_at = now;
    worker.unreachable_at = 0;
    if (worker.health == Health::kAlive) return;
    if (worker.health == Health::kSilent) events_.on_worker_event(worker, "is heard again");
    worker.health = Health::kAlive;
    form_at_ = now;
}

// A worker whose control connection is gone may be about to connect anew; meanwhile it is as good
// as silent.
void Cluster::on_unreachable(const std::string& peer, TimeUs now) {
    drop_claim(peer);
    const auto found = std::find_if(workers_.begin(), workers_.end(),
                                    [&](const auto& entry) { return entry.second.peer == peer; });
    if (found == workers_.end() || found->second.unreachable_at != 0) return;
    WorkerPeer& worker = found->second;
    worker.unreachable_at = now;
    worker.health = Health::kSilent;
    note_fault(worker.incarnation, now);
    events_.on_worker_event(worker, "cannot be reached");
    fault(worker.generation, worker.hello.name + " cannot be reached", now);
}

void Cluster::check_health(TimeUs now) {
    struct Lost {
        Incarnation incarnation;
        Loss loss;
        std::string why;
    };
    std::vector<Lost> lost;
    std::vector<Incarnation> silent;
    for (auto& [incarnation, worker] : workers_) {
        const TimeUs silence_us = now - worker.heard_at;
        if (worker.unreachable_at != 0 && now - worker.unreachable_at >= back_within_us()) {
            const bool was_heard = worker.unreachable_at - worker.heard_at <= dead_us();
            lost.push_back({incarnation, was_heard ? Loss::kDeath : Loss::kVanished,
                            "is gone: it cannot be reached"});
        } else if (silence_us > kPatience * dead_us()) {
            lost.push_back({incarnation, Loss::kVanished, "is gone: it stayed silent"});
        } else if (silence_us > dead_us() && worker.health != Health::kSilent) {
            worker.health = Health::kSilent;
            silent.push_back(incarnation);
        } else if (silence_us > dead_us() / 2 && worker.health == Health::kAlive) {
            worker.health = Health::kSuspect;
        }
    }
    for (const Incarnation incarnation : silent) {
        const WorkerPeer& worker = workers_.at(incarnation);
        note_fault(incarnation, now);
        events_.on_worker_event(worker, "is silent");
        fault(worker.generation, worker.hello.name + " is silent", now);
    }
    for (const auto& [incarnation, loss, why] : lost) lose(incarnation, loss, why, now);
}

// After a pause of our own.
void Cluster::rearm(TimeUs now) {
    for (auto& [incarnation, worker] : workers_) {
        worker.heard_at = now;
        if (worker.unreachable_at != 0) worker.unreachable_at = now;
    }
    for (auto& [generation, route] : routes_) {
        route.installed_at = now;
        for (HopReport& report : route.reports) report.missing = 0;
    }
}

bool Cluster::is_deserted() const {
    return std::all_of(workers_.begin(), workers_.end(), [](const auto& entry) {
        return entry.second.health == Health::kSilent;
    });
}

TimeUs Cluster::next_timer() const {
    TimeUs next = form_at_;
    for (const auto& [incarnation, worker] : workers_) {
        next = std::min(next, worker.heartbeat_at);
        if (worker.unreachable_at != 0)
            next = std::min(next, worker.unreachable_at + back_within_us());
        if (worker.health != Health::kSilent)
            next = std::min(next, worker.heard_at + dead_us() + 1);
    }
    return next;
}

// Null when too many names had faults in the last minute.
Cluster::Record* Cluster::record_of(const std::string& name, TimeUs now) {
    const bool is_new = !records_.contains(name);
    if (is_new && records_.size() >= kRecordsMax)
        std::erase_if(records_, [now](const auto& entry) {
            const Record& record = entry.second;
            return now >= record.avoid_until &&
                   (record.faults.empty() || now - record.faults.back() > kFaultWindowUs);
        });
    if (is_new && records_.size() >= kRecordsMax) return nullptr;
    return &records_[name];
}

// An edge counts for the worker at its end.
void Cluster::note_fault(Incarnation incarnation, TimeUs now) {
    const auto found = workers_.find(incarnation);
    if (found == workers_.end()) return;
    Record* record = record_of(found->second.hello.name, now);
    if (record == nullptr) return;
    std::deque<TimeUs>& faults = record->faults;
    if (!faults.empty() && now - faults.back() < kOneFaultUs) return;
    faults.push_back(now);
    while (now - faults.front() > kFaultWindowUs) faults.pop_front();
    if (faults.size() < kFaultsMax) return;
    faults.pop_front();
    record->avoid_until = now + kProbationUs;
    events_.on_worker_event(found->second, "fails too often: others are preferred for 30 s");
}

void Cluster::avoid(const std::string& name, TimeUs now) {
    if (Record* record = record_of(name, now)) record->avoid_until = now + kProbationUs;
}

// Of two processes: a restarted one is another. form_route forgets them in time.
void Cluster::note_bad_edge(Incarnation from, Incarnation to, TimeUs now) {
    if (!holds(Rule::kProbation)) return;
    if (bad_edges_.size() >= kBadEdgesMax && !bad_edges_.contains({from, to})) return;
    bad_edges_[{from, to}] = now + kProbationUs;
}

bool Cluster::is_bad_edge(Incarnation from, Incarnation to) const {
    return !bad_edges_.empty() && bad_edges_.contains({from, to});
}

uint32_t Cluster::bad_edges(const std::vector<Incarnation>& hops) const {
    uint32_t bad = 0;
    for (size_t hop = 1; hop < hops.size(); ++hop) bad += is_bad_edge(hops[hop - 1], hops[hop]);
    return bad;
}

// It is heard again with its next heartbeat.
TimeUs Cluster::back_within_us() const {
    return std::max(kUnreachableUs, config_.heartbeat_interval_ms * kMillisecondUs * 5 / 4);
}

TimeUs Cluster::avoided_until(const WorkerPeer& worker) const {
    const auto record = records_.find(worker.hello.name);
    if (!holds(Rule::kProbation)) return 0;
    return record == records_.end() ? 0 : record->second.avoid_until;
}

bool Cluster::is_avoided(const WorkerPeer& worker, TimeUs now) const {
    return now < avoided_until(worker);
}

// False: a frame left the hop before this one, or this last one for us, and did not arrive.
bool Cluster::note_report(Route& route, const wire::RouteReport& report, TimeUs now) {
    if (!holds(Rule::kMissing)) return true;
    const size_t hop = report.hop;
    HopReport& own = route.reports[hop];
    own.accepted = report.accepted;
    own.forwarded = report.forwarded;
    own.egress_empty = report.egress_empty;
    bool missing = false;
    if (hop == 0) {
        if (outbox_.backlog(route.link) == 0)
            missing = is_missing(route, own, route.sent, own.accepted, now);
    } else if (route.hops[hop - 1] != route.hops[hop] && route.reports[hop - 1].egress_empty) {
        missing = is_missing(route, own, route.reports[hop - 1].forwarded, own.accepted, now);
    }
    if (hop + 1 == route.hops.size() && own.egress_empty)
        missing |= is_missing(route, route.reports.back(), own.forwarded, route.answered, now);
    return !missing;
}

// By two heartbeats in a row, or more where that was no cure: a large frame on a slow link takes
// its time.
bool Cluster::is_missing(const Route& route, HopReport& at, FrameNumber left, FrameNumber arrived,
                         TimeUs now) const {
    if (left <= arrived) {
        at.missing = 0;
        return false;
    }
    if (at.missing != arrived + 1) {
        at.missing = arrived + 1;
        at.missing_beats = 1;
        at.missing_since = now;
        return !holds(Rule::kTwoBeats);
    }
    const uint32_t beats = 2u << std::min(route.faults_in_row, kDoublingsMax);
    const TimeUs interval_us = config_.heartbeat_interval_ms * kMillisecondUs;
    // Several that were read at once, after a pause, are one.
    return ++at.missing_beats >= beats &&
           now - at.missing_since >= interval_us * (beats - 1) - interval_us / 2;
}

}  // namespace chatloop
