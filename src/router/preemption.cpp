#include "chatloop/router/preemption.hpp"

#include <algorithm>
#include <unordered_map>
#include <utility>

namespace chatloop {

namespace {

using Counts = std::unordered_map<std::string_view, uint32_t>;  // sequences of each client

// The greater, the less important: the lower priority first, then the later admission.
auto unimportance(const Running& sequence) {
    return std::pair(-int64_t{sequence.priority}, sequence.admission);
}

const Running* least_important_beyond(uint32_t share, const Counts& counts,
                                      std::span<const Running> running, int32_t priority_max) {
    const Running* least = nullptr;
    const auto rank = [&](const Running& sequence) {
        return std::pair(counts.at(sequence.client), unimportance(sequence));
    };
    for (const Running& sequence : running) {
        if (sequence.priority > priority_max || counts.at(sequence.client) <= share) continue;
        if (least == nullptr || rank(sequence) > rank(*least)) least = &sequence;
    }
    return least;
}

}  // namespace

std::optional<SequenceId> least_important(std::span<const Running> running) {
    if (running.size() < 2) return std::nullopt;
    const auto less = [](const Running& a, const Running& b) {
        return unimportance(a) < unimportance(b);
    };
    return std::max_element(running.begin(), running.end(), less)->id;
}

std::optional<Claim> beyond_share(std::span<const Running> running, uint32_t places,
                                  std::span<const Waiting* const> waiting) {
    if (running.size() < places || waiting.empty()) return std::nullopt;
    Counts counts;
    for (const Waiting* sequence : waiting) counts[sequence->client];
    for (const Running& sequence : running) ++counts[sequence.client];
    const uint32_t share = std::max(1u, places / static_cast<uint32_t>(counts.size()));
    std::optional<int32_t> asked;  // the highest priority for which there is none
    for (const Waiting* claimant : waiting) {
        if (counts.at(claimant->client) >= share) continue;
        if (asked && claimant->priority <= *asked) continue;
        const Running* victim =
            least_important_beyond(share, counts, running, claimant->priority);
        if (victim != nullptr) return Claim{claimant->id, victim->id};
        asked = claimant->priority;
    }
    return std::nullopt;
}

}  // namespace chatloop
