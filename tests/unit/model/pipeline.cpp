#include "pipeline.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>

namespace chatloop::testing {
namespace {

constexpr uint32_t kHeadRows = 64;

void load(Checkpoint& checkpoint) {
    while (!checkpoint.loaded()) REQUIRE(checkpoint.load(1 << 20).ok());
}

// One byte off any alignment, as a payload in a message may be.
std::vector<uint8_t> misaligned(const void* data, size_t bytes) {
    std::vector<uint8_t> payload(bytes + 1);
    std::memcpy(payload.data() + 1, data, bytes);
    return payload;
}

}  // namespace

Pipeline::Pipeline(const std::filesystem::path& model_dir, const kernel::Kernels& kernels,
                   const PipelineOptions& options)
    : options_(options) {
    Result<ModelSpec> spec = read_spec(model_dir);
    REQUIRE_MESSAGE(spec.ok(), (spec.ok() ? "" : spec.error().message));
    spec_ = *spec;
    int32_t first = 0;
    for (int32_t end : options.stage_ends) {
        Result<Checkpoint> opened = Checkpoint::open_layers(model_dir, spec_, first, end);
        REQUIRE_MESSAGE(opened.ok(), (opened.ok() ? "" : opened.error().message));
        Result<KvPool> pool = KvPool::create_blocks(spec_, end - first, options.blocks,
                                                      options.kv_type);
        REQUIRE(pool.ok());
        auto stage = std::make_unique<Stage>(
            Stage{std::move(*opened), std::move(*pool), nullptr});
        load(stage->checkpoint);
        if (options.poison) stage->pool.poison();
        LayerStackOptions stack_options;
        stack_options.unit_rows = options.unit_rows;
        stage->stack = std::make_unique<LayerStack>(spec_, stage->checkpoint, stage->pool,
                                                    kernels, stack_options);
        stages_.push_back(std::move(stage));
        first = end;
    }
    Result<Checkpoint> head = Checkpoint::open_head(model_dir, spec_);
    REQUIRE_MESSAGE(head.ok(), (head.ok() ? "" : head.error().message));
    head_weights_.push_back(std::move(*head));
    load(head_weights_[0]);
    HeadOptions head_options;
    head_options.rows_max = kHeadRows;
    head_options.unit_panels = options.unit_panels;
    head_ = std::make_unique<Head>(spec_, head_weights_[0], kernels, head_options);
}

// Blocks in an order that is neither ascending nor dense per sequence.
uint32_t Pipeline::take_block() {
    REQUIRE(blocks_taken_ < options_.blocks);
    const uint32_t half = options_.blocks / 2;
    const uint32_t n = blocks_taken_++;
    return n % 2 == 0 ? half - 1 - n / 2 : half + n / 2;
}

std::vector<SequenceRows> Pipeline::place(const std::vector<Chunk>& chunks) {
    std::vector<SequenceRows> out;
    for (const Chunk& chunk : chunks) {
        if (sequences_.size() <= chunk.sequence) sequences_.resize(chunk.sequence + 1);
        Sequence& sequence = sequences_[chunk.sequence];
        while (sequence.table.size() * 64 < sequence.position + chunk.rows) {
            sequence.table.push_back(take_block());
        }
        out.push_back({chunk.sequence, sequence.position, chunk.rows, sequence.table});
    }
    return out;
}

std::vector<float> Pipeline::run(const std::vector<Chunk>& chunks,
                                 const std::vector<uint32_t>& ids) {
    const std::vector<SequenceRows> rows = place(chunks);
    const auto count = static_cast<uint32_t>(ids.size());
    std::vector<uint8_t> payload = misaligned(ids.data(), ids.size() * sizeof(uint32_t));
    for (const auto& stage : stages_) {
        CHECK(stage->stack->takes_ids() == (stage == stages_.front()));
        stage->stack->begin(rows, payload.data() + 1);
        while (!stage->stack->run_unit()) {
        }
        std::vector<float> x;
        for (uint32_t r = 0; r < count; ++r) {
            const float* row = stage->stack->output_row(r);
            x.insert(x.end(), row, row + stage->stack->width());
        }
        payload = misaligned(x.data(), x.size() * sizeof(float));
    }
    for (const Chunk& chunk : chunks) sequences_[chunk.sequence].position += chunk.rows;
    return head_logits(payload, count);
}

std::vector<float> Pipeline::head_logits(const std::vector<uint8_t>& payload, uint32_t rows) {
    std::vector<float> out;
    for (uint32_t first = 0; first < rows; first += kHeadRows) {
        const uint32_t count = std::min(kHeadRows, rows - first);
        head_->begin(payload.data() + 1 + size_t{first} * head_->width() * sizeof(float), count);
        while (!head_->run_unit()) {
        }
        for (uint32_t r = 0; r < count; ++r) {
            const std::span<const float> logits = head_->logits(r);
            out.insert(out.end(), logits.begin(), logits.end());
        }
    }
    return out;
}

void Pipeline::abandon_after(const std::vector<Chunk>& chunks, const std::vector<uint32_t>& ids,
                             int units) {
    const std::vector<SequenceRows> rows = place(chunks);
    const std::vector<uint8_t> payload = misaligned(ids.data(), ids.size() * sizeof(uint32_t));
    LayerStack& stack = *stages_.front()->stack;
    stack.begin(rows, payload.data() + 1);
    for (int i = 0; i < units; ++i) REQUIRE_FALSE(stack.run_unit());
    stack.abandon();
}

}  // namespace chatloop::testing
