// Rule 10: log-probabilities of raw logits.
#include <algorithm>

#include "chatloop/core/assert.hpp"
#include "chatloop/sampler/sampling.hpp"

namespace chatloop {

RowStats row_stats(const kernel::Kernels& kernels, std::span<const float> logits) {
    CL_ASSERT(!logits.empty());
    const int64_t vocab = static_cast<int64_t>(logits.size());
    const float zmax = kernels.max(logits.data(), vocab);
    const float sum = kernels.sum_exp(logits.data(), zmax, vocab);
    return {zmax, kernel::log_f64(static_cast<double>(sum))};
}

void top_logprobs(std::span<const float> logits, const RowStats& stats, uint32_t count,
                  std::vector<TokenLogprob>& out) {
    const auto before = [](const TokenLogprob& a, const TokenLogprob& b) {
        return a.logprob != b.logprob ? a.logprob > b.logprob : a.id < b.id;
    };
    // A heap of the best so far, the last of them on top.
    out.clear();
    if (count == 0) {
        return;
    }
    for (size_t i = 0; i < logits.size(); ++i) {
        const auto id = static_cast<uint32_t>(i);
        const TokenLogprob token = {id, kernel::log_prob(logits[i], stats.zmax, stats.log_sum)};
        if (out.size() == count) {
            if (!before(token, out.front())) {
                continue;
            }
            std::pop_heap(out.begin(), out.end(), before);
            out.pop_back();
        }
        out.push_back(token);
        std::push_heap(out.begin(), out.end(), before);
    }
    std::sort_heap(out.begin(), out.end(), before);
}

}  // namespace chatloop
