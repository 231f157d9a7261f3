#include "chatloop/router/preemption.hpp"

#include <algorithm>
#include <map>

namespace chatloop {

namespace {

bool gives_way_before(const RunningSequence& a, const RunningSequence& b) {
    return a.priority != b.priority ? a.priority < b.priority : a.admission > b.admission;
}

}  // namespace

std::optional<SequenceId> least_important(std::span<const RunningSequence> running) {
    if (running.size() < 2) return std::nullopt;
    return std::min_element(running.begin(), running.end(), gives_way_before)->id;
}

std::optional<SequenceId> beyond_share(std::span<const RunningSequence> running,
                                       std::string_view waiting_client, int32_t waiting_priority) {
    std::map<std::string_view, size_t> held{{waiting_client, 0}};
    for (const RunningSequence& sequence : running) ++held[sequence.client];
    const size_t share = std::max<size_t>(1, running.size() / held.size());
    if (held[waiting_client] >= share) return std::nullopt;
    const RunningSequence* victim = nullptr;
    for (const RunningSequence& sequence : running) {
        if (held[sequence.client] <= share || sequence.priority > waiting_priority) continue;
        const size_t most = victim == nullptr ? 0 : held[victim->client];
        const size_t own = held[sequence.client];
        if (own > most || (own == most && gives_way_before(sequence, *victim))) victim = &sequence;
    }
    return victim == nullptr ? std::nullopt : std::optional(victim->id);
}

}  // namespace chatloop
