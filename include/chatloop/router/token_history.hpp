// How often each id occurs in a sequence, counted as it grows: what penalties look at.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "chatloop/wire/frames.hpp"

namespace chatloop {

class TokenHistory {
public:
    void add_prompt(uint32_t token) { ++count_of(token).prompt; }
    void add_output(uint32_t token) { ++count_of(token).output; }

    const std::vector<wire::TokenCount>& counts() const { return counts_; }  // in order of coming

private:
    wire::TokenCount& count_of(uint32_t token) {
        const auto [place, is_new] = places_.try_emplace(token, counts_.size());
        if (is_new) counts_.push_back({token, 0, 0});
        return counts_[place->second];
    }

    std::vector<wire::TokenCount> counts_;
    std::unordered_map<uint32_t, size_t> places_;  // in counts_
};

}  // namespace chatloop
