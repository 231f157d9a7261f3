// The part of a worker process that stages and samplers share: it says HELLO to its routers,
// installs and fences routes, accepts frames by number, runs them in arrival order one unit at a
// time, forwards what comes out, and reports. It owns no socket and reads no clock.
//
//     HELLO --WELCOME--> member --ROUTE--> installed --links up--> READY
//                                   ^                      |
//                                   +-------- FENCE -------+   (every frame of it is gone)
//
// One process is one Worker with up to two roles; a frame that goes from its stage to its sampler
// does not leave it.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "chatloop/bus/message_pool.hpp"
#include "chatloop/bus/outbox.hpp"
#include "chatloop/core/clock.hpp"
#include "chatloop/wire/codec.hpp"
#include "chatloop/worker/executor.hpp"
#include "chatloop/worker/metrics.hpp"
#include "chatloop/worker/session.hpp"

namespace chatloop {

struct WorkerConfig {
    Incarnation incarnation = 0;
    std::vector<std::string> routers;  // control endpoints; one share each
    wire::Hello hello;                 // what is said to every router
    TimeUs link_timeout_us = 3 * kSecondUs;
    TimeUs router_silence_us = 10 * kSecondUs;
    TimeUs drain_timeout_us = 20 * kSecondUs;
};

class Worker {
public:
    // Either executor may be null, not both.
    Worker(WorkerConfig config, Outbox& outbox, FrameExecutor* stage, FrameExecutor* sampler);

    void on_control(const std::string& router, wire::ByteView bytes, TimeUs now);
    void on_data(Message bytes, TimeUs now);
    void on_link(LinkId link, bool up, TimeUs now);
    void on_tick(TimeUs now);
    TimeUs next_timer() const;

    // Frames of a router in this process's hands.
    uint32_t frames_held(size_t share) const;

    bool has_work() const;
    void run_unit(TimeUs now);    // one unit of the oldest frame
    void unit_done(TimeUs now);   // directly after it, with the time it ended

    void set_ready(TimeUs now);          // weights are in memory, self-test passed
    void drain(TimeUs now);              // SIGTERM: no new routes, end when the routers have let go
    bool finished() const { return finished_; }
    // A router said that this worker can never serve it; the reason.
    const std::optional<std::string>& rejection() const { return rejection_; }
    const wire::WorkerCounters& counters() const { return counters_; }
    void note_loop_gap(TimeUs gap_us);
    // Of kRoleStage or kRoleSampler; null when this process does not have the role.
    const RoleMetrics* metrics(uint8_t role) const;
    uint32_t frames_held() const;  // queued or running, of all routers
    wire::WorkerState state() const { return state_; }
    uint32_t routes_installed() const;
    // What only the owner of the sockets sees, so far.
    void note_sockets(uint64_t malformed, uint64_t sends_blocked) {
        counters_.messages_malformed = malformed;
        counters_.sends_blocked = sends_blocked;
    }
    // What only the owner of the process sees, so far and now.
    void note_process(uint64_t cpu_ms, uint64_t memory_bytes) {
        counters_.cpu_ms = cpu_ms;
        counters_.memory_bytes = memory_bytes;
    }

private:
    // A role and the frame that it is at.
    struct RoleState {
        FrameExecutor* executor = nullptr;
        FramePtr current;
        size_t share = 0;
        bool unit_finished_frame = false;
        size_t next_session = 0;  // whose frame is started next
        RoleMetrics metrics;
    };

    static bool is_late(const RouterSession& session, const wire::Control& message);
    void on_welcome(RouterSession& session, Incarnation router, const wire::Welcome& welcome,
                    TimeUs now);
    void on_route(RouterSession& session, const wire::Route& route, TimeUs now);
    bool can_be(const std::vector<wire::RouteHop>& hops) const;
    void on_fence(RouterSession& session, Generation through, TimeUs now);
    void on_router_heartbeat(RouterSession& session, const wire::RouterHeartbeat& beat, TimeUs now);
    void fence(RouterSession& session, Generation through, TimeUs now);
    void forget_router(RouterSession& session, TimeUs now);
    void report_ready(RouterSession& session, Generation generation, InstalledRoute& route);

    void accept(Message bytes, uint64_t arrival, TimeUs now);
    FramePtr spare_frame();
    void keep_spare(FramePtr frame);
    void refuse(RouterSession& session, const wire::FrameHeader& header, FrameNumber expected,
                wire::GapReason reason);
    void forward(RoleState& role, TimeUs now);
    void start_next(RoleState& role, uint8_t role_bit, TimeUs now);

    void send(RouterSession& session, wire::ControlBody body);
    void send_heartbeat(RouterSession& session, TimeUs now);
    RouterSession* session_of_router(const wire::FrameHeader& header);

    WorkerConfig config_;
    Outbox& outbox_;
    RoleState stage_;
    RoleState sampler_;
    RoleState* running_ = nullptr;  // between run_unit and unit_done
    TimeUs unit_started_at_ = 0;
    std::deque<RouterSession> sessions_;  // one per router; never grows after construction
    LinkId next_link_ = 1;
    uint64_t next_arrival_ = 1;
    MessagePool messages_;           // frames that go on
    std::vector<FramePtr> spares_;   // frames that are done: their memory is for the next ones
    wire::WorkerState state_ = wire::WorkerState::kLoading;
    TimeUs drain_until_ = kNever;
    bool finished_ = false;
    std::optional<std::string> rejection_;
    TimeUs loop_gap_us_ = 0;        // the longest since the last heartbeat
    wire::WorkerCounters counters_;
};

}  // namespace chatloop
