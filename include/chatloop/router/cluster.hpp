// The router's view of its workers: who is there, which of them form routes, what is fenced, and
// what each still owes. It speaks the control protocol; it knows nothing of requests.
//
//     HELLO --> available --ROUTE to each hop--> installing --READY from all, own link up--> up
//                   ^                                                                      |
//                   +---------------- FENCE to each hop (any fault) -----------------------+
//
// A route that was up leaves Remains: as long as its stages live, a successor with the same stages
// goes on with their KV. When it is lost, what ran there begins again somewhere (recovery.cpp).
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "chatloop/bus/outbox.hpp"
#include "chatloop/core/clock.hpp"
#include "chatloop/core/quarantine.hpp"
#include "chatloop/router/credit.hpp"
#include "chatloop/router/kv_blocks.hpp"
#include "chatloop/router/no_route.hpp"
#include "chatloop/wire/codec.hpp"

namespace chatloop {

struct ClusterConfig {
    std::string name;
    Incarnation incarnation = 0;
    std::string result_endpoint;
    // What every worker must agree with.
    std::string model_id;
    std::string cut_id;
    uint64_t fingerprint = 0;          // of a stage
    uint64_t sampler_fingerprint = 0;  // of a sampler without layers
    std::string kv_cache_dtype;        // of a stage
    uint64_t self_test = 0;
    uint32_t layers = 0;
    uint32_t width = 0;
    uint32_t vocab = 0;
    uint32_t heartbeat_interval_ms = 200;
    uint32_t failure_threshold = 4;  // intervals of silence until a worker is taken for dead
    TimeUs install_timeout_us = 10 * kSecondUs;
    TimeUs link_timeout_us = 3 * kSecondUs;  // of our link to stage 0, as of a worker's to the next
    BlockHash block_hash = hash_block;  // tests have one that collides
};

struct ClusterCounters {
    uint64_t workers_joined = 0;
    uint64_t workers_lost = 0;
    uint64_t workers_refused = 0;   // HELLO answered with REJECT
    uint64_t ctrl_malformed = 0;    // no message of the protocol
    uint64_t ctrl_quarantined = 0;  // of a peer that had sent too many of these: not read
    uint64_t ctrl_unexpected = 0;   // of a peer that is no worker here, or about another's route
};

// What is thought of a worker, from when it was heard last.
enum class Health : uint8_t {
    kAlive,
    kSuspect,  // half of the silence that makes it kSilent: it gets no new work
    kSilent,   // its route is fenced; it is waited for where nobody can take its place
};

struct WorkerPeer {
    std::string peer;  // routing id
    Incarnation incarnation = 0;
    wire::Hello hello;
    wire::WorkerState state = wire::WorkerState::kLoading;
    wire::WorkerCounters counters;  // as its last heartbeat had them, and the next two
    uint32_t frames_held = 0;
    uint32_t loop_gap_us = 0;
    CreditAccount credit;
    Generation generation = 0;    // of the route it is on; 0 none
    Generation fence_wanted = 0;  // what it has been told
    Generation fenced = 0;        // what it has acknowledged
    uint64_t sequence = 0;        // of our messages
    uint64_t heard_sequence = 0;
    TimeUs heard_at = 0;
    TimeUs heartbeat_at = 0;
    Health health = Health::kAlive;
    TimeUs unreachable_at = 0;    // its control connection was gone, and nothing was heard since
    bool spoke = false;           // since its HELLO, and not only HELLO again
};

// What a hop said of the frames of its route, last.
struct HopReport {
    FrameNumber accepted = 0;
    FrameNumber forwarded = 0;
    bool egress_empty = true;
    FrameNumber missing = 0;      // a frame that left the hop before and did not arrive; 0 none
    uint32_t missing_beats = 0;   // heartbeats in a row that said so
    TimeUs missing_since = 0;
};

// One installed (or installing) route. Workers are named by incarnation.
struct Route {
    Generation generation = 0;
    std::vector<Incarnation> hops;      // stage 0 ... stage n-1, sampler
    std::set<Incarnation> workers;      // the distinct ones
    std::set<Incarnation> not_ready;
    LinkId link = 0;                    // ours, to stage 0
    bool link_up = false;
    bool up = false;
    bool draining = false;              // a worker of it drains: no new sequences
    TimeUs installed_at = 0;
    std::shared_ptr<KvBlocks> kv;
    Generation succeeds = 0;            // whose Remains it goes on with; 0 none
    uint32_t faults_in_row = 0;         // of this chain of successors, without a RESULT
    FrameNumber sent = 0;
    FrameNumber answered = 0;
    std::vector<HopReport> reports;     // by hop; of us the last

