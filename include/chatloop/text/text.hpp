// Text to token ids and back: the tokenizer and the chat template of one model. An interface, so
// that tests and the simulator can put their own in its place; load_text_engine() gives the one
// over Hugging Face's tokenizers and minijinja (the crate text/). No call starts a thread.
//
// Errors: kNotUtf8, kInvalidRequest (the template refused the chat, or needs too much work),
// kBadFile (load only), kInternal.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "chatloop/core/chat_message.hpp"
#include "chatloop/core/constraint.hpp"
#include "chatloop/core/result.hpp"

namespace chatloop {

struct Chat {
    std::vector<ChatMessage> messages;
    std::string tools;      // OpenAI's JSON array, or empty
    std::string arguments;  // JSON object of what else the template may look at, or empty
    bool add_generation_prompt = true;
};

// The incremental detokenizer of one sequence. All that it returns is together the text of all ids.
class TextStream {
public:
    virtual ~TextStream() = default;

    // The text that became complete: whole characters, often none. An id without a token is none.
    virtual Result<std::string> push(uint32_t id) = 0;

    // What was held back, incomplete bytes as U+FFFD. Then the stream starts anew.
    virtual std::string finish() = 0;
};

// What may come next in a constrained answer.
struct AllowedTokens {
    std::string bits;      // bit i % 8 of byte i / 8: id i may come next
    bool may_end = false;  // the answer may end here; without any bit it must
};

// A constraint after some tokens: a pure function of both. Each call's work is bounded; beyond the
// bound it is kInvalidRequest.
class Matcher {
public:
    virtual ~Matcher() = default;

    // A token that is not allowed is kInvalidRequest, and nothing goes on from there.
    virtual Status commit(uint32_t id) = 0;
    virtual Result<AllowedTokens> allowed() = 0;
    virtual std::unique_ptr<Matcher> fork() const = 0;  // independent, in the same state
};

class TextEngine {
public:
    virtual ~TextEngine() = default;

    // Special tokens spelled in the text stay text. What the tokenizer puts around every text
    // (a BOS token, in some models) is included.
    virtual Result<std::vector<uint32_t>> encode_plain(std::string_view text) const = 0;

    // The ids of render_chat(), with special tokens where the template wrote them and text where a
    // message spells them.
    virtual Result<std::vector<uint32_t>> encode_chat(const Chat& chat) const = 0;
    virtual Result<std::string> render_chat(const Chat& chat) const = 0;
    Result<std::vector<uint32_t>> encode_chat(std::vector<ChatMessage> messages,
                                              bool add_generation_prompt) const {
        return encode_chat(Chat{std::move(messages), {}, {}, add_generation_prompt});
    }
    Result<std::string> render_chat(std::vector<ChatMessage> messages,
                                    bool add_generation_prompt) const {
        return render_chat(Chat{std::move(messages), {}, {}, add_generation_prompt});
    }
    virtual std::string chat_template() const = 0;  // its source; empty if there is none

    // kInvalidRequest says why the constraint is refused.
    virtual Result<std::unique_ptr<Matcher>> match(const Constraint& constraint) const = 0;

    virtual std::unique_ptr<TextStream> stream(bool skip_special) const = 0;
    virtual Result<std::string> decode(std::span<const uint32_t> ids, bool skip_special) const = 0;

    virtual int32_t vocab_size() const = 0;  // every id is below it
};

// Reads tokenizer.json and, where they exist, tokenizer_config.json and chat_template.jinja.
Result<std::unique_ptr<TextEngine>> load_text_engine(const std::string& tokenizer_dir);

}  // namespace chatloop
