#include "chatloop/sampler/adjust.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace chatloop {

bool adjusts(const wire::Sample& sample) {
    return !sample.masked.empty() || !sample.logit_bias.empty() || !sample.history.empty() ||
           sample.allowed.has_value();
}

namespace {

// All but the ids whose bit is set.
void forbid_others(std::string_view bits, std::span<float> z) {
    for (size_t id = 0; id < z.size(); ++id) {
        const size_t byte = id / 8;
        const bool allowed = byte < bits.size() && (static_cast<uint8_t>(bits[byte]) >> id % 8 & 1);
        if (!allowed) z[id] = -std::numeric_limits<float>::infinity();
    }
}

}  // namespace

void adjust_logits(const wire::Sample& sample, std::span<float> z) {
    constexpr float kMost = std::numeric_limits<float>::max();
    if (sample.allowed) forbid_others(*sample.allowed, z);
    for (const uint32_t id : sample.masked)
        if (id < z.size()) z[id] = -std::numeric_limits<float>::infinity();
    for (const wire::LogitBias& bias : sample.logit_bias)
        if (bias.token < z.size()) z[bias.token] += bias.bias;
    for (const wire::TokenCount& seen : sample.history) {
        if (seen.token >= z.size() || std::isinf(z[seen.token])) continue;
        float x = z[seen.token];
        x = x > 0.0f ? x / sample.repetition_penalty : x * sample.repetition_penalty;
        if (seen.output > 0) {
            x -= static_cast<float>(seen.output) * sample.frequency_penalty;
            x -= sample.presence_penalty;
        }
        z[seen.token] = std::clamp(x, -kMost, kMost);  // a tiny repetition_penalty overflows
    }
}

}  // namespace chatloop
