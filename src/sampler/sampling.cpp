#include "chatloop/sampler/sampling.hpp"

#include <Random123/philox.h>

#include <algorithm>
#include <cmath>

#include "chatloop/core/assert.hpp"
#include "sampler/filters.hpp"

namespace chatloop {

namespace {

__extension__ using Uint128 = unsigned __int128;

// The first of the largest; none is a NaN.
uint32_t argmax(const kernel::Kernels& kernels, std::span<const float> logits) {
    const float zmax = kernels.max(logits.data(), static_cast<int64_t>(logits.size()));
    const auto best = std::find(logits.begin(), logits.end(), zmax);
    CL_ASSERT(best != logits.end());
    return static_cast<uint32_t>(best - logits.begin());
}

// rne(p * 2^40) for 0 <= p < 2^12: the sum with 2^52 has no fraction bits.
uint64_t weight_of(float p) {
    const double scaled = static_cast<double>(p) * 0x1p40;
    return static_cast<uint64_t>((scaled + 0x1p52) - 0x1p52);
}

uint64_t target_of(uint32_t u24, uint64_t total) {
    return static_cast<uint64_t>(Uint128{u24} * total >> 24);
}

// The first id whose running sum exceeds the target, over the whole vocabulary.
uint32_t draw_any(const std::vector<float>& p, uint32_t u24) {
    uint64_t total = 0;
    for (const float x : p) {
        total += weight_of(x);
    }
    const uint64_t target = target_of(u24, total);
    uint64_t sum = 0;
    const auto chosen = std::find_if(p.begin(), p.end(),
                                     [&](float x) { return (sum += weight_of(x)) > target; });
    CL_ASSERT(chosen != p.end());
    return static_cast<uint32_t>(chosen - p.begin());
}

uint32_t draw_of(const std::vector<Candidate>& candidates, uint32_t u24) {
    const uint64_t target = target_of(u24, total_weight(candidates));
    uint64_t sum = 0;
    const auto chosen =
        std::find_if(candidates.begin(), candidates.end(), [&](const Candidate& candidate) {
            return (sum += candidate.weight) > target;
        });
    CL_ASSERT(chosen != candidates.end());
    return chosen->id;
}

// All ids, ascending; only top_k has a use for those of weight 0.
void list_candidates(std::span<const float> logits, bool with_zeros, SamplingScratch& scratch) {
    scratch.candidates.clear();
    for (size_t id = 0; id < logits.size(); ++id) {
        const uint64_t weight = weight_of(scratch.p[id]);
        if (weight > 0 || with_zeros) {
            scratch.candidates.push_back(
                {.z = logits[id], .id = static_cast<uint32_t>(id), .weight = weight});
        }
    }
}

void sort_by_id(std::vector<Candidate>& candidates) {
    std::sort(candidates.begin(), candidates.end(),
              [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
}

bool has_filter(const SamplingParams& params) {
    return params.top_k > 0 || params.typical_p < 1.0f || params.top_p < 1.0f ||
           params.min_p > 0.0f;
}

// Leaves the candidates in ascending order of id, which only top_k, typical_p and top_p disturb.
void filter(std::vector<Candidate>& candidates, const SamplingParams& params) {
    if (params.top_k > 0) {
        keep_top_k(candidates, params.top_k);
        std::erase_if(candidates, [](const Candidate& candidate) { return candidate.weight == 0; });
    }
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
    if (params.top_k > 0 || params.typical_p < 1.0f || params.top_p < 1.0f) {
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
        return argmax(kernels, logits);
    }
    const int64_t vocab = static_cast<int64_t>(logits.size());
    const float zmax = kernels.max(logits.data(), vocab);
    CL_ASSERT(std::isfinite(zmax));
    scratch.p.resize(logits.size());
    kernels.softmax_weights(scratch.p.data(), logits.data(), zmax, params.temperature, vocab);

    const uint32_t u24 = draw_u24(params.seed, params.choice, token_index);
    if (!has_filter(params)) {
        return draw_any(scratch.p, u24);
    }
    list_candidates(logits, params.top_k > 0, scratch);
    filter(scratch.candidates, params);
    return draw_of(scratch.candidates, u24);
}

}  // namespace chatloop
