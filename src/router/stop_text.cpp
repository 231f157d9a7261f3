#include "chatloop/router/stop_text.hpp"

#include <algorithm>

namespace chatloop {

namespace {

// Length of the longest proper prefix of `stop` that `text` ends with.
size_t open_prefix(std::string_view text, std::string_view stop) {
    for (size_t n = std::min(text.size(), stop.size() - 1); n > 0; --n)
        if (text.substr(text.size() - n) == stop.substr(0, n)) return n;
    return 0;
}

}  // namespace

StopText::Step StopText::push(std::string_view text) {
    held_ += text;
    size_t match_at = std::string::npos;
    const std::string* match = nullptr;
    size_t hold = 0;
    for (const std::string& stop : stops_) {
        const size_t at = held_.find(stop);
        if (at != std::string::npos) {
            const bool better = match == nullptr || at < match_at ||
                                (at == match_at && stop.size() > match->size());
            if (better) {
                match_at = at;
                match = &stop;
            }
        }
        hold = std::max(hold, open_prefix(held_, stop));
    }
    Step step;
    if (match != nullptr) {
        step.text = held_.substr(0, match_at);
        step.match = *match;
        held_.clear();
        return step;
    }
    step.text = held_.substr(0, held_.size() - hold);
    held_.erase(0, held_.size() - hold);
    return step;
}

std::string StopText::finish() {
    std::string rest = std::move(held_);
    held_.clear();
    return rest;
}

}  // namespace chatloop
