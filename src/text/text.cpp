// TextEngine over the crate text/: conversions only.
#include "chatloop/text/text.hpp"

#include "chatloop_text.h"

namespace chatloop {
namespace {

ChatloopText borrow(std::string_view text) {
    return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// The sinks are called from Rust, so nothing may be thrown: out of memory ends the process.
void take_text(void* context, const uint8_t* data, size_t bytes) noexcept {
    static_cast<std::string*>(context)->assign(reinterpret_cast<const char*>(data), bytes);
}

void take_ids(void* context, const uint32_t* ids, size_t count) noexcept {
    static_cast<std::vector<uint32_t>*>(context)->assign(ids, ids + count);
}

ChatloopTextSink into(std::string& text) { return {&text, take_text}; }
ChatloopTextIdSink into(std::vector<uint32_t>& ids) { return {&ids, take_ids}; }

ErrorCode error_code(int32_t code) {
    switch (static_cast<ChatloopTextCode>(code)) {
        case CHATLOOP_TEXT_NOT_UTF8: return ErrorCode::kNotUtf8;
        case CHATLOOP_TEXT_INVALID_REQUEST: return ErrorCode::kInvalidRequest;
        case CHATLOOP_TEXT_BAD_FILE: return ErrorCode::kBadFile;
        case CHATLOOP_TEXT_OK:
        case CHATLOOP_TEXT_INTERNAL: break;
    }
    return ErrorCode::kInternal;
}

// call(result sink, error sink) -> code
template <class T, class Call>
Result<T> collect(Call call) {
    T result;
    std::string message;
    const int32_t code = call(into(result), into(message));
    if (code != CHATLOOP_TEXT_OK) return Error{error_code(code), std::move(message)};
    return result;
}

std::vector<ChatloopTextMessage> borrow(const std::vector<ChatMessage>& messages) {
    std::vector<ChatloopTextMessage> borrowed;
    borrowed.reserve(messages.size());
    for (const ChatMessage& message : messages) {
        borrowed.push_back({borrow(message.role), borrow(message.content)});
    }
    return borrowed;
}

struct FreeEngine {
    void operator()(ChatloopTextEngine* engine) const { chatloop_text_free(engine); }
};

struct FreeStream {
    void operator()(ChatloopTextStream* stream) const { chatloop_text_stream_free(stream); }
};

class CrateStream final : public TextStream {
public:
    explicit CrateStream(ChatloopTextStream* stream) : stream_(stream) {}

    Result<std::string> push(uint32_t id) override {
        return collect<std::string>([&](ChatloopTextSink text, ChatloopTextSink error) {
            return chatloop_text_stream_push(stream_.get(), id, text, error);
        });
    }

    std::string finish() override {
        std::string text;
        chatloop_text_stream_finish(stream_.get(), into(text));
        return text;
    }

private:
    std::unique_ptr<ChatloopTextStream, FreeStream> stream_;
};

class CrateEngine final : public TextEngine {
public:
    explicit CrateEngine(ChatloopTextEngine* engine) : engine_(engine) {}

    Result<std::vector<uint32_t>> encode_plain(std::string_view text) const override {
        return collect<std::vector<uint32_t>>([&](ChatloopTextIdSink ids, ChatloopTextSink error) {
            return chatloop_text_encode_plain(engine_.get(), borrow(text), ids, error);
        });
    }

    Result<std::vector<uint32_t>> encode_chat(const std::vector<ChatMessage>& messages,
                                              bool add_generation_prompt) const override {
        const std::vector<ChatloopTextMessage> borrowed = borrow(messages);
        return collect<std::vector<uint32_t>>([&](ChatloopTextIdSink ids, ChatloopTextSink error) {
            return chatloop_text_encode_chat(engine_.get(), borrowed.data(), borrowed.size(),
                                             add_generation_prompt, ids, error);
        });
    }

    Result<std::string> render_chat(const std::vector<ChatMessage>& messages,
                                    bool add_generation_prompt) const override {
        const std::vector<ChatloopTextMessage> borrowed = borrow(messages);
        return collect<std::string>([&](ChatloopTextSink text, ChatloopTextSink error) {
            return chatloop_text_render_chat(engine_.get(), borrowed.data(), borrowed.size(),
                                             add_generation_prompt, text, error);
        });
    }

    std::unique_ptr<TextStream> stream(bool skip_special) const override {
        return std::make_unique<CrateStream>(chatloop_text_stream_new(engine_.get(), skip_special));
    }

    Result<std::string> decode(std::span<const uint32_t> ids, bool skip_special) const override {
        return collect<std::string>([&](ChatloopTextSink text, ChatloopTextSink error) {
            return chatloop_text_decode(engine_.get(), ids.data(), ids.size(), skip_special, text,
                                        error);
        });
    }

    int32_t vocab_size() const override {
        return static_cast<int32_t>(chatloop_text_vocab_size(engine_.get()));
    }

private:
    std::unique_ptr<ChatloopTextEngine, FreeEngine> engine_;
};

}  // namespace

Result<std::unique_ptr<TextEngine>> load_text_engine(const std::string& tokenizer_dir) {
    ChatloopTextEngine* engine = nullptr;
    std::string message;
    const int32_t code = chatloop_text_load(borrow(tokenizer_dir), &engine, into(message));
    if (code != CHATLOOP_TEXT_OK) return Error{error_code(code), std::move(message)};
    return std::unique_ptr<TextEngine>(std::make_unique<CrateEngine>(engine));
}

}  // namespace chatloop
