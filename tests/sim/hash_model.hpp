// A model that is a hash chain: the output of a row depends on the stage, on its input and on every
// row that its sequence has in the KV cache. Any row that is lost, doubled, reordered or mixed up
// with another sequence's changes every later token, and the right tokens take ten lines to
// compute.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "chatloop/core/assert.hpp"
#include "chatloop/model/compute.hpp"

namespace chatloop::sim {

inline constexpr uint32_t kVocab = 96;  // token id i is the character 32 + i, 0 is the end token
inline constexpr uint32_t kWidth = 2;   // one 64-bit hash as two floats' bits

// What chatloop_sim --break plants, to show that the checks can fail.
enum class Mistake : uint8_t {
    kNone,
    kKvRow,       // a stage does not keep one row in 16
    kBlockAlias,  // two KV blocks are one: as if a router gave one to two sequences
    kBatchMate,   // the head gives a row the logits of its neighbour in the batch
    kText,        // the text of one token is lost
    kMatcher,     // a constraint does not see one token
    kCrc,         // the CRCs do not see a bit that flips
};

inline uint64_t mix(uint64_t a, uint64_t b) {
    uint64_t z = a * 0x9e3779b97f4a7c15u ^ (b + 0x632be59bd9b4e019u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

// Logits of a row from its last hash.
inline void hash_logits(uint64_t hash, float* logits) {
    for (uint32_t i = 0; i < kVocab; ++i)
        logits[i] = static_cast<float>(mix(hash, i) >> 40) * 0x1p-21f;
}

class HashStage final : public StageCompute {
public:
    HashStage(uint32_t stage, bool first, uint32_t blocks, Mistake mistake = Mistake::kNone)
        : stage_(stage), first_(first), mistake_(mistake), cache_(size_t{blocks} * 64, 0) {}

    bool takes_ids() const override { return first_; }
    uint32_t width() const override { return kWidth; }

    void begin(std::span<const SequenceRows> sequences, const uint8_t* payload) override {
        CL_ASSERT(!busy_);
        busy_ = true;
        sequences_ = sequences;
        payload_ = payload;
        next_ = 0;
        row_ = 0;
        output_.clear();
    }

    // One sequence a unit.
    bool run_unit() override {
        CL_ASSERT(busy_);
        const SequenceRows& sequence = sequences_[next_];
        for (uint32_t r = 0; r < sequence.rows; ++r, ++row_) {
            const uint32_t position = sequence.position + r;
            uint64_t input = 0;
            const size_t bytes = first_ ? sizeof(uint32_t) : sizeof(uint64_t);
            std::memcpy(&input, payload_ + row_ * bytes, bytes);
            CL_ASSERT(position / 64 < sequence.table.size());
            if (watch_) watch_(sequence.slot, sequence.table[position / 64]);
            const bool kept = mistake_ != Mistake::kKvRow || position % 16 != 15;
            if (kept) cache_[place(sequence, position)] = input;
            uint64_t chain = stage_;
            for (uint32_t p = 0; p <= position; ++p) chain = mix(chain, cache_[place(sequence, p)]);
            output_.push_back(chain);
        }
        busy_ = ++next_ < sequences_.size();
        return !busy_;
    }

    // Told of every row that is written: the slot, and the block in the pool.
    void set_watch(std::function<void(uint32_t slot, uint32_t block)> watch) {
        watch_ = std::move(watch);
    }
    // What a new process finds in its memory.
    void scramble(uint64_t seed, uint32_t block_first, uint32_t blocks) {
        for (size_t row = size_t{block_first} * 64; row < size_t{block_first + blocks} * 64; ++row)
            cache_[row] = seed = mix(seed, 1);
    }

    const float* output_row(uint32_t row) const override {
        std::memcpy(out_row_, &output_[row], sizeof output_[row]);
        return out_row_;
    }
    void abandon() override { busy_ = false; }

private:
    size_t place(const SequenceRows& sequence, uint32_t position) const {
        size_t block = sequence.table[position / 64];
        if (mistake_ == Mistake::kBlockAlias) block -= block % 2;
        CL_ASSERT((block + 1) * 64 <= cache_.size());
        return block * 64 + position % 64;
    }

    uint64_t stage_;
    bool first_;
    Mistake mistake_;
    std::vector<uint64_t> cache_;  // [block][64]
    std::span<const SequenceRows> sequences_;
    const uint8_t* payload_ = nullptr;
    size_t next_ = 0;
    size_t row_ = 0;
    bool busy_ = false;
    std::vector<uint64_t> output_;
    std::function<void(uint32_t, uint32_t)> watch_;
    mutable float out_row_[kWidth] = {};
};

class HashHead final : public HeadCompute {
public:
    explicit HashHead(Mistake mistake = Mistake::kNone) : mistake_(mistake) {}

    uint32_t width() const override { return kWidth; }
    uint32_t vocab() const override { return kVocab; }
    uint32_t rows_max() const override { return 5; }
    void begin(const uint8_t* payload, uint32_t rows) override {
        logits_.resize(size_t{rows} * kVocab);
        for (uint32_t r = 0; r < rows; ++r) {
            uint64_t hash = 0;
            std::memcpy(&hash, payload + r * sizeof hash, sizeof hash);
            hash_logits(hash, logits_.data() + size_t{r} * kVocab);
        }
        units_left_ = 2;
    }
    bool run_unit() override { return --units_left_ == 0; }
    std::span<const float> logits(uint32_t row) const override {
        if (mistake_ == Mistake::kBatchMate && row > 0) --row;
        return {logits_.data() + size_t{row} * kVocab, kVocab};
    }
    void abandon() override {}

private:
    Mistake mistake_;
    std::vector<float> logits_;
    int units_left_ = 0;
};

// The hash of the last stage for every position of `ids`, computed directly.
inline std::vector<uint64_t> hash_oracle(uint32_t stages, std::span<const uint32_t> ids) {
    std::vector<uint64_t> rows(ids.begin(), ids.end());
    for (uint32_t stage = 0; stage < stages; ++stage) {
        uint64_t chain = stage;
        for (uint64_t& row : rows) row = chain = mix(chain, row);
    }
    return rows;
}

}  // namespace chatloop::sim
