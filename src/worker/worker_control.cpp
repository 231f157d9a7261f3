// Control plane of the worker: membership, routes, fences, heartbeats.
#include <algorithm>

#include "chatloop/core/limits.hpp"
#include "chatloop/core/rules.hpp"
#include "chatloop/worker/worker.hpp"

namespace chatloop {

namespace {

constexpr TimeUs kHelloIntervalUs = 100 * kMillisecondUs;
constexpr size_t kRoutersRemembered = 64;  // restarts of one router
constexpr TimeUs kHeartbeatsMissed = 3;    // until a router with a long interval is silent

}  // namespace

Worker::Worker(WorkerConfig config, Outbox& outbox, FrameExecutor* stage, FrameExecutor* sampler)
    : config_(std::move(config)), outbox_(outbox) {
    CL_ASSERT(stage != nullptr || sampler != nullptr);
    CL_ASSERT(config_.incarnation != 0);
    stage_.executor = stage;
    sampler_.executor = sampler;
    for (const std::string& router : config_.routers) {
        RouterSession session;
        session.share = sessions_.size();
        session.peer = router;
        sessions_.push_back(std::move(session));
    }
}

void Worker::send(RouterSession& session, wire::ControlBody body) {
    wire::Control message{config_.incarnation, ++session.sequence, std::move(body)};
    outbox_.send_control(session.peer, wire::encode_control(message));
}

// From a process that was replaced. Its WELCOME counts where we follow nobody: a late one of
// another may have made us take the living one for replaced.
bool Worker::is_late(const RouterSession& session, const wire::Control& message) {
    const bool is_answer =
        session.router == 0 && std::holds_alternative<wire::Welcome>(message.body);
    return holds(Rule::kReplacedRouter) && session.replaced(message.sender) && !is_answer;
}

void Worker::on_control(const std::string& router, wire::ByteView bytes, TimeUs now) {
    const auto session = std::find_if(sessions_.begin(), sessions_.end(),
                                      [&](const RouterSession& s) { return s.peer == router; });
    CL_ASSERT(session != sessions_.end());
    const Result<wire::Control> message = wire::decode_control(bytes);
    if (!message || is_late(*session, *message)) {
        ++counters_.control_bad;
        return;
    }
    session->heard_at = now;
    session->heard_sequence = message->sequence;
    const wire::ControlBody& body = message->body;
    if (const auto* welcome = std::get_if<wire::Welcome>(&body)) {
        on_welcome(*session, message->sender, *welcome, now);
        return;
    }
    if (const auto* reject = std::get_if<wire::Reject>(&body)) {
        session->rejected = !reject->retryable;
        if (session->rejected) rejection_ = reject->reason;
        return;
    }
    if (std::holds_alternative<wire::Unknown>(body) || message->sender != session->router) {
        // Another router process answers at this endpoint, or ours has forgotten us: start again.
        forget_router(*session, now);
        return;
    }
    if (const auto* route = std::get_if<wire::Route>(&body)) on_route(*session, *route, now);
    if (const auto* fence = std::get_if<wire::Fence>(&body))
        on_fence(*session, fence->through, now);
    if (const auto* beat = std::get_if<wire::RouterHeartbeat>(&body))
        on_router_heartbeat(*session, *beat, now);
}

void Worker::on_welcome(RouterSession& session, Incarnation router, const wire::Welcome& welcome,
                        TimeUs now) {
    if (welcome.worker != config_.incarnation) return;
    if (session.router == router) return;  // the answer to a repeated HELLO
    // One of the two is late: who lives answers a HELLO.
    if (session.router != 0) return forget_router(session, now);
    std::erase(session.welcomed, router);
    session.welcomed.push_back(router);
    if (session.welcomed.size() > kRoutersRemembered) session.welcomed.pop_front();
    session.router = router;
    session.welcome = welcome;
    session.heartbeat_at = now;
}

// Whether this process can be these hops: each role that it has, once.
bool Worker::can_be(const std::vector<wire::RouteHop>& hops) const {
    uint8_t roles = 0;
    for (const wire::RouteHop& hop : hops) {
        const RoleState& role = hop.role == wire::kRoleStage ? stage_ : sampler_;
        if (role.executor == nullptr || (roles & hop.role) != 0) return false;
        roles |= hop.role;
    }
    return true;
}

// The route's generation is above everything it fences, so nothing of it can be queued yet.
void Worker::on_route(RouterSession& session, const wire::Route& route, TimeUs now) {
    fence(session, route.fences_through, now);
    if (route.generation <= session.fenced_through && holds(Rule::kLateRoute)) return;
    if (state_ == wire::WorkerState::kDraining) return;
    if (const auto known = session.routes.find(route.generation); known != session.routes.end()) {
        known->second.ready_sent = false;  // the router has not heard our READY: say it again
        report_ready(session, route.generation, known->second);
        return;
    }
    if (session.routes.size() >= kGenerationsHeldMax || !can_be(route.hops)) {
        ++counters_.control_bad;
        return;
    }
    InstalledRoute installed;
    installed.installed_at = now;
    for (const wire::RouteHop& hop : route.hops) {
        InstalledHop entry;
        entry.hop = hop;
        if (hop.next_endpoint.empty()) {
            entry.link_up = true;
        } else {
            entry.link = next_link_++;
            outbox_.open_link(entry.link, hop.next_endpoint);
        }
        installed.hops.push_back(std::move(entry));
    }
    auto& entry = session.routes[route.generation] = std::move(installed);
    report_ready(session, route.generation, entry);
}

void Worker::report_ready(RouterSession& session, Generation generation, InstalledRoute& route) {
    const bool links_up = route.links_up() || !holds(Rule::kReadyLink);
    if (route.ready_sent || !links_up || state_ != wire::WorkerState::kReady) return;
    route.ready_sent = true;
    send(session, wire::Ready{generation});
}

void Worker::on_fence(RouterSession& session, Generation through, TimeUs now) {
    fence(session, through, now);
    send(session, wire::Fenced{session.fenced_through});
}

// The last heartbeat of what is fenced says how far it had come: the router wants to know what a
// worker that died was computing.
void Worker::fence(RouterSession& session, Generation through, TimeUs now) {
    if (through <= session.fenced_through) return;
    if (!session.routes.empty() && session.routes.begin()->first <= through)
        send_heartbeat(session, now);
    session.fenced_through = through;
    const auto fenced = [&](const FramePtr& f) {
        return f->frame.header.generation <= through;
    };
    if (holds(Rule::kFenceQueue))
        counters_.frames_fenced += std::erase_if(session.queue, fenced);
    for (RoleState* role : {&stage_, &sampler_}) {
        if (!role->current || role->share != session.share || !fenced(role->current)) continue;
        if (!holds(Rule::kFenceUnit)) continue;
        CL_ASSERT(running_ == nullptr);  // control is handled between units
        role->executor->abandon();
        role->current.reset();
        ++counters_.frames_fenced;
    }
    while (!session.routes.empty() && session.routes.begin()->first <= through) {
        for (const InstalledHop& hop : session.routes.begin()->second.hops)
            if (hop.link != 0) outbox_.close_link(hop.link);
        session.routes.erase(session.routes.begin());
    }
}

void Worker::forget_router(RouterSession& session, TimeUs now) {
    session.router = 0;  // to whom nothing is said any more
    fence(session, UINT64_MAX, now);
    session.fenced_through = 0;
    session.heartbeat_at = kNever;
    session.hello_at = now;
    for (RoleState* role : {&stage_, &sampler_})
        if (role->executor != nullptr) role->executor->forget(session.share);
}

void Worker::on_router_heartbeat(RouterSession& session, const wire::RouterHeartbeat& beat,
                                 TimeUs now) {
    if (beat.fence_through > session.fenced_through && holds(Rule::kFenceRepeat))
        on_fence(session, beat.fence_through, now);
    for (auto& [generation, route] : session.routes) report_ready(session, generation, route);
}

void Worker::on_link(LinkId link, bool up, TimeUs now) {
    for (RouterSession& session : sessions_) {
        for (auto& [generation, route] : session.routes) {
            for (InstalledHop& hop : route.hops) {
                if (hop.link != link) continue;
                const bool changed = hop.link_up != up;
                hop.link_up = up;
                report_ready(session, generation, route);
                if (changed && !up) send_heartbeat(session, now);  // the fastest sign of a death
                return;
            }
        }
    }
}

void Worker::on_tick(TimeUs now) {
    for (RouterSession& session : sessions_) {
        if (session.router == 0) {
            if (now >= session.hello_at && !session.rejected &&
                state_ != wire::WorkerState::kDraining) {
                send(session, config_.hello);
                session.hello_at = now + kHelloIntervalUs;
            }
            continue;
        }
        const TimeUs interval_us = session.welcome.heartbeat_interval_ms * kMillisecondUs;
        const TimeUs silence_us =
            std::max(config_.router_silence_us, kHeartbeatsMissed * interval_us);
        if (now - session.heard_at > silence_us) {
            forget_router(session, now);
            continue;
        }
        for (auto& [generation, route] : session.routes) {
            if (route.ready_sent || route.unreachable_sent) continue;
            if (now - route.installed_at < config_.link_timeout_us) continue;
            for (const InstalledHop& hop : route.hops) {
                if (hop.link_up) continue;
                route.unreachable_sent = true;
                send(session, wire::Unreachable{generation, hop.hop.hop, hop.hop.next});
            }
        }
        if (now >= session.heartbeat_at) send_heartbeat(session, now);
    }
    if (state_ != wire::WorkerState::kDraining || finished_) return;
    const bool idle = std::all_of(sessions_.begin(), sessions_.end(),
                                  [](const RouterSession& s) { return s.routes.empty(); });
    if (!idle && now < drain_until_) return;
    for (RouterSession& session : sessions_)
        if (session.router != 0) send(session, wire::Bye{"drained"});
    finished_ = true;
}

TimeUs Worker::next_timer() const {
    if (finished_) return 0;
    TimeUs next = drain_until_;
    for (const RouterSession& session : sessions_) {
        const bool says_hello = session.router == 0;
        const bool draining = state_ == wire::WorkerState::kDraining;
        if (session.rejected || (says_hello && draining)) continue;
        next = std::min(next, session.router == 0 ? session.hello_at : session.heartbeat_at);
    }
    return next;
}

void Worker::send_heartbeat(RouterSession& session, TimeUs now) {
    if (session.router == 0) return;
    wire::WorkerHeartbeat beat;
    beat.state = state_;
    beat.loop_gap_us = static_cast<uint32_t>(std::min<TimeUs>(loop_gap_us_, UINT32_MAX));
    loop_gap_us_ = 0;
    beat.frames_held = frames_held(session.share);
    beat.fenced_through = session.fenced_through;
    for (const auto& [generation, route] : session.routes) {
        for (const InstalledHop& hop : route.hops) {
            const bool empty = hop.link == 0 || outbox_.backlog(hop.link) == 0;
            beat.routes.push_back({generation, hop.hop.hop, hop.accepted, hop.forwarded,
                                   hop.link_up, empty});
        }
    }
    beat.counters = counters_;
    send(session, std::move(beat));
    session.heartbeat_at = now + session.welcome.heartbeat_interval_ms * kMillisecondUs;
}

uint32_t Worker::frames_held(size_t share) const {
    auto frames = static_cast<uint32_t>(sessions_[share].queue.size());
    for (const RoleState* role : {&stage_, &sampler_})
        if (role->current && role->share == share) ++frames;
    return frames;
}

void Worker::set_ready(TimeUs now) {
    if (state_ == wire::WorkerState::kDraining) return;  // SIGTERM came while it was loading
    CL_ASSERT(state_ == wire::WorkerState::kLoading);
    state_ = wire::WorkerState::kReady;
    for (RouterSession& session : sessions_) {
        send_heartbeat(session, now);
        for (auto& [generation, route] : session.routes) report_ready(session, generation, route);
    }
}

void Worker::drain(TimeUs now) {
    if (state_ == wire::WorkerState::kDraining) {  // a second SIGTERM ends at once
        finished_ = true;
        return;
    }
    state_ = wire::WorkerState::kDraining;
    drain_until_ = now + config_.drain_timeout_us;
    for (RouterSession& session : sessions_) send_heartbeat(session, now);
}

void Worker::note_loop_gap(TimeUs gap_us) { loop_gap_us_ = std::max(loop_gap_us_, gap_us); }

const RoleMetrics* Worker::metrics(uint8_t role) const {
    const RoleState& state = role == wire::kRoleStage ? stage_ : sampler_;
    return state.executor == nullptr ? nullptr : &state.metrics;
}

uint32_t Worker::frames_held() const {
    size_t held = (stage_.current ? 1 : 0) + (sampler_.current ? 1 : 0);
    for (const RouterSession& session : sessions_) held += session.queue.size();
    return static_cast<uint32_t>(held);
}

uint32_t Worker::routes_installed() const {
    size_t routes = 0;
    for (const RouterSession& session : sessions_) routes += session.routes.size();
    return static_cast<uint32_t>(routes);
}

// Whose frame it is.
RouterSession* Worker::session_of_router(const wire::FrameHeader& header) {
    for (RouterSession& session : sessions_)
        if (session.router == header.router && header.router != 0) return &session;
    if (holds(Rule::kFrameRouter)) return nullptr;
    for (RouterSession& session : sessions_)
        if (session.routes.contains(header.generation)) return &session;
    return nullptr;
}

}  // namespace chatloop
