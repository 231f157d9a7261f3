// Data plane of the worker: frames come in by number, run in arrival order, and go on.
#include <algorithm>

#include "chatloop/core/limits.hpp"
#include "chatloop/core/rules.hpp"
#include "chatloop/worker/worker.hpp"

namespace chatloop {

namespace {

uint32_t clamp_us(TimeUs us) {
    return static_cast<uint32_t>(std::clamp<TimeUs>(us, 0, UINT32_MAX));
}

// The budget that is left after this hop, in whole milliseconds; 0 means no deadline, so at least
// 1.
uint32_t budget_left(uint32_t budget_ms, TimeUs spent_us) {
    if (budget_ms == 0) return 0;
    const TimeUs left = budget_ms - spent_us / kMillisecondUs;
    return static_cast<uint32_t>(std::max<TimeUs>(left, 1));
}

// Whether what this hop sends on, rows of the model's width, is a frame that may be sent.
bool fits_next_hop(const wire::DataFrame& frame, size_t bytes, uint32_t width) {
    constexpr size_t kGrowthBytes = 64;  // this hop's timing, and longer lengths
    size_t rows = 0;
    for (const wire::Item& item : frame.items) rows += item.rows;
    const size_t others = bytes - frame.payload.size() + kGrowthBytes;
    return others + rows * width * sizeof(float) <= kFrameBytesMax;
}

}  // namespace

void Worker::on_data(Message bytes, TimeUs now) { accept(std::move(bytes), next_arrival_++, now); }

// Rule 3 of docs/protocol.md. The arrival of a frame that comes from this process's own stage is
// the one it had there, so that the older frame's units run first.
void Worker::accept(Message bytes, uint64_t arrival, TimeUs now) {
    const Result<wire::FrameHeader> header = wire::decode_header(bytes.bytes());
    if (!header) {
        ++counters_.headers_bad;
        return;
    }
    RouterSession* session = session_of_router(*header);
    const bool is_ours = header->destination == config_.incarnation ||
                         !holds(Rule::kFrameDestination);
    if (session == nullptr || !is_ours || header->type != wire::kFrameData) {
        ++counters_.frames_misdirected;
        return;
    }
    if (header->generation <= session->fenced_through && holds(Rule::kFenceAccept)) {
        ++counters_.frames_fenced;
        return;
    }
    const auto route = session->routes.find(header->generation);
    if (route == session->routes.end())
        return refuse(*session, *header, 0, wire::GapReason::kUnknownGeneration);
    const auto hop = std::find_if(
        route->second.hops.begin(), route->second.hops.end(),
        [&](const InstalledHop& h) { return h.hop.hop == header->hop; });
    if (hop == route->second.hops.end())
        return refuse(*session, *header, 0, wire::GapReason::kMalformed);
    if (header->number <= hop->accepted && holds(Rule::kFrameOnce)) {
        ++counters_.frames_duplicate;
        return;
    }
    if (header->number > hop->accepted + 1 && holds(Rule::kFrameOrder))
        return refuse(*session, *header, hop->accepted + 1, wire::GapReason::kNumber);
    FramePtr in_hand = spare_frame();
    if (const auto error = wire::decode_frame(*header, bytes.bytes(), in_hand->frame)) {
        return refuse(*session, *header, hop->accepted + 1,
                      error->body_crc ? wire::GapReason::kBodyCrc : wire::GapReason::kMalformed);
    }
    const bool fits = fits_next_hop(in_hand->frame, bytes.size(), config_.hello.width);
    if (!fits || session->queue.size() >= 2 * config_.hello.share.frames)
        return refuse(*session, *header, hop->accepted + 1, wire::GapReason::kMalformed);
    hop->accepted = header->number;
    in_hand->bytes = std::move(bytes);
    in_hand->hop = hop->hop;
    in_hand->arrival = arrival;
    in_hand->accepted_at = now;
    in_hand->busy_us = 0;
    session->queue.push_back(std::move(in_hand));
}

FramePtr Worker::spare_frame() {
    if (spares_.empty()) return std::make_unique<FrameInHand>();
    FramePtr frame = std::move(spares_.back());
    spares_.pop_back();
    return frame;
}

void Worker::keep_spare(FramePtr frame) {
    frame->bytes = Message();
    if (spares_.size() < kSpareFramesMax) spares_.push_back(std::move(frame));
}

void Worker::refuse(RouterSession& session, const wire::FrameHeader& header, FrameNumber expected,
                    wire::GapReason reason) {
    ++counters_.frames_gap;
    send(session, wire::Gap{header.generation, header.hop, expected, header.number, reason});
}

bool Worker::has_work() const {
    return stage_.current || sampler_.current ||
           std::any_of(sessions_.begin(), sessions_.end(),
                       [](const RouterSession& s) { return !s.queue.empty(); });
}

// Takes the next queued frame of that role, one router after the other.
void Worker::start_next(RoleState& role, uint8_t role_bit, TimeUs now) {
    if (role.current || role.executor == nullptr) return;
    for (size_t i = 0; i < sessions_.size(); ++i) {
        RouterSession& session = sessions_[(role.next_session + i) % sessions_.size()];
        const auto is_of_role = [&](const FramePtr& f) { return f->hop.role == role_bit; };
        auto frame = std::find_if(session.queue.begin(), session.queue.end(), is_of_role);
        if (frame == session.queue.end()) continue;
        if (!holds(Rule::kArrivalOrder))
            frame = std::find_if(session.queue.rbegin(), session.queue.rend(), is_of_role)
                        .base() - 1;
        role.current = std::move(*frame);
        session.queue.erase(frame);
        role.share = session.share;
        role.current->started_at = now;
        role.executor->begin(role.share, *role.current);
        role.next_session = session.share + 1;
        return;
    }
}

void Worker::run_unit(TimeUs now) {
    CL_ASSERT(running_ == nullptr);
    start_next(stage_, wire::kRoleStage, now);
    start_next(sampler_, wire::kRoleSampler, now);
    if (!stage_.current && !sampler_.current) return;
    const bool both = stage_.current && sampler_.current;
    const bool sampler_first =
        !stage_.current || (both && sampler_.current->arrival < stage_.current->arrival);
    running_ = sampler_first ? &sampler_ : &stage_;
    unit_started_at_ = now;
    running_->unit_finished_frame = running_->executor->run_unit();
}

void Worker::unit_done(TimeUs now) {
    if (running_ == nullptr) return;
    RoleState& role = *running_;
    running_ = nullptr;
    role.current->busy_us += now - unit_started_at_;
    role.metrics.busy_us += now - unit_started_at_;
    if (role.unit_finished_frame) forward(role, now);
}

namespace {

void note_frame(RoleMetrics& metrics, const FrameInHand& done) {
    const auto seconds = [](TimeUs us) { return static_cast<double>(us) / kSecondUs; };
    metrics.forward_s.add(seconds(done.busy_us));
    metrics.queue_s.add(seconds(done.started_at - done.accepted_at));
    metrics.items.add(static_cast<double>(done.frame.items.size()));
    metrics.rows += done.frame.rows;
}

}  // namespace

void Worker::forward(RoleState& role, TimeUs now) {
    FrameInHand& done = *role.current;
    RouterSession& session = sessions_[role.share];
    const auto found = session.routes.find(done.frame.header.generation);
    if (found == session.routes.end()) {
        CL_ASSERT(!holds(Rule::kFenceUnit) || !holds(Rule::kFenceQueue));
        role.executor->abandon();
        role.current.reset();
        return;
    }
    InstalledRoute& route = found->second;
    const auto hop =
        std::find_if(route.hops.begin(), route.hops.end(),
                     [&](const InstalledHop& h) { return h.hop.hop == done.hop.hop; });
    CL_ASSERT(hop != route.hops.end());

    wire::FrameHeader header = done.frame.header;
    header.hop = static_cast<uint8_t>(header.hop + 1);
    header.destination = hop->hop.next;
    header.budget_ms = budget_left(header.budget_ms, now - done.accepted_at);
    header.type = done.hop.role == wire::kRoleSampler ? wire::kFrameResult : wire::kFrameData;
    std::vector<wire::HopTiming>& timings = done.frame.timings;
    if (timings.size() < kHopsMax)
        timings.push_back({clamp_us(done.started_at - done.accepted_at), clamp_us(done.busy_us)});

    note_frame(role.metrics, done);
    const bool has_outputs =
        std::any_of(done.frame.items.begin(), done.frame.items.end(),
                    [](const wire::Item& item) { return !item.outputs.empty(); });

    Message next = messages_.make(
        [&](wire::Bytes& bytes) { role.executor->finish(header, timings, bytes); });
    const uint64_t arrival = done.arrival;
    keep_spare(std::move(role.current));
    ++counters_.frames_executed;
    hop->forwarded = header.number;
    if (header.type == wire::kFrameResult && !has_outputs && !holds(Rule::kResultAlways)) return;
    if (hop->link == 0) {
        accept(std::move(next), arrival, now);
    } else {
        outbox_.send_data(hop->link, std::move(next));
    }
}

}  // namespace chatloop
