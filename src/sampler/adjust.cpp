#include "chatloop/sampler/adjust.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace chatloop {

bool adjusts(const wire::Sample& sample) {
    return !sample.masked.empty() || !sample.logit_bias.empty() || !sample.history.empty();
}

void adjust_logits(const wire::Sample& sample, std::span<float> z) {
    constexpr float kMost = std::numeric_limits<float>::max();
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
