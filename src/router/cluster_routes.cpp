// Routes: a chain of available workers is found, installed, brought up, and fenced on any fault.
#include <algorithm>

#include "chatloop/core/limits.hpp"
#include "chatloop/core/printable.hpp"
#include "chatloop/core/rules.hpp"
#include "chatloop/router/cluster.hpp"

namespace chatloop {

namespace {

constexpr TimeUs kFormIntervalUs = 200 * kMillisecondUs;

}  // namespace

Route* Cluster::find_route(Generation generation) {
    const auto found = routes_.find(generation);
    return found == routes_.end() ? nullptr : &found->second;
}

// Where there is a choice: those that are not avoided before those that are; then a successor of
// what was there, which goes on with its KV, before a chain that failed as much. A chain with a bad
// edge is left while others come up: their workers may be free in a moment, and each then finds one
// that it reaches.
void Cluster::form_route(TimeUs now) {
    form_at_ = now + kFormIntervalUs;
    if (!forming_) return;
    std::erase_if(bad_edges_, [now](const auto& entry) { return now >= entry.second; });
    for (const bool avoiding : {true, false}) {
        const Usable usable = [&](const WorkerPeer& worker) {
            return is_free(worker) && !(avoiding && is_avoided(worker, now));
        };
        const std::vector<Incarnation> chain = find_chain(usable);
        if (restore_one(usable, chain, now)) break;
        if (chain.empty()) continue;
        if (bad_edges(chain) > 0 && is_forming()) continue;
        install(chain, now);
        break;
    }
    drop_unrestorable(now);
}

bool Cluster::is_free(const WorkerPeer& worker) const {
    return worker.generation == 0 && worker.state == wire::WorkerState::kReady &&
           worker.health == Health::kAlive;
}

bool Cluster::is_forming() const {
    return std::any_of(routes_.begin(), routes_.end(),
                       [](const auto& entry) { return !entry.second.up; });
}

// Stages and a sampler; empty when there is none. If the stages took the only samplers there are,
// one of those is left out of them.
std::vector<Incarnation> Cluster::find_chain(const Usable& usable) const {
    const std::vector<Incarnation> stages = find_stages(usable);
    if (stages.empty()) return {};
    std::vector<Incarnation> chain = with_sampler(stages, usable);
    for (size_t i = 0; i < stages.size() && chain.empty(); ++i) {
        if ((workers_.at(stages[i]).hello.roles & wire::kRoleSampler) == 0) continue;
        const auto others = [&](const WorkerPeer& worker) {
            return worker.incarnation != stages[i] && usable(worker);
        };
        const std::vector<Incarnation> rest = find_stages(others);
        if (!rest.empty()) chain = with_sampler(rest, usable);
    }
    return chain;
}

// Usable workers whose layer ranges follow each other from layer 0 to the end. Empty when there are
// none. Found from the end: the workers that begin at a layer from whose range the end can be
// reached, first those with the fewest bad edges behind them, then those that were never avoided or
// longest ago, then the lowest incarnation.
std::vector<Incarnation> Cluster::find_stages(const Usable& usable) const {
    struct Rest {
        Incarnation next = 0;
        uint32_t bad = 0;  // edges
    };
    std::map<Incarnation, Rest> rests;  // of workers from which the end can be reached
    const auto order = [&](Incarnation worker, uint32_t bad) {
        return std::pair(bad, avoided_until(workers_.at(worker)));
    };
    // The first of those that begin at `layer` is the next one, unless the edge to it is bad.
    const auto rest_of = [&](Incarnation from, uint32_t layer, Incarnation first) {
        const auto bad_to = [&](Incarnation next) {
            return rests.at(next).bad + (is_bad_edge(from, next) ? 1 : 0);
        };
        Rest best{first, bad_to(first)};
        if (!is_bad_edge(from, first)) return best;
        for (const auto& [next, rest] : rests) {
            if (workers_.at(next).hello.layer_first != layer) continue;
            if (order(next, bad_to(next)) < order(best.next, best.bad)) best = {next, bad_to(next)};
        }
        return best;
    };
    std::vector<Incarnation> first(config_.layers + 1, 0);  // 0: there is no way to the end
    for (uint32_t layer = config_.layers; layer-- > 0;) {
        for (const auto& [incarnation, worker] : workers_) {
            if ((worker.hello.roles & wire::kRoleStage) == 0 || !usable(worker)) continue;
            if (worker.hello.layer_first != layer) continue;
            const uint32_t end = worker.hello.layer_end;
            const bool is_last = end == config_.layers;
            if (!is_last && first[end] == 0) continue;
            const Rest rest = is_last ? Rest() : rest_of(incarnation, end, first[end]);
            rests.emplace(incarnation, rest);
            Incarnation& best = first[layer];
            if (best == 0 || order(incarnation, rest.bad) < order(best, rests.at(best).bad))
                best = incarnation;
        }
    }
    std::vector<Incarnation> chain;
    for (Incarnation at = first[0]; at != 0; at = rests.at(at).next) {
        if (chain.size() + 1 >= kHopsMax) return {};
        chain.push_back(at);
    }
    return chain;
}

// The sampler is the last stage's own process where it has that role. Empty when there is none.
std::vector<Incarnation> Cluster::with_sampler(std::vector<Incarnation> stages,
                                               const Usable& usable) const {
    const WorkerPeer& last = workers_.at(stages.back());
    if ((last.hello.roles & wire::kRoleSampler) != 0) {
        stages.push_back(last.incarnation);
        return stages;
    }
    const auto order = [&](const WorkerPeer& worker) {
        return std::pair(is_bad_edge(last.incarnation, worker.incarnation), avoided_until(worker));
    };
    const WorkerPeer* best = nullptr;
    for (const auto& [incarnation, worker] : workers_) {
        if ((worker.hello.roles & wire::kRoleSampler) == 0 || !usable(worker)) continue;
        if (std::find(stages.begin(), stages.end(), incarnation) != stages.end()) continue;
        if (best == nullptr || order(worker) < order(*best)) best = &worker;
    }
    if (best == nullptr) return {};
    stages.push_back(best->incarnation);
    return stages;
}

void Cluster::install(const std::vector<Incarnation>& hops, TimeUs now, Generation succeeds) {
    Route route;
    route.generation = ++last_generation_;
    route.hops = hops;
    route.workers.insert(hops.begin(), hops.end());
    route.not_ready = route.workers;
    route.installed_at = now;
    uint32_t slots = kSlotsMax;
    uint32_t blocks = UINT32_MAX;
    for (uint32_t hop = 0; hop < route.stages(); ++hop) {
        const wire::Share& share = workers_.at(hops[hop]).hello.share;
        slots = std::min(slots, share.slots);
        blocks = std::min(blocks, share.blocks);
    }
    route.reports.resize(hops.size() + 1);
    if (succeeds != 0) {
        Remains& remains = remains_.at(succeeds);
        remains.successor = route.generation;
        route.succeeds = succeeds;
        route.kv = remains.kv;
        route.faults_in_row = remains.faults_in_row;
        CL_ASSERT(route.kv->slot_count() == slots && route.kv->block_count() == blocks);
    } else {
        route.kv = std::make_shared<KvBlocks>(slots, blocks, config_.fingerprint,
                                              config_.block_hash);
    }
    route.link = next_link_++;
    Route& installed = routes_.emplace(route.generation, std::move(route)).first->second;
    outbox_.open_link(installed.link, workers_.at(hops[0]).hello.endpoint);
    for (const Incarnation incarnation : installed.workers) {
        WorkerPeer& worker = workers_.at(incarnation);
        worker.generation = installed.generation;
        send_route(worker, installed);
    }
}

void Cluster::send_route(WorkerPeer& worker, const Route& route) {
    wire::Route message;
    message.generation = route.generation;
    message.fences_through = route.generation - 1;  // a worker is on one route of a router at most
    message.slots = route.kv->slot_count();
    message.blocks = route.kv->block_count();
    for (size_t hop = 0; hop < route.hops.size(); ++hop) {
        if (route.hops[hop] != worker.incarnation) continue;
        wire::RouteHop entry;
        entry.hop = static_cast<uint8_t>(hop);
        const bool is_sampler = hop + 1 == route.hops.size();
        entry.role = is_sampler ? wire::kRoleSampler : wire::kRoleStage;
        entry.outputs_only = hop + 2 == route.hops.size();
        if (is_sampler) {
            entry.next_endpoint = config_.result_endpoint;
            entry.next = config_.incarnation;
        } else {
            entry.next = route.hops[hop + 1];
            if (entry.next != worker.incarnation)
                entry.next_endpoint = workers_.at(entry.next).hello.endpoint;
        }
        message.hops.push_back(std::move(entry));
    }
    worker.fence_wanted = std::max(worker.fence_wanted, message.fences_through);
    send(worker, std::move(message));
}

void Cluster::on_ready(WorkerPeer& worker, Generation generation, TimeUs now) {
    Route* route = find_route(holds(Rule::kReadyGeneration) ? generation : worker.generation);
    if (route == nullptr) return;
    route->not_ready.erase(worker.incarnation);
    on_fenced(worker, generation - 1, now);  // READY implies FENCED
    maybe_up(*route, now);
}

void Cluster::on_link(LinkId link, bool up, TimeUs now) {
    for (auto& [generation, route] : routes_) {
        if (route.link != link) continue;
        route.link_up = up;
        if (up) return maybe_up(route, now);
        if (!route.up || !holds(Rule::kLinkDown)) return;
        note_fault(route.hops[0], now);
        return fault(generation, "the link to stage 0 went down", now);
    }
}

void Cluster::maybe_up(Route& route, TimeUs now) {
    const bool link_up = route.link_up || !holds(Rule::kOwnLink);
    const bool ready = route.not_ready.empty() || !holds(Rule::kReadyWait);
    if (route.up || !link_up || !ready) return;
    route.up = true;
    refused_.clear();
    remains_.erase(route.succeeds);
    events_.on_route_up(route);
    // Its slots and blocks are written anew from now on.
    for (uint32_t hop = 0; hop < route.stages(); ++hop)
        drop_remains_of(route.hops[hop], "another route has its stages", now);
    drop_unrestorable(now);
}

// Forgets the route, tells its workers, and hands out what it was. Credit comes back with FENCED.
Route Cluster::take_down(Generation generation) {
    const auto found = routes_.find(generation);
    CL_ASSERT(found != routes_.end());
    Route route = std::move(found->second);
    routes_.erase(found);
    outbox_.close_link(route.link);
    for (const Incarnation incarnation : route.workers) {
        const auto worker = workers_.find(incarnation);
        if (worker == workers_.end()) continue;
        worker->second.generation = 0;
        worker->second.fence_wanted = std::max(worker->second.fence_wanted, generation);
        send(worker->second, wire::Fence{worker->second.fence_wanted});
    }
    return route;
}

void Cluster::fault(Generation generation, const std::string& why, TimeUs now) {
    if (find_route(generation) == nullptr) return;
    const Route route = take_down(generation);
    form_at_ = now;
    leave_remains(route, why, now);
}

void Cluster::retire(Generation generation, TimeUs now) {
    if (find_route(generation) == nullptr) return;
    const Route route = take_down(generation);
    if (const auto found = remains_.find(route.succeeds); found != remains_.end())
        found->second.successor = 0;  // it did not come up: what is parked waits for another
    form_at_ = now;
    drop_unrestorable(now);
}

std::string Cluster::hindrance(const WorkerPeer& worker) const {
    if (worker.state == wire::WorkerState::kDraining) return "is draining";
    if (worker.state == wire::WorkerState::kLoading) return "is loading its weights";
    return worker.health == Health::kSilent ? "is silent" : "";
}

std::string Cluster::why_no_route() const {
    const Route* coming = nullptr;
    for (const auto& [generation, route] : routes_) {
        if (route.up && !route.draining) return {};
        if (!route.up) coming = &route;
    }
    if (!forming_) return "the router is shutting down";
    std::vector<RouteCandidate> workers;
    for (const auto& [incarnation, worker] : workers_)
        workers.push_back({printable_ascii(worker.hello.name), worker.hello.roles,
                           worker.hello.layer_first, worker.hello.layer_end, hindrance(worker)});
    std::vector<RefusedWorker> refused(refused_.begin(), refused_.end());
    for (const auto& [name, claim] : claims_)
        if (claim.told)
            refused.push_back({printable_ascii(name), "another process of that name lives"});
    std::string missing = what_is_missing(config_.layers, workers, refused);
    if (!missing.empty()) return missing;
    if (coming == nullptr) return "the workers are there, a route is being formed";
    std::string waits;
    for (const Incarnation incarnation : coming->not_ready)
        waits += (waits.empty() ? "" : ", ") +
                 printable_ascii(workers_.at(incarnation).hello.name);
    if (waits.empty()) waits = "the link to the first stage";
    return "the route is being installed, it waits for " + waits;
}

bool Cluster::credit_allows(const Route& route, uint64_t bytes) const {
    return std::all_of(route.workers.begin(), route.workers.end(), [&](Incarnation incarnation) {
        return workers_.at(incarnation).credit.allows(bytes);
    });
}

void Cluster::debit(Route& route, uint64_t bytes) {
    ++route.sent;
    for (const Incarnation incarnation : route.workers)
        workers_.at(incarnation).credit.debit(route.generation, bytes);
}

void Cluster::credit(Route& route, uint64_t bytes) {
    ++route.answered;
    route.faults_in_row = 0;
    for (const Incarnation incarnation : route.workers)
        workers_.at(incarnation).credit.credit(route.generation, bytes);
}

}  // namespace chatloop
