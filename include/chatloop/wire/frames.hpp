// Data frames and results (docs/protocol.md, "Data frame" and "RESULT").
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "chatloop/core/ids.hpp"
#include "chatloop/wire/front.hpp"  // TopLogprob, LogitBias

namespace chatloop::wire {

// ---- data frames ----

enum FrameType : uint8_t { kFrameData = 1, kFrameResult = 2 };

struct FrameHeader {
    uint8_t type = kFrameData;
    Incarnation router = 0;
    Generation generation = 0;
    FrameNumber number = 0;
    uint8_t hop = 0;
    Incarnation destination = 0;
    uint32_t budget_ms = 0;
    bool operator==(const FrameHeader&) const = default;
};

struct HopTiming {
    uint32_t queue_us = 0;
    uint32_t busy_us = 0;
    bool operator==(const HopTiming&) const = default;
};

enum ItemFlags : uint8_t { kItemFirst = 1, kItemRefused = 2, kItemReplay = 4 };

struct Item {
    Slot slot = 0;
    Admission admission = 0;
    uint32_t position = 0;
    uint32_t rows = 0;
    uint8_t flags = 0;
    uint32_t table_index = 0;
    std::vector<BlockId> blocks;
    std::vector<uint32_t> outputs;  // rows within the item, ascending
    std::string sample;             // encoded Sample, opaque to stages; empty when outputs is
    bool operator==(const Item&) const = default;
};

enum class DType : uint8_t { kIds = 1, kF32 = 2 };

// A decoded data frame. `payload` points into the bytes it was decoded from.
struct DataFrame {
    FrameHeader header;
    std::vector<HopTiming> timings;  // one per hop passed
    std::vector<Item> items;
    DType dtype = DType::kF32;
    uint32_t rows = 0;
    uint32_t width = 0;
    std::span<const uint8_t> payload;  // rows x width x 4 bytes
};

// How often an id occurs in a sequence.
struct TokenCount {
    uint32_t token = 0;
    uint32_t prompt = 0;
    uint32_t output = 0;
    bool operator==(const TokenCount&) const = default;
};

struct Sample {
    uint32_t index = 0;
    uint64_t seed = 0;
    uint32_t choice = 0;
    float temperature = 0.0f;
    uint32_t top_k = 0;
    float top_p = 1.0f;
    float min_p = 0.0f;
    float typical_p = 1.0f;
    uint8_t logprobs = 0;  // 0 none, else K + 1
    std::optional<std::vector<std::optional<uint32_t>>> targets;  // as long as the item's outputs
    std::vector<uint32_t> masked;                                 // ext key 1
    std::vector<LogitBias> logit_bias;                            // ext key 2
    // Ext key 3, when there is a history: the penalties and what they look at.
    float repetition_penalty = 1.0f;
    float frequency_penalty = 0.0f;
    float presence_penalty = 0.0f;
    std::vector<TokenCount> history;
    // Ext key 4, of a constrained answer: what the token may be. Bit i % 8 of byte i / 8 is id i;
    // not empty, and the last byte is not 0.
    std::optional<std::string> allowed;
    bool operator==(const Sample&) const = default;
};

// ---- results ----

enum class ItemError : uint8_t { kNone = 0, kRefused = 1, kNonFinite = 2, kMalformed = 3 };

struct Output {
    uint32_t row = 0;
    uint8_t kind = 1;  // 1 sampled, 2 target
    uint32_t token = 0;
    float logprob = 0.0f;
    std::vector<TopLogprob> top;
    bool operator==(const Output&) const = default;
};

struct ResultItem {
    Slot slot = 0;
    Admission admission = 0;
    ItemError error = ItemError::kNone;
    std::vector<Output> outputs;
    bool operator==(const ResultItem&) const = default;
};

struct ResultFrame {
    FrameHeader header;
    std::vector<HopTiming> timings;
    std::vector<ResultItem> items;
};

}  // namespace chatloop::wire
