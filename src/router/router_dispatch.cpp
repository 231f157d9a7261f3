// Dispatch: the frame of a plan leaves when every worker of the route has credit.
#include <algorithm>

#include "chatloop/core/limits.hpp"
#include "chatloop/core/rules.hpp"
#include "chatloop/router/router.hpp"

namespace chatloop {

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
    sent.has_suspects = plan[0].sequence->suspicion.has_value();
    FrameShape& shape = sent.shape;
    const std::vector<wire::Item> items = make_items(plan);
    std::vector<uint32_t> ids;
    for (size_t i = 0; i < items.size(); ++i) {
        const Planned& planned = plan[i];
        const wire::Item& item = items[i];
        Sequence& sequence = *planned.sequence;
        sent.decode_rows += planned.rows == 1 && sequence.rows_left() == 1;
        shape.add(sequence.rows_sent, planned.rows);
        shape.outputs += static_cast<uint32_t>(item.outputs.size());
        const auto first = sequence.ids.begin() + sequence.rows_sent;
        ids.insert(ids.end(), first, first + planned.rows);
        sent.items.push_back({item.admission, item.slot, item.position, item.rows, item.outputs,
                              holds(Rule::kInFlightBlocks) ? sequence.placement : nullptr});
        if (sequence.rows_left() > 1) counters_.tokens_prefilled += planned.rows;
        sequence.rows_sent += planned.rows;
        sequence.last_frame = sent.number;
        sequence.blocks_sent += static_cast<uint32_t>(item.blocks.size());
    }
    rows = shape.rows;
    sent.predicted_us = lane.cost.round_us(shape);
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
    cluster_.debit(*cluster_.find_route(route.generation), bytes);
    lane.sent = sent.number;
    if (lane.in_flight.empty()) lane.busy_since = now;
    if (sent.decode_rows > 0) histograms_.decode_rows.add(sent.decode_rows);
    if (log_debug_)
        log_('d', "frame " + std::to_string(sent.number) + " of route " +
                      std::to_string(route.generation) + ": " + std::to_string(sent.items.size()) +
                      " sequences, " + std::to_string(rows) + " rows", "");
    lane.in_flight.push_back(std::move(sent));
    outbox_.send_data(route.link, Message(std::move(frame)));
    ++counters_.frames_sent;
    return true;
}

// Those of the plan whose samples and block ids fit into one frame; the others are left for the
// next.
std::vector<wire::Item> Router::make_items(std::span<const Planned> plan) const {
    std::vector<wire::Item> items;
    size_t bytes = 0;
    for (const Planned& planned : plan) {
        wire::Item item = make_item(*planned.sequence, planned.rows);
        bytes += item.sample.size() + item.blocks.size() * kBlockIdBytesMax;
        if (bytes > kFrameItemBytesMax && !items.empty()) break;
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
    if (sequence.blocks_sent == 0) item.flags = wire::kItemFirst;  // with what the cache had
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
    sample.choice = sequence.choice;
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
        if (sequence.matcher != nullptr) sample.allowed = sequence.allowed;
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
