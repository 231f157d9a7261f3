#include "chatloop/router/no_route.hpp"

#include <algorithm>
#include <utility>

#include "chatloop/wire/codec.hpp"

namespace chatloop {

namespace {

constexpr size_t kNamedMax = 4;  // of one kind in the sentence
constexpr TimeUs kNoticeUs = 5 * kSecondUs;

using Range = std::pair<uint32_t, uint32_t>;  // first layer, end

bool can(const RouteCandidate& worker, uint8_t role) {
    return (worker.roles & role) != 0 && worker.hindrance.empty();
}

std::vector<Range> missing_ranges(uint32_t layers, std::span<const RouteCandidate> workers) {
    std::vector<bool> is_covered(layers, false);
    for (const RouteCandidate& worker : workers) {
        if (!can(worker, wire::kRoleStage)) continue;
        for (uint32_t layer = worker.layer_first; layer < std::min(worker.layer_end, layers);
             ++layer)
            is_covered[layer] = true;
    }
    std::vector<Range> ranges;
    for (uint32_t layer = 0; layer < layers; ++layer) {
        if (is_covered[layer]) continue;
        const bool continues = !ranges.empty() && ranges.back().second == layer;
        if (!continues) ranges.emplace_back(layer, layer);
        ranges.back().second = layer + 1;
    }
    return ranges;
}

// The layers at which a chain of stages from layer 0 may stand, `layers` itself included.
// `except` is no stage of it.
std::vector<bool> reachable(uint32_t layers, std::span<const RouteCandidate> workers,
                            const RouteCandidate* except) {
    std::vector<bool> reached(layers + 1, false);
    reached[0] = true;
    for (uint32_t layer = 0; layer < layers; ++layer) {
        if (!reached[layer]) continue;
        for (const RouteCandidate& worker : workers)
            if (&worker != except && can(worker, wire::kRoleStage) && worker.layer_first == layer)
                reached[std::min(worker.layer_end, layers)] = true;
    }
    return reached;
}

// `parts` as a list; of too many the first ones.
std::string listed(const std::vector<std::string>& parts, const char* separator) {
    std::string text;
    for (size_t i = 0; i < std::min(parts.size(), kNamedMax); ++i)
        text += (i == 0 ? "" : separator) + parts[i];
    if (parts.size() > kNamedMax)
        text += separator + std::to_string(parts.size() - kNamedMax) + " more";
    return text;
}

std::string ranges_text(const std::vector<Range>& ranges) {
    std::vector<std::string> parts;
    for (const auto& [first, end] : ranges)
        parts.push_back(end - first == 1 ? std::to_string(first)
                                         : std::to_string(first) + "-" + std::to_string(end - 1));
    const bool is_one = ranges.size() == 1 && ranges[0].second - ranges[0].first == 1;
    return (is_one ? "layer " : "layers ") + listed(parts, ", ") +
           (is_one ? " is missing" : " are missing");
}

// All layers are there, but the stages' ranges do not follow each other.
std::string gap_text(const std::vector<bool>& reached) {
    size_t layer = reached.size() - 1;
    while (!reached[layer]) --layer;
    return "the ranges of the stages do not meet: none begins at layer " + std::to_string(layer);
}

// Where the stages make a chain: the last of them may be the sampler, too, another one only if the
// chain can do without it.
std::string missing_sampler(uint32_t layers, std::span<const RouteCandidate> workers) {
    std::string busy;
    for (const RouteCandidate& worker : workers) {
        if (!can(worker, wire::kRoleSampler)) continue;
        const bool is_stage = (worker.roles & wire::kRoleStage) != 0;
        if (!is_stage || worker.layer_end >= layers) return {};
        const std::vector<bool> others = reachable(layers, workers, &worker);
        const bool is_spare = others[layers] || !reachable(layers, workers, nullptr)[layers];
        if (is_spare) return {};
        busy = worker.name;
    }
    if (busy.empty()) return "no sampler is there";
    return "no sampler is free: " + busy + " is needed for its layers";
}

bool would_help(const RouteCandidate& worker, const std::vector<Range>& ranges,
                bool needs_sampler) {
    if (needs_sampler && (worker.roles & wire::kRoleSampler) != 0) return true;
    if ((worker.roles & wire::kRoleStage) == 0) return false;
    return std::any_of(ranges.begin(), ranges.end(), [&](const Range& range) {
        return worker.layer_first < range.second && range.first < worker.layer_end;
    });
}

}  // namespace

std::string what_is_missing(uint32_t layers, std::span<const RouteCandidate> workers,
                            std::span<const RefusedWorker> refused) {
    std::vector<std::string> sentences;
    std::vector<Range> ranges = missing_ranges(layers, workers);
    if (!ranges.empty()) {
        sentences.push_back(ranges_text(ranges));
    } else if (const auto reached = reachable(layers, workers, nullptr); !reached[layers]) {
        sentences.push_back(gap_text(reached));
        ranges.emplace_back(0, layers);  // any other stage may close it
    }
    const std::string sampler = missing_sampler(layers, workers);
    if (!sampler.empty()) sentences.push_back(sampler);
    if (sentences.empty()) return {};

    std::vector<std::string> hindered;
    for (const RouteCandidate& worker : workers)
        if (!worker.hindrance.empty() && would_help(worker, ranges, !sampler.empty()))
            hindered.push_back(worker.name + " " + worker.hindrance);
    if (!hindered.empty()) sentences.push_back(listed(hindered, ", "));
    std::vector<std::string> turned_away;
    for (const RefusedWorker& worker : refused)
        turned_away.push_back(worker.name + " was refused: " + worker.reason);
    if (!turned_away.empty()) sentences.push_back(listed(turned_away, "; "));

    std::string text;
    for (const std::string& sentence : sentences) text += (text.empty() ? "" : "; ") + sentence;
    return text;
}

bool NoRouteNotice::is_due(const std::string& why, TimeUs now) {
    if (why.empty()) {
        told_.clear();
        due_at_ = kNever;
        return false;
    }
    if (due_at_ == kNever) due_at_ = now + kNoticeUs;
    if (now < due_at_ || why == told_) return false;
    told_ = why;
    due_at_ = now + kNoticeUs;
    return true;
}

}  // namespace chatloop
