#include "chatloop/sampler/sampling.hpp"

#include <Random123/philox.h>

#include <algorithm>
#include <cmath>

#include "chatloop/core/assert.hpp"
#include "sampler/filters.hpp"

namespace chatloop {

namespace {

__extension__ using Uint128 = unsigned __int128;

uint32_t argmax(std::span<const float> logits) {
    size_t best = 0;
    for (size_t id = 1; id < logits.size(); ++id) {
        if (logits[id] > logits[best]) {
            best = id;
        }
    }
    return static_cast<uint32_t>(best);
}

void weigh(const kernel::Kernels& kernels, std::span<const float> logits, float temperature,
           SamplingScratch& scratch) {
    const int64_t vocab = static_cast<int64_t>(logits.size());
    const float zmax = kernels.max(logits.data(), vocab);
    CL_ASSERT(std::isfinite(zmax));
    scratch.p.resize(logits.size());
    kernels.softmax_weights(scratch.p.data(), logits.data(), zmax, temperature, vocab);
    scratch.candidates.clear();
    scratch.candidates.reserve(logits.size());
    for (size_t id = 0; id < logits.size(); ++id) {
        const double scaled = static_cast<double>(scratch.p[id]) * 0x1p40;
        scratch.candidates.push_back({.z = logits[id],
                                      .id = static_cast<uint32_t>(id),
                                      .weight = static_cast<uint64_t>(std::nearbyint(scaled))});
    }
}

void sort_by_id(std::vector<Candidate>& candidates) {
    std::sort(candidates.begin(), candidates.end(),
              [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
}

// Leaves the candidates in ascending order of id, which only top_k, typical_p and top_p disturb.
void filter(std::vector<Candidate>& candidates, const SamplingParams& params) {
    const bool has_top_k = params.top_k > 0 && params.top_k < candidates.size();
    if (has_top_k) {
        keep_top_k(candidates, params.top_k);
    }
    std::erase_if(candidates, [](const Candidate& candidate) { return candidate.weight == 0; });
    if (params.typical_p < 1.0f) {
        sort_by_id(candidates);  // the entropy is a sum of floats in this order
        keep_typical_p(candidates, params.typical_p);
    }
    if (params.top_p < 1.0f) {
        keep_top_p(candidates, params.top_p);
    }
    if (params.min_p > 0.0f) {
        keep_min_p(candidates, params.min_p);
    }
    if (has_top_k || params.typical_p < 1.0f || params.top_p < 1.0f) {
        sort_by_id(candidates);
    }
}

}  // namespace

uint32_t draw_u24(uint64_t seed, uint32_t choice, uint32_t token_index) {
    using Philox = r123::Philox4x32_R<10>;
    const Philox::key_type key = {{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}};
    const Philox::ctr_type counter = {{token_index, choice, 0, 0}};
    return Philox()(counter, key)[0] >> 8;
}

uint32_t sample(const kernel::Kernels& kernels, std::span<const float> logits,
                const SamplingParams& params, uint32_t token_index, SamplingScratch& scratch) {
    CL_ASSERT(!logits.empty());
    CL_ASSERT(params.temperature >= 0.0f);
    if (params.temperature == 0.0f) {
        return argmax(logits);
    }
    weigh(kernels, logits, params.temperature, scratch);
    filter(scratch.candidates, params);

    const uint64_t total = total_weight(scratch.candidates);
    const uint32_t u24 = draw_u24(params.seed, params.choice, token_index);
    const uint64_t target = static_cast<uint64_t>(Uint128{u24} * total >> 24);
    uint64_t sum = 0;
    const auto chosen = std::find_if(
        scratch.candidates.begin(), scratch.candidates.end(),
        [&](const Candidate& candidate) { return (sum += candidate.weight) > target; });
    CL_ASSERT(chosen != scratch.candidates.end());
    return chosen->id;
}

}  // namespace chatloop
