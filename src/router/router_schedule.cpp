// The schedule: waiting sequences are placed on routes, frames are composed of rows that are ready,
// and leave when every worker of the route has credit.
#include <algorithm>

#include "chatloop/core/limits.hpp"
#include "chatloop/router/router.hpp"

namespace chatloop {

namespace {

constexpr uint32_t kMicroBatchRowsMin = 2;

}  // namespace

void Router::schedule(TimeUs now) {
    admit(now);
    for (const auto& [generation, route] : cluster_.routes()) {
        if (!route.up) continue;
        const auto lane = lanes_.find(generation);
        if (lane != lanes_.end()) fill_route(route, lane->second, now);
    }
}

// The route with the fewest sequences.
const Route* Router::choose_route() const {
    const Route* best = nullptr;
    size_t best_load = 0;
    for (const auto& [generation, route] : cluster_.routes()) {
        if (!route.up || route.draining) continue;
        const size_t load = lanes_.at(generation).sequences.size();
        if (best == nullptr || load < best_load) {
            best = &route;
            best_load = load;
        }
    }
    return best;
}

void Router::admit(TimeUs now) {
    while (!waiting_.empty()) {
        const Route* route = choose_route();
        if (route == nullptr) return;
        Sequence& sequence = *sequences_.at(waiting_.front());
        const Status fits = fit_to_route(sequence, *route);
        if (!fits) {
            fail(sequence, fits.error());
            continue;
        }
        if (!admit_one(sequence, *route, now)) return;  // the oldest waits, and all behind it
        waiting_.pop_front();
    }
}

// The request was checked against the routes of its arrival; this one's pool may be smaller.
Status Router::fit_to_route(Sequence& sequence, const Route& route) const {
    const uint64_t pool_rows = uint64_t{route.kv->block_count()} * kBlockRows;
    const uint64_t rows = uint64_t{sequence.prompt_count} + sequence.tokens_max;
    if (rows <= pool_rows) return Ok{};
    const uint64_t answer = sequence.tokens_max > 0 ? sequence.committed() + 1 : 0;
    if (sequence.prompt_count + answer > pool_rows) {
        return Error{ErrorCode::kPromptTooLong,
                     "prompt and answer so far do not fit the KV cache of " +
                         std::to_string(pool_rows) + " positions"};
    }
    sequence.tokens_max = static_cast<uint32_t>(pool_rows - sequence.prompt_count);
    return Ok{};
}

// All blocks that the sequence may ever need are reserved here, so that it never runs short.
bool Router::admit_one(Sequence& sequence, const Route& route, TimeUs now) {
    const uint64_t rows = uint64_t{sequence.prompt_count} + sequence.tokens_max;
    auto placement = place(route.kv, last_admission_ + 1, blocks_for(rows));
    if (placement == nullptr) return false;
    ++last_admission_;
    sequence.placement = std::move(placement);
    sequence.generation = route.generation;
    sequence.rows_sent = 0;
    sequence.last_frame = 0;
    sequence.blocks_sent = 0;
    sequence.admitted_at = now;
    by_admission_[sequence.placement->admission] = sequence.id;
    lanes_.at(route.generation).sequences.push_back(sequence.id);
    return true;
}

void Router::fill_route(const Route& route, Lane& lane, TimeUs now) {
    for (;;) {
        Ready ready = ready_rows(lane);
        if (lane.in_flight.size() >= frames_max(route, ready)) return;
        const std::vector<Planned> plan = compose(route, std::move(ready));
        if (plan.empty() || !dispatch(route, lane, plan, now)) return;
    }
}

Router::Ready Router::ready_rows(const Lane& lane) const {
    Ready ready;
    for (const SequenceId id : lane.sequences) {
        Sequence& sequence = *sequences_.at(id);
        if (sequence.rows_left() <= 1) ++ready.decoding;
        if (sequence.rows_left() == 1) ready.decode.push_back(&sequence);
        if (sequence.rows_left() > 1) ready.prefill.push_back(&sequence);
    }
    return ready;
}

// The frames into which the decoding sequences of a route are split: one for each stage, so that
// none is idle, but not for a single row. Each frame is a pass over the weights.
uint32_t Router::micro_batches(const Route& route, uint32_t decoding) const {
    if (config_.frames_in_flight > 0) return config_.frames_in_flight;
    return std::clamp(decoding / kMicroBatchRowsMin, 1u, route.stages());
}

// Prompt rows keep every stage at work. A frame more hides the way from the sampler to the first
// stage, but takes rows from the next one, which would have merged them: only while nothing
// decodes, or when it is full by itself.
uint32_t Router::frames_max(const Route& route, const Ready& ready) const {
    if (config_.frames_in_flight > 0) return config_.frames_in_flight;
    if (ready.decoding == 0 || ready.decode.size() >= config_.max_batch_size)
        return route.stages() + 1;
    return ready.prefill.empty() ? micro_batches(route, ready.decoding) : route.stages();
}

// Rows that a frame of this width may have at any hop.
uint32_t Router::frame_rows_max() const {
    const size_t row_bytes = size_t{config_.cluster.width} * sizeof(float);
    const size_t rows = (kFrameBytesMax - kFrameOverheadBytes) / row_bytes;
    return static_cast<uint32_t>(std::min<size_t>(rows, kFrameRowsMax));
}

// Decode rows first, those that have waited longest, at most an even share per micro-batch; then
// prefill rows, oldest sequence first.
std::vector<Router::Planned> Router::compose(const Route& route, Ready ready) const {
    auto& [decode, prefill, decoding] = ready;
    const uint32_t frames = micro_batches(route, decoding);
    const uint32_t share = (decoding + frames - 1) / frames;
    uint32_t rows_free = frame_rows_max();
    const size_t decode_rows = std::min<size_t>(
        {decode.size(), config_.max_batch_size, std::max(1u, share), rows_free});
    std::stable_sort(decode.begin(), decode.end(), [](const Sequence* a, const Sequence* b) {
        return a->last_frame < b->last_frame;
    });
    std::vector<Planned> plan;
    for (size_t i = 0; i < decode_rows; ++i) plan.push_back({decode[i], 1});
    rows_free = std::min(rows_free - static_cast<uint32_t>(decode_rows), config_.prefill_rows);
    for (Sequence* sequence : prefill) {
        if (rows_free == 0 || plan.size() >= kFrameItemsMax) break;
        const uint32_t rows = std::min(sequence->rows_left(), rows_free);
        plan.push_back({sequence, rows});
        rows_free -= rows;
    }
    return plan;
}

bool Router::dispatch(const Route& route, Lane& lane, std::span<const Planned> plan, TimeUs now) {
    uint32_t rows = 0;
    for (const Planned& planned : plan) rows += planned.rows;
    // The frame's largest size at any hop.
    const uint64_t bytes = uint64_t{rows} * config_.cluster.width * sizeof(float) +
                           kFrameOverheadBytes;
    if (!cluster_.credit_allows(route, bytes)) return false;

    InFlight sent;
    sent.number = lane.sent + 1;
    sent.bytes = bytes;
    sent.sent_at = now;
    const std::vector<wire::Item> items = make_items(plan);
    std::vector<uint32_t> ids;
    for (size_t i = 0; i < items.size(); ++i) {
        const Planned& planned = plan[i];
        const wire::Item& item = items[i];
        Sequence& sequence = *planned.sequence;
        const auto first = sequence.ids.begin() + sequence.rows_sent;
        ids.insert(ids.end(), first, first + planned.rows);
        sent.items.push_back({sequence.placement->admission, sequence.rows_sent, planned.rows,
                              item.outputs, sequence.placement});
        sequence.rows_sent += planned.rows;
        sequence.last_frame = sent.number;
        sequence.blocks_sent += static_cast<uint32_t>(item.blocks.size());
    }
    rows = static_cast<uint32_t>(ids.size());
    wire::FrameHeader header;
    header.router = config_.cluster.incarnation;
    header.generation = route.generation;
    header.number = sent.number;
    header.destination = route.hops[0];
    size_t payload_at = 0;
    wire::Bytes frame = wire::encode_frame(header, {}, items, wire::DType::kIds, rows, 1,
                                           &payload_at);
    std::copy_n(reinterpret_cast<const uint8_t*>(ids.data()), ids.size() * sizeof(uint32_t),
                frame.data() + payload_at);
    wire::seal_frame(frame);
    CL_ASSERT(frame.size() - ids.size() * sizeof(uint32_t) <= kFrameOverheadBytes);
    cluster_.debit(route, bytes);
    lane.sent = sent.number;
    lane.in_flight.push_back(std::move(sent));
    outbox_.send_data(route.link, Message(std::move(frame)));
    ++counters_.frames_sent;
    return true;
}

// Those of the plan whose samples fit into one frame; the others are left for the next.
std::vector<wire::Item> Router::make_items(std::span<const Planned> plan) const {
    std::vector<wire::Item> items;
    size_t sample_bytes = 0;
    for (const Planned& planned : plan) {
        wire::Item item = make_item(*planned.sequence, planned.rows);
        sample_bytes += item.sample.size();
        if (sample_bytes > kFrameSampleBytesMax && !items.empty()) break;
        items.push_back(std::move(item));
    }
    return items;
}

wire::Item Router::make_item(const Sequence& sequence, uint32_t rows) const {
    wire::Item item;
    item.slot = sequence.placement->slot;
    item.admission = sequence.placement->admission;
    item.position = sequence.rows_sent;
    item.rows = rows;
    if (sequence.rows_sent == 0) item.flags = wire::kItemFirst;
    item.table_index = sequence.blocks_sent;
    const uint32_t blocks_end = blocks_for(uint64_t{sequence.rows_sent} + rows);
    const std::vector<BlockId>& blocks = sequence.placement->blocks;
    CL_ASSERT(blocks_end <= blocks.size());
    item.blocks.assign(blocks.begin() + sequence.blocks_sent, blocks.begin() + blocks_end);
    item.sample = make_sample(sequence, sequence.rows_sent, rows, item.outputs);
    return item;
}

// Which rows want output: the last known row gives the next token; with prompt log-probabilities
// every prompt row gives the log-probability of the token behind it. Empty when none does.
std::string Router::make_sample(const Sequence& sequence, uint32_t position, uint32_t rows,
                                std::vector<uint32_t>& outputs) const {
    const wire::Parameters& parameters = sequence.parameters;
    wire::Sample sample;
    std::vector<std::optional<uint32_t>> targets;
    uint32_t logprobs = parameters.logprobs ? *parameters.logprobs + 1 : 0;
    bool any_target = false;
    bool any_sampled = false;
    for (uint32_t row = 0; row < rows; ++row) {
        const uint32_t at = position + row;
        const bool last = at + 1 == sequence.ids.size();
        if (wants_target(sequence, at)) {
            outputs.push_back(row);
            targets.emplace_back(sequence.ids[at + 1]);
            any_target = true;
        } else if (last && sequence.tokens_max > 0) {
            outputs.push_back(row);
            targets.emplace_back(std::nullopt);
            any_sampled = true;
        }
    }
    if (outputs.empty()) return {};
    if (any_target) {
        logprobs = std::max(logprobs, *parameters.prompt_logprobs + 1);
        sample.targets = std::move(targets);
    }
    sample.index = sequence.committed();
    sample.seed = sequence.seed;
    sample.temperature = parameters.temperature;
    sample.top_k = parameters.top_k;
    sample.top_p = parameters.top_p;
    sample.min_p = parameters.min_p;
    sample.typical_p = parameters.typical_p;
    sample.logprobs = static_cast<uint8_t>(logprobs);
    if (any_sampled) {
        sample.masked = masked_ids(sequence, sample.index);
        sample.logit_bias = parameters.logit_bias;
        sample.repetition_penalty = parameters.repetition_penalty;
        sample.frequency_penalty = parameters.frequency_penalty;
        sample.presence_penalty = parameters.presence_penalty;
        sample.history = sequence.history.counts();
    }
    return wire::encode_sample(sample);
}

// What the token of that index may not be.
std::vector<uint32_t> Router::masked_ids(const Sequence& sequence, uint32_t index) const {
    const wire::Parameters& parameters = sequence.parameters;
    const bool may_not_end = index < parameters.min_tokens;
    std::vector<uint32_t> masked;
    if (parameters.ignore_eos || may_not_end) masked = config_.stop_ids;
    if (may_not_end)
        masked.insert(masked.end(), parameters.stop_token_ids.begin(),
                      parameters.stop_token_ids.end());
    return masked;
}

}  // namespace chatloop