    uint32_t stages() const { return static_cast<uint32_t>(hops.size()) - 1; }
};

// What a route that was up has left: stages that may still hold its KV.
struct Remains {
    std::vector<Incarnation> stages;
    std::shared_ptr<KvBlocks> kv;
    uint32_t faults_in_row = 0;
    Generation successor = 0;  // that is being installed
};

class Cluster {
public:
    // What the cluster tells the router.
    class Events {
    public:
        virtual ~Events() = default;
        // With `succeeds`: what that one had is there, up to what its RESULTs have confirmed.
        virtual void on_route_up(const Route& route) = 0;
        // A route that was up may leave its KV to a successor, or on_kv_lost follows.
        virtual void on_route_down(const Route& route, const std::string& why, TimeUs now) = 0;
        virtual void on_kv_lost(Generation generation, const std::string& why, TimeUs now) = 0;
        virtual void on_quarantine(const std::string& peer) = 0;
        virtual void on_worker_event(const WorkerPeer& worker, const std::string& what) = 0;
        virtual void on_worker_refused(const RefusedWorker& worker) = 0;
        virtual void on_worker_died(Incarnation incarnation, TimeUs now) = 0;
        // Of a route that is down: how far a hop had come when it was fenced.
        virtual void on_last_report(Incarnation worker, const wire::RouteReport& report) = 0;
    };

    Cluster(const ClusterConfig& config, Outbox& outbox, Events& events);

    void on_control(const std::string& peer, wire::ByteView bytes, TimeUs now);
    void on_unreachable(const std::string& peer, TimeUs now);
    void on_link(LinkId link, bool up, TimeUs now);
    void on_tick(TimeUs now);
    TimeUs next_timer() const;
    void rearm(TimeUs now);  // nobody has been silent until now

    // A fault that another part of the router saw: fences the route and reports it down.
    void fault(Generation generation, const std::string& why, TimeUs now);
    // Ends a route that nobody uses any more.
    void retire(Generation generation, TimeUs now);
    // Ends a route with nothing in flight one of whose workers drains: like a fault, but nobody's.
    void hand_over(Generation generation, TimeUs now);
    // Whether what runs there could run without the workers of it that drain.
    bool has_alternative(const Route& route) const;
    bool takes_new(const Route& route) const;
    // It failed, and others are preferred for a while.
    bool is_avoided(const WorkerPeer& worker, TimeUs now) const;

    Route* find_route(Generation generation);
    const std::map<Generation, Route>& routes() const { return routes_; }
    const std::map<Incarnation, WorkerPeer>& workers() const { return workers_; }

    // Credit of a frame over all workers of a route.
    bool credit_allows(const Route& route, uint64_t bytes) const;
    void debit(Route& route, uint64_t bytes);
    void credit(Route& route, uint64_t bytes);  // by its RESULT

    void stop_forming() { forming_ = false; }
    // Why no route takes requests; empty when one does.
    std::string why_no_route() const;
    // Nobody is there who could compute, or is expected back within a moment.
    bool is_deserted() const;
    // Every worker that is still there has acknowledged its last FENCE: nobody waits for this
    // router.
    bool all_fenced() const;
    const ClusterCounters& counters() const { return counters_; }

private:
    using Usable = std::function<bool(const WorkerPeer&)>;
    // What went wrong with the workers of one name, also before a restart.
    struct Record {
        std::deque<TimeUs> faults;
        TimeUs avoid_until = 0;
    };

    void on_hello(const std::string& peer, Incarnation sender, const wire::Hello& hello,
                  TimeUs now);

    // Names (cluster_names.cpp).
    // A process that asks for the name of another one.
    struct Claim {
        Incarnation incarnation = 0;
        std::string peer;
        TimeUs since = 0;
        bool told = false;
    };
    const WorkerPeer* holder_of(const std::string& name) const;
    bool yields(WorkerPeer& holder, const std::string& peer, Incarnation sender, TimeUs now);
    void replace_lost(const std::string& name);
    void never_again(Incarnation incarnation);
    void forget_name(const WorkerPeer& gone);
    void drop_claim(const std::string& peer);

