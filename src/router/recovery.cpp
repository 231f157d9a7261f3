// Recovery: what ran on a route that went down goes on. Every sequence is rolled back to the rows
// that are confirmed. If the stages are still there they go on from that with their KV, else from
// the beginning, as after preemption: prompt and committed tokens are computed again, as prefill.
// No token is committed twice, since only the row behind the last one is ever asked for a token.
#include <algorithm>

#include "chatloop/core/rules.hpp"
#include "chatloop/router/router.hpp"

namespace chatloop {

namespace {

constexpr TimeUs kOverdueLeastUs = kSecondUs;
constexpr double kOverdueFactor = 8.0;       // times what was predicted
constexpr uint64_t kFramesLearnt = 8;        // before that a prediction means nothing
constexpr uint32_t kDoublingsMax = 6;
constexpr size_t kAccidentsMax = 64;
constexpr uint32_t kDeathsMax = 2;           // of workers that computed one sequence alone

}  // namespace

void Router::on_route_down(const Route& route, const std::string& why, TimeUs now) {
    const std::string name = "route " + std::to_string(route.generation);
    const auto found = lanes_.find(route.generation);
    if (found == lanes_.end()) {
        ++counters_.installs_failed;
        log_('w', name + " did not come up: " + why, "");
        return note_event(true, name + " did not come up: " + why);
    }
    const bool is_planned = found->second.hands_over;
    if (!is_planned) ++counters_.routes_down;
    log_(is_planned ? 'i' : 'w', name + " is down: " + why, "");
    note_event(!is_planned, name + " is down: " + why);
    if (!found->second.in_flight.empty()) note_accident(route, found->second, now);
    Lane& lane = parked_[route.generation] = std::move(found->second);
    lanes_.erase(found);
    if (!lane.in_flight.empty()) lane.work_us += now - lane.busy_since;
    lane.in_flight.clear();  // the references of these frames: rule 3 of docs/protocol.md
    lane.sent = lane.answered = 0;
    lane.hold_until = kNever;
    lane.hands_over = false;
    const std::vector<SequenceId> interrupted = lane.sequences;
    for (const SequenceId id : interrupted) {
        Sequence& sequence = *sequences_.at(id);
        ++counters_.recoveries;
        sequence.recovers = true;
        if (sequence.gives_way) {  // nothing of it is in flight any more
            std::erase(lane.sequences, id);
            requeue(sequence, now);
            continue;
        }
        roll_back(sequence);
        sequence.queued_at = now;
        sequence.trace.begin(PhaseKind::kQueue, now);
        set_timeout(sequence);
    }
}

// A FIRST that was not confirmed is sent again, with what the prefix cache had.
void Router::roll_back(Sequence& sequence) {
    if (!holds(Rule::kRollBack)) return;
    const uint32_t found = sequence.placement->blocks_found * kBlockRows;
    const uint32_t rows = std::max(sequence.confirmed, found);
    CL_ASSERT(rows <= sequence.rows_sent);
    sequence.rows_sent = rows;
    sequence.blocks_sent = sequence.confirmed == 0 ? 0 : blocks_for(rows);
    sequence.last_frame = 0;
    sequence.lacks_block = false;
}

// The successor has the same stages: what was parked runs on.
void Router::adopt(const Route& route, Lane& lane) {
    const auto found = parked_.find(route.succeeds);
    if (found == parked_.end()) return;
    Lane& parked = found->second;
    if (parked.cost.processes() != lane.cost.processes()) parked.cost = std::move(lane.cost);
    lane = std::move(parked);
    parked_.erase(found);
    for (const SequenceId id : lane.sequences) {
        Sequence& sequence = *sequences_.at(id);
        sequence.generation = route.generation;
        sequence.trace.begin(PhaseKind::kReplay, ticked_at_, route.generation);
        set_timeout(sequence);
    }
}

void Router::on_kv_lost(Generation generation, const std::string& why, TimeUs now) {
    const auto found = parked_.find(generation);
    if (found == parked_.end()) return;
    const std::vector<SequenceId> interrupted = std::move(found->second.sequences);
    parked_.erase(found);
    if (!interrupted.empty())
        log_('i', std::to_string(interrupted.size()) + " sequences begin again: " + why, "");
    for (size_t i = interrupted.size(); i-- > 0;) {
        ++counters_.replays;
        requeue(*sequences_.at(interrupted[i]), now);
    }
}

// Back to the queue, before its client's others: its next placement begins at row 0.
void Router::requeue(Sequence& sequence, TimeUs now) {
    by_admission_.erase(sequence.placement->admission);
    sequence.placement.reset();
    sequence.generation = 0;
    sequence.rows_sent = sequence.confirmed = 0;
    sequence.gives_way = sequence.lacks_block = false;
    queue_.push_front({sequence.id, sequence.client, sequence.parameters.priority, 0});
    sequence.queued_at = now;
    sequence.trace.begin(PhaseKind::kQueue, now);
    set_timeout(sequence);
}

// A stage does not hold what the router thought it does: once more from the beginning, and without
// the prefix cache.
void Router::on_refused(Sequence& sequence, TimeUs now) {
    if (sequence.was_refused)
        return fail(sequence, {ErrorCode::kWorkerLost,
                               "a worker refused the sequence's rows, also from the beginning"});
    sequence.was_refused = sequence.recovers = true;
    ++counters_.replays;
    log_('w', "a worker refused its rows: it begins again",
         span_of(*sequence.request));
    std::erase(lanes_.at(sequence.generation).sequences, sequence.id);
    requeue(sequence, now);
}

bool Router::is_waiting(const Sequence& sequence) const {
    return sequence.placement == nullptr || parked_.contains(sequence.generation);
}

// When the oldest frame's RESULT is missed: it waits for nobody since the one before came back. The
// wait doubles also before times are learnt: a frame that takes longer than any bound comes back.
TimeUs Router::overdue_at(const Route& route, const Lane& lane) const {
    if (config_.result_timeout_us == kNever) return kNever;
    const InFlight& oldest = lane.in_flight.front();
    const TimeUs since = std::max(oldest.sent_at, lane.answered_at);
    TimeUs bound_us = config_.result_timeout_us;
    if (lane.frames >= kFramesLearnt) {
        const auto predicted_us = static_cast<TimeUs>(kOverdueFactor * oldest.predicted_us);
        bound_us = std::min(bound_us, std::max(kOverdueLeastUs, predicted_us));
    }
    return since + (bound_us << std::min(route.faults_in_row, kDoublingsMax));
}

void Router::check_overdue(TimeUs now) {
    if (!holds(Rule::kOverdue)) return;
    std::vector<Generation> overdue;
    for (const auto& [generation, lane] : lanes_) {
        if (lane.in_flight.empty()) continue;
        const Route& route = *cluster_.find_route(generation);
        if (now >= overdue_at(route, lane)) overdue.push_back(generation);
    }
    for (const Generation generation : overdue)
        cluster_.fault(generation, "a RESULT is overdue", now);
}

// What runs there would not wait for a larger route.
bool Router::fits_elsewhere(const Lane& lane) const {
    return std::none_of(lane.sequences.begin(), lane.sequences.end(), [this](SequenceId id) {
        return waits_for_larger(*sequences_.at(id));
    });
}

// A worker of the route drains, and others could go on: between two tokens, with nothing in flight.
void Router::hand_over(TimeUs now) {
    std::vector<Generation> quiet;
    for (const auto& [generation, route] : cluster_.routes()) {
        const auto lane = lanes_.find(generation);
        if (!route.draining || lane == lanes_.end() || lane->second.sequences.empty()) continue;
        lane->second.hands_over =
            !draining_ && cluster_.has_alternative(route) && fits_elsewhere(lane->second);
        if (lane->second.hands_over && lane->second.in_flight.empty()) quiet.push_back(generation);
    }
    for (const Generation generation : quiet) cluster_.hand_over(generation, now);
}

// ---- poison ----

void Router::note_accident(const Route& route, const Lane& lane, TimeUs now) {
    std::vector<FrameRows> frames;
    for (const InFlight& sent : lane.in_flight) {
        FrameRows& frame = frames.emplace_back();
        frame.number = sent.number;
        for (const InFlightItem& item : sent.items) {
            const auto admitted = by_admission_.find(item.admission);
            if (admitted == by_admission_.end()) continue;
            const Sequence& sequence = *sequences_.at(admitted->second);
            frame.items.push_back({sequence.id, item.position, item.position + item.rows,
                                   sequence.suspicion ? sequence.suspicion->group : 0});
        }
    }
    accidents_.emplace_back(route, std::move(frames), now);
    if (accidents_.size() > kAccidentsMax) accidents_.pop_front();
}

void Router::on_last_report(Incarnation worker, const wire::RouteReport& report) {
    for (Accident& accident : accidents_) accident.note_report(worker, report);
}

void Router::on_worker_died(Incarnation worker, TimeUs now) {
    for (Accident& accident : accidents_) accident.note_death(worker);
    judge(now);
}

void Router::judge(TimeUs now) {
    for (size_t i = 0; i < accidents_.size();) {
        const std::optional<std::vector<ItemRows>> verdict = accidents_[i].verdict(now);
        if (!verdict && !accidents_[i].is_over(now)) {
            ++i;
            continue;
        }
        accidents_.erase(accidents_.begin() + static_cast<std::ptrdiff_t>(i));
        if (verdict) suspect(*verdict);
    }
}

// Those that were in the frame together are a group, and one that was suspected before is halved.
void Router::suspect(const std::vector<ItemRows>& items) {
    std::vector<ItemRows> alive;
    for (const ItemRows& item : items)
        if (sequences_.contains(item.sequence)) alive.push_back(item);
    if (alive.empty() || !holds(Rule::kPoison)) return;
    if (items.size() == 1) return suspect_alone(*sequences_.at(alive[0].sequence), alive[0]);
    const bool is_group = std::all_of(alive.begin(), alive.end(), [&](const ItemRows& item) {
        return item.group != 0 && item.group == alive[0].group;
    });
    const size_t half = is_group ? (alive.size() + 1) / 2 : alive.size();
    for (size_t i = 0; i < alive.size(); ++i) {
        if (i % half == 0) ++last_group_;
        sequences_.at(alive[i].sequence)->suspicion =
            Suspicion{last_group_, alive[i].row_first, alive[i].row_end, 0};
    }
    log_('w', std::to_string(alive.size()) + " sequences were with a worker that died: they go " +
                  "on apart from the others", "");
}

void Router::suspect_alone(Sequence& sequence, const ItemRows& item) {
    std::optional<Suspicion>& before = sequence.suspicion;
    const bool same_rows = before && item.row_first < before->row_end &&
                           before->row_first < item.row_end;
    const uint32_t deaths = same_rows ? before->deaths + 1 : 1;
    before = Suspicion{++last_group_, item.row_first, item.row_end, deaths};
    if (deaths < kDeathsMax) return;
    fail(sequence, {ErrorCode::kPoison, std::to_string(deaths) +
                                            " workers died while they computed it alone; " +
                                            std::to_string(committed(*sequence.request)) +
                                            " tokens were committed"});
}

}  // namespace chatloop
