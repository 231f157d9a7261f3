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

// A Chat for the time of a call.
class BorrowedChat {
public:
    explicit BorrowedChat(const Chat& chat) {
        messages_.reserve(chat.messages.size());
        for (const ChatMessage& message : chat.messages) {
            messages_.push_back({borrow(message.role), borrow(message.content),
                                 message.has_content, borrow(message.tool_calls),
                                 borrow(message.tool_call_id), borrow(message.name)});
        }
        chat_ = {messages_.data(), messages_.size(), borrow(chat.tools), borrow(chat.arguments),
                 chat.add_generation_prompt};
    }
    const ChatloopTextChat* get() const { return &chat_; }

private:
    std::vector<ChatloopTextMessage> messages_;
    ChatloopTextChat chat_;
};

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

struct FreeMatcher {
    void operator()(ChatloopTextMatcher* matcher) const { chatloop_text_matcher_free(matcher); }
};

class CrateMatcher final : public Matcher {
public:
    explicit CrateMatcher(ChatloopTextMatcher* matcher) : matcher_(matcher) {}

    Status commit(uint32_t id) override {
        std::string message;
        const int32_t code = chatloop_text_matcher_commit(matcher_.get(), id, into(message));
        if (code != CHATLOOP_TEXT_OK) return Error{error_code(code), std::move(message)};
        return Ok{};
    }

    Result<AllowedTokens> allowed() override {
        AllowedTokens allowed;
        std::string message;
        const int32_t code = chatloop_text_matcher_allowed(matcher_.get(), into(allowed.bits),
                                                           &allowed.may_end, into(message));
        if (code != CHATLOOP_TEXT_OK) return Error{error_code(code), std::move(message)};
        return allowed;
    }

    std::unique_ptr<Matcher> fork() const override {
        return std::make_unique<CrateMatcher>(chatloop_text_matcher_fork(matcher_.get()));
    }

private:
    std::unique_ptr<ChatloopTextMatcher, FreeMatcher> matcher_;
};

class CrateEngine final : public TextEngine {
public:
    explicit CrateEngine(ChatloopTextEngine* engine) : engine_(engine) {}

    Result<std::vector<uint32_t>> encode_plain(std::string_view text) const override {
        return collect<std::vector<uint32_t>>([&](ChatloopTextIdSink ids, ChatloopTextSink error) {
            return chatloop_text_encode_plain(engine_.get(), borrow(text), ids, error);
        });
    }

    Result<std::vector<uint32_t>> encode_chat(const Chat& chat) const override {
        const BorrowedChat borrowed(chat);
        return collect<std::vector<uint32_t>>([&](ChatloopTextIdSink ids, ChatloopTextSink error) {
            return chatloop_text_encode_chat(engine_.get(), borrowed.get(), ids, error);
        });
    }

    Result<std::string> render_chat(const Chat& chat) const override {
        const BorrowedChat borrowed(chat);
        return collect<std::string>([&](ChatloopTextSink text, ChatloopTextSink error) {
            return chatloop_text_render_chat(engine_.get(), borrowed.get(), text, error);
        });
    }

    std::string chat_template() const override {
        std::string source;
        chatloop_text_chat_template(engine_.get(), into(source));
        return source;
    }

    Result<std::unique_ptr<Matcher>> match(const Constraint& constraint) const override {
        std::vector<ChatloopText> texts;
        for (const std::string& text : constraint.texts) texts.push_back(borrow(text));
        ChatloopTextMatcher* matcher = nullptr;
        std::string message;
        const int32_t code = chatloop_text_matcher_new(
            engine_.get(), static_cast<uint32_t>(constraint.kind), texts.data(), texts.size(),
            &matcher, into(message));
        if (code != CHATLOOP_TEXT_OK) return Error{error_code(code), std::move(message)};
        return std::unique_ptr<Matcher>(std::make_unique<CrateMatcher>(matcher));
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
