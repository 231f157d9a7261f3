// Remains: what a route leaves when it is taken down, and who goes on with it. A stage is replaced
// when its incarnation is, not when it is suspected (docs/reliability.md).
#include <algorithm>

#include "chatloop/core/rules.hpp"
#include "chatloop/router/cluster.hpp"

namespace chatloop {

void Cluster::leave_remains(const Route& route, const std::string& why, TimeUs now) {
    if (!route.up) {
        if (const auto found = remains_.find(route.succeeds); found != remains_.end()) {
            found->second.successor = 0;
            ++found->second.faults_in_row;
        }
        events_.on_route_down(route, why, now);
        return drop_unrestorable(now);
    }
    Remains& remains = remains_[route.generation];
    remains.stages.assign(route.hops.begin(), route.hops.end() - 1);
    remains.kv = route.kv;
    remains.faults_in_row = route.faults_in_row + 1;
    events_.on_route_down(route, why, now);
    for (const Incarnation stage : std::vector<Incarnation>(remains.stages))
        if (!workers_.contains(stage) && holds(Rule::kReplaced))
            return drop_remains_of(stage, why, now);
    drop_unrestorable(now);
}

// The same stages and a sampler, if they are all usable; empty otherwise.
std::vector<Incarnation> Cluster::successor_of(const Remains& remains,
                                               const Usable& usable) const {
    for (const Incarnation stage : remains.stages) {
        const auto worker = workers_.find(stage);
        if (worker == workers_.end() || !usable(worker->second)) return {};
    }
    return with_sampler(remains.stages, usable);
}

// Until when its workers are avoided, the worst first; those that are not count as 0.
std::vector<TimeUs> Cluster::avoidance(const std::vector<Incarnation>& hops, TimeUs now) const {
    std::vector<TimeUs> until;
    for (const Incarnation hop : std::set<Incarnation>(hops.begin(), hops.end())) {
        const WorkerPeer& worker = workers_.at(hop);
        until.push_back(is_avoided(worker, now) ? avoided_until(worker) : 0);
    }
    std::sort(until.begin(), until.end(), std::greater<>());
    return until;
}

// Not where `other`, a chain that can be had now, failed less: the same workers would fail again,
// if it is an edge between them that is bad.
bool Cluster::restore_one(const Usable& usable, const std::vector<Incarnation>& other,
                          TimeUs now) {
    for (const auto& [generation, remains] : remains_) {
        if (remains.successor != 0) continue;
        const std::vector<Incarnation> hops = successor_of(remains, usable);
        if (hops.empty()) continue;
        const uint32_t bad = bad_edges(hops);
        if (bad > 0 && is_forming()) continue;
        if (!other.empty() && std::pair(bad_edges(other), avoidance(other, now)) <
                                  std::pair(bad, avoidance(hops, now)))
            continue;
        install(hops, now, generation);
        return true;
    }
    return false;
}

// A stage is gone, or has forgotten: the others' KV is of no use without it.
void Cluster::drop_remains_of(Incarnation stage, const std::string& why, TimeUs now) {
    std::vector<Generation> lost;
    for (const auto& [generation, remains] : remains_)
        if (std::find(remains.stages.begin(), remains.stages.end(), stage) != remains.stages.end())
            lost.push_back(generation);
    for (const Generation generation : lost) {
        CL_ASSERT(remains_.at(generation).successor == 0);  // it was on that route, which is down
        remains_.erase(generation);
        events_.on_kv_lost(generation, why, now);
    }
}

// As if a new process had what the one before it held: only where the simulator shows that it has
// not (Rule::kReplaced).
void Cluster::take_remains_for(Incarnation before, Incarnation after) {
    for (auto& [generation, remains] : remains_)
        std::replace(remains.stages.begin(), remains.stages.end(), before, after);
}

// What cannot go on now does not wait while another route could take it.
void Cluster::drop_unrestorable(TimeUs now) {
    const bool others = std::any_of(routes_.begin(), routes_.end(), [this](const auto& entry) {
        return takes_new(entry.second);
    });
    if (!others) return;
    const Usable usable = [&](const WorkerPeer& worker) {
        return is_free(worker) && !is_avoided(worker, now);
    };
    std::vector<Generation> lost;
    for (const auto& [generation, remains] : remains_)
        if (remains.successor == 0 && successor_of(remains, usable).empty())
            lost.push_back(generation);
    for (const Generation generation : lost) {
        remains_.erase(generation);
        events_.on_kv_lost(generation, "another route takes over", now);
    }
}

void Cluster::hand_over(Generation generation, TimeUs now) { fault(generation, "hand-over", now); }

bool Cluster::takes_new(const Route& route) const {
    return route.up && !route.draining &&
           std::all_of(route.workers.begin(), route.workers.end(), [this](Incarnation worker) {
               return workers_.at(worker).health == Health::kAlive;
           });
}

bool Cluster::has_alternative(const Route& route) const {
    const bool others = std::any_of(routes_.begin(), routes_.end(), [&](const auto& entry) {
        return entry.first != route.generation && takes_new(entry.second);
    });
    return others || !find_chain([&](const WorkerPeer& worker) {
        return is_free(worker) ||
               (worker.generation == route.generation &&
                worker.state == wire::WorkerState::kReady && worker.health == Health::kAlive);
    }).empty();
}

}  // namespace chatloop
