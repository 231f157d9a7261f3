// Frames: which rows leave together, and when. Decode rows are divided into even micro-batches,
// prompt rows are added while the frame's predicted time allows (docs/scheduling.md, "Frames").
#include <algorithm>

#include "chatloop/core/limits.hpp"
#include "chatloop/router/router.hpp"

namespace chatloop {

namespace {

constexpr uint32_t kMicroBatchRowsMin = 2;
constexpr uint32_t kTileRows = 16;          // of the kernels' matrix products
constexpr uint32_t kPrefillRowsMin = 4;     // whatever they cost: a prompt always goes on
constexpr double kDecodeStretchMax = 2.0;   // what a prompt may add to the time of a decode frame
constexpr double kWeightsStretchMax = 4.0;  // a prompt alone, against a pass over the weights
constexpr size_t kSlicesMax = 3;            // of a frame, when so many prompts wait
constexpr double kMoreFramesGain = 1.05;    // what a frame more has to be better by
constexpr size_t kReplaysMax = 4;           // that share the prompt rows of a frame

uint32_t divided_up(uint32_t value, uint32_t by) { return (value + by - 1) / by; }

// A decode step of so many sequences of that mean context.
FrameShape decode_shape(uint32_t rows, uint64_t context) { return {rows, context * rows, rows}; }

}  // namespace

void Router::fill_route(const Route& route, Lane& lane, TimeUs now) {
    if (lane.hold_until <= now) lane.hold_until = kHasWaited;  // or its timer stays due
    while (!lane.hands_over && !suspects_in_flight(lane)) {
        grow_blocks(lane, now);
        Ready ready = ready_rows(lane);
        if (lane.in_flight.size() >= frames_max(route, lane, ready)) return;
        if (waits_for_company(route, lane, ready, now)) return;
        const std::vector<Planned> plan = compose(route, lane, std::move(ready));
        const bool has_suspects = !plan.empty() && plan[0].sequence->suspicion;
        if (has_suspects && !lane.in_flight.empty()) return;
        if (plan.empty() || !dispatch(route, lane, plan, now)) return;
        lane.hold_until = kNever;
    }
}

// With another frame beside it nobody could tell which of the two a worker died of: the RESULT of
// the one before may be lost with the worker.
bool Router::suspects_in_flight(const Lane& lane) const {
    return !lane.in_flight.empty() && lane.in_flight.back().has_suspects;
}

Router::Ready Router::ready_rows(const Lane& lane) const {
    Ready ready;
    uint64_t context = 0;
    for (Sequence* sequence : runnable(lane)) {
        if (sequence->rows_left() <= 1) {
            ++ready.decoding;
            context += sequence->ids.size();
        }
        if (sequence->rows_left() == 1) ready.decode.push_back(sequence);
        if (sequence->rows_left() > 1) ready.prefill.push_back(sequence);
    }
    if (ready.decoding > 0) ready.decode_context = context / ready.decoding;
    replays_first(ready.prefill);
    return ready;
}

// Suspects share a frame with their group only; every second frame is theirs. New prompts wait for
// them, as for all that is computed again.
std::vector<Sequence*> Router::runnable(const Lane& lane) const {
    std::vector<Sequence*> others;
    std::vector<Sequence*> group;
    bool others_ready = false;
    for (const SequenceId id : lane.sequences) {
        Sequence& sequence = *sequences_.at(id);
        if (sequence.gives_way || sequence.lacks_block) continue;
        if (!sequence.suspicion) {
            others.push_back(&sequence);
            const bool is_new = sequence.rows_left() > 1 && !sequence.recovers;
            others_ready |= sequence.rows_left() > 0 && !is_new;
        } else if (sequence.rows_left() > 0 &&
                   (group.empty() || group[0]->suspicion->group == sequence.suspicion->group)) {
            group.push_back(&sequence);
        }
    }
    if (group.empty()) return others;
    if (!others_ready || lane.sent % 2 == 0) return group;
    std::erase_if(others, [](const Sequence* s) { return s->rows_left() > 1 && !s->recovers; });
    return others;
}

// What a fault has taken is computed again before what is new, a few sequences at a time.
void Router::replays_first(std::vector<Sequence*>& prefill) {
    std::vector<Sequence*> replays;
    for (Sequence* sequence : prefill)
        if (sequence->recovers && replays.size() < kReplaysMax) replays.push_back(sequence);
    if (!replays.empty()) prefill = std::move(replays);
}

// The frames into which the decoding sequences of a route are split: one for each stage, so that
// none is idle, but not for a single row, since each frame is a pass over the weights; or one more,
// where the way between the processes takes so long that the cycle is shorter with it.
uint32_t Router::micro_batches(const Route& route, const Lane& lane, const Ready& ready) const {
    if (config_.frames_in_flight > 0) return config_.frames_in_flight;
    const uint32_t frames = std::clamp(ready.decoding / kMicroBatchRowsMin, 1u, route.stages());
    if (frames < route.stages() || ready.decoding < (frames + 1) * kMicroBatchRowsMin)
        return frames;
    const auto cycle_us = [&](uint32_t count) {
        const FrameShape shape = decode_shape(divided_up(ready.decoding, count),
                                              ready.decode_context);
        return std::max(count * lane.cost.slowest_us(shape), lane.cost.round_us(shape));
    };
    return cycle_us(frames + 1) * kMoreFramesGain < cycle_us(frames) ? frames + 1 : frames;
}

// Prompt rows keep every stage at work. A frame more hides the way from the sampler to the first
// stage, but takes rows from the next one, which would have merged them: only while nothing
// decodes, or when it is full by itself.
uint32_t Router::frames_max(const Route& route, const Lane& lane, const Ready& ready) const {
    if (config_.frames_in_flight > 0) return config_.frames_in_flight;
    if (ready.decoding == 0 || ready.decode.size() >= config_.max_batch_size)
        return route.stages() + 1;
    const uint32_t frames = micro_batches(route, lane, ready);
    return ready.prefill.empty() ? frames : std::max(frames, route.stages());
}

uint32_t Router::decode_share(const Route& route, const Lane& lane, const Ready& ready) const {
    return std::max(1u, divided_up(ready.decoding, micro_batches(route, lane, ready)));
}

// A frame of less than its share waits for one that is predicted back within the window.
bool Router::waits_for_company(const Route& route, Lane& lane, const Ready& ready, TimeUs now) {
    const bool is_alone = ready.decode.empty() || !ready.prefill.empty() ||
                          lane.in_flight.empty() ||
                          ready.decode.size() >= decode_share(route, lane, ready);
    if (config_.batching_window_us == 0 || is_alone || lane.in_flight.front().decode_rows == 0)
        return false;
    if (lane.hold_until != kNever) {
        if (now >= lane.hold_until) lane.hold_until = kHasWaited;
        return lane.hold_until != kHasWaited;
    }
    const InFlight& next = lane.in_flight.front();
    const TimeUs back_at = next.sent_at + static_cast<TimeUs>(next.predicted_us);
    if (back_at <= now || back_at > now + config_.batching_window_us) return false;
    lane.hold_until = now + config_.batching_window_us;
    return true;
}

// Rows that a frame of this width may have at any hop.
uint32_t Router::frame_rows_max() const {
    const size_t row_bytes = size_t{config_.cluster.width} * sizeof(float);
    const size_t rows = (kFrameBytesMax - kFrameOverheadBytes) / row_bytes;
    return static_cast<uint32_t>(std::min<size_t>(rows, kFrameRowsMax));
}

// Decode rows first, those that have waited longest, at most an even share per micro-batch; then
// prompt rows.
std::vector<Router::Planned> Router::compose(const Route& route, const Lane& lane,
                                             Ready ready) const {
    uint32_t rows_free = frame_rows_max();
    const size_t decode_rows =
        std::min<size_t>({ready.decode.size(), config_.max_batch_size,
                          decode_share(route, lane, ready), rows_free});
    std::stable_sort(ready.decode.begin(), ready.decode.end(),
                     [](const Sequence* a, const Sequence* b) {
                         return a->last_frame < b->last_frame;
                     });
    std::vector<Planned> plan;
    FrameShape shape;
    for (size_t i = 0; i < decode_rows; ++i) {
        plan.push_back({ready.decode[i], 1});
        shape.add(ready.decode[i]->rows_sent, 1);
    }
    shape.outputs = shape.rows;
    rows_free = std::min(rows_free - static_cast<uint32_t>(decode_rows), config_.prefill_rows);
    if (!ready.prefill.empty() && rows_free > 0)
        add_prefill(lane, ready, shape, rows_free, slice_us(route, lane, ready), plan);
    return plan;
}

// The time that a frame with prompt rows may take on its slowest stage: a slice for each prompt
// that waits, three at most. A crowd of newcomers would wait longer for its first tokens than short
// frames save the others.
double Router::slice_us(const Route& route, const Lane& lane, const Ready& ready) const {
    const double own = ready.decoding > 0
        ? kDecodeStretchMax * lane.cost.slowest_us(decode_shape(decode_share(route, lane, ready),
                                                                ready.decode_context))
        : kWeightsStretchMax * lane.cost.slowest_us({1, 1, 0});
    const auto slices = static_cast<double>(std::min(ready.prefill.size(), kSlicesMax));
    return std::max(slices * static_cast<double>(config_.prefill_slice_us), own);
}

// Half of the rows belong to the first in line, so that it goes on; the other half to whoever needs
// the fewest, so that a short prompt does not stand behind a long one.
void Router::add_prefill(const Lane& lane, Ready& ready, FrameShape shape, uint32_t rows_free,
                         double slice, std::vector<Planned>& plan) const {
    std::vector<Sequence*>& prefill = ready.prefill;
    std::stable_sort(prefill.begin(), prefill.end(), [](const Sequence* a, const Sequence* b) {
        const auto rank = [](const Sequence* s) {
            return std::pair(-s->parameters.priority, s->committed() > 0 ? 0 : 1);
        };
        return rank(a) < rank(b);
    });
    const uint32_t budget = rows_within(lane, *prefill.front(), shape, rows_free, slice);
    std::stable_sort(prefill.begin() + 1, prefill.end(),
                     [](const Sequence* a, const Sequence* b) {
                         return a->rows_left() < b->rows_left();
                     });
    uint32_t left = budget;
    const auto take = [&](Sequence* sequence, uint32_t rows) {
        if (rows == 0) return;
        plan.push_back({sequence, rows});
        left -= rows;
    };
    uint32_t others = 0;  // rows that the others want
    for (size_t i = 1; i < prefill.size() && others < budget / 2; ++i)
        others += prefill[i]->rows_left();
    others = std::min(others, budget / 2);
    take(prefill.front(), std::min(prefill.front()->rows_left(), budget - others));
    for (size_t i = 1; i < prefill.size() && left > 0 && plan.size() < kFrameItemsMax; ++i)
        take(prefill[i], std::min(prefill[i]->rows_left(), left));
}

// The most rows that keep the frame within the slice, but a few at least; all rows of the frame are
// whole tiles where they are more than one.
uint32_t Router::rows_within(const Lane& lane, const Sequence& sequence, const FrameShape& base,
                             uint32_t rows_free, double slice) const {
    const auto fits = [&](uint32_t rows) {
        FrameShape shape = base;
        shape.add(sequence.rows_sent, rows);
        return lane.cost.slowest_us(shape) <= slice;
    };
    uint32_t low = 0, high = rows_free;
    while (low < high) {
        const uint32_t middle = (low + high + 1) / 2;
        if (fits(middle)) low = middle;
        else high = middle - 1;
    }
    const uint32_t whole = (base.rows + low) / kTileRows * kTileRows;
    if (whole > base.rows) return whole - base.rows;
    return std::min(rows_free, std::max(low, kPrefillRowsMin));
}

}  // namespace chatloop
