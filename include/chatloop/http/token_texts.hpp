// The text of single tokens, for log-probabilities. A token may hold a part of a character: its
// text is then U+FFFD and its bytes are not known.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "chatloop/text/text.hpp"

namespace chatloop::http {

class TokenTexts {
public:
    explicit TokenTexts(const TextEngine& text);

    const std::string& of(uint32_t id);

private:
    const TextEngine& text_;
    std::vector<uint32_t> anchor_;  // stands before the token, so that its leading space stays
    std::string anchor_text_;
    std::unordered_map<uint32_t, std::string> known_;  // of the vocabulary
};

bool is_partial(const std::string& token_text);
uint64_t characters(const std::string& text);

}  // namespace chatloop::http
