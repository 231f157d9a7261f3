// The log-probabilities of a choice, as the JSON text that its answer will have: so what waits is
// counted as it will be sent, and of a large answer no tree of JSON values is built. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "chatloop/http/ask.hpp"
#include "chatloop/http/token_texts.hpp"
#include "chatloop/wire/messages.hpp"

namespace chatloop::http {

class LogprobsText {
public:
    // NaN: the first token of a prompt has none. `surface` is the same for all. The bytes that it
    // adds to the answer.
    size_t add(Surface surface, const wire::TokenEntry& entry, TokenTexts& texts);
    size_t count() const { return count_; }  // of tokens since clear()
    // The "logprobs" of a choice, a JSON object.
    std::string text(Surface surface) const;
    // For the next event of a stream: the offsets of the older interface go on.
    void clear();
    // What stands behind this one: empty, its offsets go on from here.
    LogprobsText following() const;
    void append(const LogprobsText& following);

private:
    size_t bytes() const;

    // Elements of arrays, joined by commas. kChat has contents_ alone.
    std::string contents_;
    std::string tokens_, values_, tops_, offsets_;
    size_t count_ = 0;
    uint64_t offset_ = 0;  // characters before the next token
};

}  // namespace chatloop::http