    std::string mismatch(const wire::Hello& hello) const;
    void note_refused(const std::string& name, const std::string& reason, TimeUs now);
    std::string hindrance(const WorkerPeer& worker) const;
    void on_ready(WorkerPeer& worker, Generation generation, TimeUs now);
    void on_heartbeat(WorkerPeer& worker, const wire::WorkerHeartbeat& beat, TimeUs now);
    void on_fenced(WorkerPeer& worker, Generation through, TimeUs now);
    void on_gap(const WorkerPeer& worker, const wire::Gap& gap, TimeUs now);
    void on_unreachable(const WorkerPeer& worker, const wire::Unreachable& report, TimeUs now);
    void on_forgotten(WorkerPeer& worker, TimeUs now);
    void maybe_up(Route& route, TimeUs now);
    void form_route(TimeUs now);
    bool is_free(const WorkerPeer& worker) const;
    bool is_forming() const;
    std::vector<Incarnation> find_chain(const Usable& usable) const;
    std::vector<Incarnation> find_stages(const Usable& usable) const;
    std::vector<Incarnation> with_sampler(std::vector<Incarnation> stages,
                                          const Usable& usable) const;
    void install(const std::vector<Incarnation>& hops, TimeUs now, Generation succeeds = 0);
    void send_route(WorkerPeer& worker, const Route& route);
    Route take_down(Generation generation);
    // Who was silent before it could not be reached has vanished: nobody knows that it died.
    enum class Loss : uint8_t { kDeath, kReplaced, kVanished, kGoodbye };
    void lose(Incarnation incarnation, Loss loss, const std::string& why, TimeUs now);

    // Remains (cluster_recovery.cpp).
    void leave_remains(const Route& route, const std::string& why, TimeUs now);
    std::vector<Incarnation> successor_of(const Remains& remains, const Usable& usable) const;
    bool restore_one(const Usable& usable, const std::vector<Incarnation>& other, TimeUs now);
    std::vector<TimeUs> avoidance(const std::vector<Incarnation>& hops, TimeUs now) const;
    void take_remains_for(Incarnation before, Incarnation after);
    void drop_remains_of(Incarnation stage, const std::string& why, TimeUs now);
    void drop_unrestorable(TimeUs now);

    // Health (cluster_health.cpp).
    TimeUs dead_us() const;
    TimeUs back_within_us() const;  // a worker whose control connection broke
    TimeUs avoided_until(const WorkerPeer& worker) const;  // 0: it never was
    void check_health(TimeUs now);
    void note_alive(WorkerPeer& worker, TimeUs now);
    Record* record_of(const std::string& name, TimeUs now);
    void note_fault(Incarnation worker, TimeUs now);
    void avoid(const std::string& name, TimeUs now);
    void note_bad_edge(Incarnation from, Incarnation to, TimeUs now);
    bool is_bad_edge(Incarnation from, Incarnation to) const;
    uint32_t bad_edges(const std::vector<Incarnation>& hops) const;
    bool note_report(Route& route, const wire::RouteReport& report, TimeUs now);
    bool is_missing(const Route& route, HopReport& at, FrameNumber left, FrameNumber arrived,
                    TimeUs now) const;
    void send(WorkerPeer& worker, wire::ControlBody body);
    void send_to(const std::string& peer, wire::ControlBody body);

    ClusterConfig config_;
    Outbox& outbox_;
    Events& events_;
    std::map<Incarnation, WorkerPeer> workers_;
    std::deque<Incarnation> replaced_;  // never accepted again, the oldest first
    std::deque<std::pair<std::string, Incarnation>> lost_;  // may come back until replaced
    std::map<std::string, Claim> claims_;                   // by a name that is in use
    std::deque<RefusedWorker> refused_;  // since a route came up, the latest kRefusalsKept
    TimeUs refusal_told_at_ = -kSecondUs;
    std::map<Generation, Route> routes_;
    std::map<Generation, Remains> remains_;
    std::map<std::string, Record> records_;  // by a worker's name
    // From a worker to a next hop that it could not reach, and until when that counts.
    std::map<std::pair<Incarnation, Incarnation>, TimeUs> bad_edges_;
    Generation last_generation_ = 0;
    LinkId next_link_ = 1;
    uint64_t stray_sequence_ = 0;     // of messages to peers that are not members
    TimeUs form_at_ = 0;              // when forming a route is tried next
    bool forming_ = true;
    ClusterCounters counters_;
    Quarantine quarantine_;
};

}  // namespace chatloop
