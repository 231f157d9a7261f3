#include "chatloop/http/token_texts.hpp"

#include <algorithm>

namespace chatloop::http {

TokenTexts::TokenTexts(const TextEngine& text) : text_(text) {
    const Result<std::vector<uint32_t>> ids = text.encode_plain("a");
    if (ids && !ids->empty()) anchor_ = {ids->back()};
    const Result<std::string> anchor = text.decode(anchor_, false);
    if (anchor) anchor_text_ = *anchor;
}

const std::string& TokenTexts::of(uint32_t id) {
    const auto known = known_.find(id);
    if (known != known_.end()) return known->second;
    std::vector<uint32_t> both = anchor_;
    both.push_back(id);
    Result<std::string> text = text_.decode(both, false);
    std::string own;
    if (text && text->starts_with(anchor_text_)) {
        own = text->substr(anchor_text_.size());
    } else if (text = text_.decode({&id, 1}, false); text) {
        own = *text;
    }
    return known_[id] = std::move(own);
}

uint64_t characters(const std::string& text) {
    return static_cast<uint64_t>(std::count_if(text.begin(), text.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
    }));
}

bool is_partial(const std::string& token_text) {
    return token_text.find("\xef\xbf\xbd") != std::string::npos;
}

}  // namespace chatloop::http
