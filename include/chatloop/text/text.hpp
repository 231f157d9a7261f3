// Text to token ids and back, and chat templates: the reference implementations (Hugging Face
// tokenizers, minijinja) behind a small interface, so that tests and the simulator can stand in.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "chatloop/core/result.hpp"

namespace chatloop {

struct ChatMessage {
    std::string role;
    std::string content;
};

// The incremental detokenizer of one sequence.
class TextStream {
public:
    virtual ~TextStream() = default;
    // The text that became complete with this id: whole UTF-8, may be empty.
    virtual Result<std::string> push(uint32_t id) = 0;
    // What was held back; U+FFFD stands for bytes that never became a character.
    virtual std::string finish() = 0;
};

class TextEngine {
public:
    virtual ~TextEngine() = default;
    // Special tokens in `text` stay text.
    virtual Result<std::vector<uint32_t>> encode_plain(std::string_view text) const = 0;
    // The chat template's own special tokens are tokens; those in message contents stay text.
    virtual Result<std::vector<uint32_t>> encode_chat(const std::vector<ChatMessage>& messages,
                                                      bool add_generation_prompt) const = 0;
    virtual Result<std::string> render_chat(const std::vector<ChatMessage>& messages,
                                            bool add_generation_prompt) const = 0;
    virtual std::unique_ptr<TextStream> stream(bool skip_special) const = 0;
    virtual Result<std::string> decode(std::span<const uint32_t> ids, bool skip_special) const = 0;
    virtual int32_t vocab_size() const = 0;
};

// `tokenizer_dir` holds tokenizer.json and tokenizer_config.json.
Result<std::unique_ptr<TextEngine>> load_text_engine(const std::string& tokenizer_dir);

}  // namespace chatloop
