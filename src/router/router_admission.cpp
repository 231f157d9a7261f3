// Admission: which waiting sequence goes on which route, with which slot and blocks; and who gives
// way when there is no room (docs/scheduling.md, "KV blocks").
#include <algorithm>

#include "chatloop/core/limits.hpp"
#include "chatloop/core/rules.hpp"
#include "chatloop/router/router.hpp"

namespace chatloop {

namespace {

constexpr uint32_t kTokensAhead = 256;   // of a running answer, in the estimate of a route's load
constexpr uint32_t kTypicalRows = 64;    // of a frame, for the price of a prompt row
constexpr double kRateWeight = 0.3;      // of the last second
constexpr double kRateLeast = 0.01;      // tokens/s that are told from none

uint64_t rows_max(const Sequence& sequence) {
    return uint64_t{sequence.prompt_count} + sequence.tokens_max;
}

}  // namespace

void Router::schedule(TimeUs now) {
    bring_back(now);
    admit(now);
    for (const auto& [generation, route] : cluster_.routes()) {
        if (!route.up) continue;
        const auto lane = lanes_.find(generation);
        if (lane != lanes_.end()) fill_route(route, lane->second, now);
    }
}

void Router::enqueue(Sequence& sequence, TimeUs now) {
    queue_.push({sequence.id, sequence.client, sequence.parameters.priority,
                 uint64_t{sequence.prompt_count} + sequence.tokens_max});
    sequence.queued_at = now;
    sequence.trace.begin(PhaseKind::kQueue, now);
    set_timeout(sequence);
}

void Router::admit(TimeUs now) {
    while (const std::optional<SequenceId> next = queue_.next()) {
        Sequence& sequence = *sequences_.at(*next);
        if (waits_for_larger(sequence)) {
            queue_.erase(sequence.id);  // nobody waits behind it
            settle_claim(sequence.id);
            set_aside_.push_back(sequence.id);
            continue;
        }
        const Route* route = choose_route(sequence);
        if (route == nullptr) return make_room(now);
        const Status fits = fit_to_route(sequence, *route);
        if (!fits) {
            fail(sequence, fits.error());
            continue;
        }
        if (!admit_one(sequence, *route, now)) return make_room(now);
        queue_.admit(sequence.id);
        settle_claim(sequence.id);
        set_timeout(sequence);
    }
}

uint64_t Router::largest_pool() const {
    uint64_t largest = 0;
    for (const auto& [generation, route] : cluster_.routes())
        if (cluster_.takes_new(route)) largest = std::max(largest, route.kv->rows());
    return largest;
}

// An answer that began in a larger pool is not cut short for a fault: it waits for such a route to
// be back, as others wait for any. (What has not begun is cut, fit_to_route.)
bool Router::waits_for_larger(const Sequence& sequence) const {
    const uint64_t largest = largest_pool();
    return sequence.admitted_at != 0 && largest != 0 && rows_max(sequence) > largest;
}

// Those that were set aside, when there is a route for them, or none at all any more.
void Router::bring_back(TimeUs now) {
    if (set_aside_.empty()) return;  // nearly always: a copy would cost memory for each frame
    const std::deque<SequenceId> waiting = set_aside_;
    for (size_t i = waiting.size(); i-- > 0;) {
        const auto found = sequences_.find(waiting[i]);
        if (found == sequences_.end()) continue;  // another choice of its request has failed
        Sequence& sequence = *found->second;
        if (!waits_for_larger(sequence)) {
            std::erase(set_aside_, sequence.id);
            queue_.push_front({sequence.id, sequence.client, sequence.parameters.priority, 0});
        } else if (now >= sequence.queued_at + config_.route_wait_us) {
            fail(sequence, {ErrorCode::kNoRoute,
                            "no route with room for " + std::to_string(rows_max(sequence)) +
                                " positions came up while the request waited, with " +
                                std::to_string(committed(*sequence.request)) +
                                " tokens committed"});
        }
    }
}

uint32_t Router::sequences_max(const Route& route) const {
    const uint32_t wanted = config_.max_sequences > 0 ? config_.max_sequences
                                                      : 4 * config_.max_batch_size;
    return std::min(wanted, route.kv->slot_count());
}

// Of the routes with a place, the one on which the sequence is predicted to start first. One whose
// pool it fits less than another's is none of them, or its answer would be cut short there.
const Route* Router::choose_route(const Sequence& sequence) const {
    const uint64_t rows = std::min(largest_pool(), rows_max(sequence));
    const Route* best = nullptr;
    double best_us = 0;
    for (const auto& [generation, route] : cluster_.routes()) {
        if (!cluster_.takes_new(route) || route.kv->free_slots() == 0) continue;
        if (route.kv->rows() < rows) continue;
        const Lane& lane = lanes_.at(generation);
        if (lane.sequences.size() >= sequences_max(route)) continue;
        const double us = queued_us(route, lane, sequence);
        if (best == nullptr || us < best_us) {
            best = &route;
            best_us = us;
        }
    }
    return best;
}

// The work that is there, and the sequence's own prompt without what the cache holds.
double Router::queued_us(const Route& route, const Lane& lane, const Sequence& sequence) const {
    const double row_us = lane.cost.slowest_us({kTypicalRows, 0, 0}) / kTypicalRows;
    const auto running = static_cast<uint32_t>(lane.sequences.size());
    const double token_us = running == 0 ? 0.0
                                         : lane.cost.slowest_us({running, 0, running}) / running;
    double us = 0;
    for (const SequenceId id : lane.sequences) {
        const Sequence& other = *sequences_.at(id);
        const uint32_t tokens = other.tokens_max - std::min(other.tokens_max, other.committed());
        us += other.rows_left() * row_us + std::min(tokens, kTokensAhead) * token_us;
    }
    const size_t held = prefix_of(route, sequence).size() * kBlockRows;
    return us + static_cast<double>(sequence.ids.size() - held) * row_us;
}

// The blocks of the prefix cache that the sequence may begin with.
std::vector<BlockId> Router::prefix_of(const Route& route, const Sequence& sequence) const {
    const bool asks_rows = sequence.wants_prompt_logprobs() && holds(Rule::kPrefixLogprobs);
    if (!config_.prefix_cache || asks_rows || sequence.was_refused) return {};
    return route.kv->find_prefix(sequence.ids);
}

// The request was checked against the routes of its arrival; this one's pool may be smaller.
Status Router::fit_to_route(Sequence& sequence, const Route& route) const {
    const uint64_t held = route.kv->rows();
    if (rows_max(sequence) <= held) return Ok{};
    const uint64_t answer = sequence.tokens_max > 0 ? sequence.committed() + 1 : 0;
    if (sequence.prompt_count + answer > held) {
        return Error{ErrorCode::kPromptTooLong,
                     "prompt and answer so far do not fit the KV cache of " +
                         std::to_string(held) + " positions"};
    }
    sequence.tokens_max = static_cast<uint32_t>(held - sequence.prompt_count);
    return Ok{};
}

// Blocks for what is known and some headroom; beyond that a sequence grows as it runs. A block for
// each that runs already is left to them, or the newcomer would only drive one of them out.
bool Router::admit_one(Sequence& sequence, const Route& route, TimeUs now) {
    Lane& lane = lanes_.at(route.generation);
    const uint64_t rows =
        std::min(rows_max(sequence), sequence.ids.size() + config_.kv_headroom_tokens);
    const std::vector<BlockId> prefix = prefix_of(route, sequence);
    if (!route.kv->can_place(prefix, blocks_for(rows),
                             static_cast<uint32_t>(lane.sequences.size())))
        return false;
    sequence.placement = place(route.kv, last_admission_ + 1, blocks_for(rows), prefix);
    ++last_admission_;
    sequence.generation = route.generation;
    sequence.rows_sent = static_cast<uint32_t>(prefix.size()) * kBlockRows;
    sequence.last_frame = 0;
    sequence.confirmed = 0;
    sequence.blocks_sent = 0;
    sequence.lacks_block = sequence.gives_way = false;
    counters_.prefix_tokens += sequence.rows_sent;
    if (sequence.admitted_at == 0) {
        sequence.admitted_at = now;
        sequence.cached_tokens = std::min(sequence.rows_sent, sequence.prompt_count);
        if (sequence.choice == 0) {
            log_('i', "started: " + std::to_string(sequence.prompt_count) + " prompt tokens",
                 span_of(*sequence.request));
            histograms_.queue_ms.add(static_cast<double>(now - sequence.arrived_at) / 1000.0);
        }
    }
    const bool again = sequence.committed() > 0 || sequence.recovers;
    sequence.trace.begin(again ? PhaseKind::kReplay : PhaseKind::kPrefill, now, route.generation);
    ++metrics_.requests_routed;
    if (config_.prefix_cache && !holds(Rule::kPrefixResult)) publish(sequence, 0);
    by_admission_[sequence.placement->admission] = sequence.id;
    lane.sequences.push_back(sequence.id);
    return true;
}

std::vector<Running> Router::running_on(const Lane& lane) const {
    std::vector<Running> running;
    for (const SequenceId id : lane.sequences) {
        const Sequence& sequence = *sequences_.at(id);
        running.push_back({id, sequence.client, sequence.parameters.priority,
                           sequence.placement->admission});
    }
    return running;
}

bool Router::somebody_gives_way(const Lane& lane) const {
    return std::any_of(lane.sequences.begin(), lane.sequences.end(),
                       [&](SequenceId id) { return sequences_.at(id)->gives_way; });
}

// There is no room for the next in line: a client with fewer sequences than its share has a claim
// on one that another client holds beyond its own, once it has waited for a step: until then
// somebody may end.
void Router::make_room(TimeUs now) {
    std::vector<Running> running;
    for (const auto& [generation, lane] : lanes_) {
        if (somebody_gives_way(lane)) return;
        const std::vector<Running> of_lane = running_on(lane);
        running.insert(running.end(), of_lane.begin(), of_lane.end());
    }
    std::vector<const Waiting*> waiting = queue_.heads();
    std::erase_if(waiting, [&](const Waiting* head) {
        const TimeUs queued_at = sequences_.at(head->id)->queued_at;
        return std::any_of(lanes_.begin(), lanes_.end(), [&](const auto& entry) {
            const std::deque<InFlight>& in_flight = entry.second.in_flight;
            return !in_flight.empty() && in_flight.front().sent_at < queued_at;
        });
    });
    claim_ = beyond_share(running, static_cast<uint32_t>(running.size()), waiting);
    if (!claim_) return;
    queue_.promote(claim_->claimant);
    give_way(*sequences_.at(claim_->victim), now);
}

// Who claimed a place has one, or left: nobody needs to give way for it any more.
void Router::settle_claim(SequenceId id) {
    if (!claim_ || claim_->claimant != id) return;
    const auto victim = sequences_.find(claim_->victim);
    if (victim != sequences_.end()) victim->second->gives_way = false;
    claim_.reset();
}

// Blocks for the rows that are to be computed next. Where there are none, the least important gives
// way; the one that needs them waits.
void Router::grow_blocks(Lane& lane, TimeUs now) {
    for (size_t i = 0; i < lane.sequences.size(); ++i) {
        Sequence& sequence = *sequences_.at(lane.sequences[i]);
        if (sequence.rows_left() == 0 || sequence.gives_way) continue;
        const uint32_t needed = blocks_for(sequence.ids.size());
        const auto held = static_cast<uint32_t>(sequence.placement->blocks.size());
        sequence.lacks_block = needed > held && !sequence.placement->grow(needed - held);
        if (!sequence.lacks_block) continue;
        if (somebody_gives_way(lane)) continue;
        const std::optional<SequenceId> victim = least_important(running_on(lane));
        if (!victim) continue;
        const size_t count = lane.sequences.size();
        give_way(*sequences_.at(*victim), now);
        if (lane.sequences.size() < count) i = static_cast<size_t>(-1);  // its blocks are free now
    }
}

// Preempted as soon as nothing of it is in flight.
void Router::give_way(Sequence& sequence, TimeUs now) {
    sequence.gives_way = true;
    const Lane& lane = lanes_.at(sequence.generation);
    if (sequence.last_frame <= lane.answered || !holds(Rule::kPreemptIdle))
        preempt(sequence, now);
}

void Router::preempt(Sequence& sequence, TimeUs now) {
    ++counters_.preemptions;
    log_('i', "preempted with " + std::to_string(sequence.committed()) + " tokens committed",
         span_of(*sequence.request));
    std::erase(lanes_.at(sequence.generation).sequences, sequence.id);
    requeue(sequence, now);
}

// How long it may wait: for a place, and for workers when there are none.
TimeUs Router::queue_end(const Sequence& sequence) const {
    const bool is_bounded = config_.queue_timeout_us > 0 && sequence.admitted_at == 0 &&
                            sequence.choice == 0;  // with which the request was admitted
    return is_bounded ? sequence.arrived_at + config_.queue_timeout_us : kNever;
}

TimeUs Router::route_wait_end(const Sequence& sequence) const {
    // Later than now in any case: where there is a route, expire asks again then.
    return std::max(sequence.queued_at, without_route_since_) +
           std::max<TimeUs>(config_.route_wait_us, 100 * kMillisecondUs);
}

// Those that were to give way and have nothing in flight any more.
void Router::preempt_idle(Generation generation, TimeUs now) {
    const auto lane = lanes_.find(generation);
    if (lane == lanes_.end()) return;
    const std::vector<SequenceId> running = lane->second.sequences;
    for (const SequenceId id : running) {
        Sequence& sequence = *sequences_.at(id);
        if (sequence.gives_way && sequence.last_frame <= lane->second.answered)
            preempt(sequence, now);
    }
}

// The next moment at which the sequence may have to end.
void Router::set_timeout(Sequence& sequence) {
    timeouts_.erase({sequence.timeout_at, sequence.id});
    sequence.timeout_at = sequence.deadline_at;
    if (is_waiting(sequence))
        sequence.timeout_at = std::min({sequence.timeout_at, queue_end(sequence),
                                        route_wait_end(sequence)});
    if (sequence.timeout_at != kNever) timeouts_.insert({sequence.timeout_at, sequence.id});
}

void Router::expire(TimeUs now) {
    while (!timeouts_.empty() && timeouts_.begin()->first <= now) {
        Sequence& sequence = *sequences_.at(timeouts_.begin()->second);
        if (now >= sequence.deadline_at) {
            const uint32_t tokens = committed(*sequence.request);
            fail(sequence, {ErrorCode::kDeadlineExceeded, "deadline_ms is over with " +
                                                              std::to_string(tokens) +
                                                              " tokens committed"});
        } else if (now >= queue_end(sequence)) {
            fail(sequence, {ErrorCode::kQueueTimeout, "no place within queue_timeout_ms",
                            retry_after_ms()});
        } else if (!ready() && now >= route_wait_end(sequence)) {
            fail(sequence, {ErrorCode::kNoRoute,
                            "no complete set of workers came up while the request waited, with " +
                                std::to_string(committed(*sequence.request)) +
                                " tokens committed: " + cluster_.why_no_route()});
        } else {  // it waits for a place, not for workers
            set_timeout(sequence);
        }
    }
}

void Router::note_rate(TimeUs now) {
    if (now - rated_at_ < kSecondUs) return;
    const uint64_t tokens = counters_.tokens_committed + counters_.tokens_prefilled;
    const double rate = static_cast<double>(tokens - tokens_rated_) * kSecondUs /
                        static_cast<double>(now - rated_at_);
    if (running() > 0) tokens_per_s_ += kRateWeight * (rate - tokens_per_s_);
    tokens_rated_ = tokens;
    const double generated = static_cast<double>(metrics_.tokens_generated - generated_rated_) *
                             kSecondUs / static_cast<double>(now - rated_at_);
    metrics_.tokens_per_s += kRateWeight * (generated - metrics_.tokens_per_s);
    if (metrics_.tokens_per_s < kRateLeast) metrics_.tokens_per_s = 0;
    generated_rated_ = metrics_.tokens_generated;
    rated_at_ = now;
}

// When it pays to ask again: a tenth of what waits is worked off by then.
uint32_t Router::retry_after_ms() const {
    constexpr double kLeastMs = 100, kMostMs = 60'000;
    if (tokens_per_s_ < 1.0) return static_cast<uint32_t>(kSecondUs / kMillisecondUs);
    const double ms = static_cast<double>(queue_.cost()) / 10 / tokens_per_s_ * 1000;
    return static_cast<uint32_t>(std::clamp(ms, kLeastMs, kMostMs));
}

}  // namespace chatloop
