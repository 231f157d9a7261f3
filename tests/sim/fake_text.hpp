// Text for the simulator: one token is one printable character.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "chatloop/text/text.hpp"
#include "hash_model.hpp"

namespace chatloop::sim {

// The constraint of the simulator: what may come is drawn from the tokens so far. Never so few that
// stop ids could be all of it, but at the end, which is not the beginning.
inline AllowedTokens fake_allowed(const std::string& text, const std::vector<uint32_t>& tokens) {
    uint64_t hash = mix(text.size(), 77);
    for (const char c : text) hash = mix(hash, static_cast<uint8_t>(c));
    for (const uint32_t token : tokens) hash = mix(hash, token);
    AllowedTokens allowed;
    allowed.bits.resize((kVocab + 7) / 8);
    if (!tokens.empty() && mix(hash, kVocab) % 16 == 0) {
        allowed.may_end = true;  // and nothing else
        return allowed;
    }
    allowed.may_end = mix(hash, kVocab + 1) % 4 == 0;
    for (uint32_t id = 0; id < kVocab; ++id)
        if (id < 8 || mix(hash, id) % 8 == 0)
            allowed.bits[id / 8] =
                static_cast<char>(static_cast<uint8_t>(allowed.bits[id / 8]) | 1u << id % 8);
    return allowed;
}

class FakeMatcher final : public Matcher {
public:
    FakeMatcher(std::string text, Mistake mistake) : text_(std::move(text)), mistake_(mistake) {}

    Status commit(uint32_t id) override {
        const AllowedTokens now = fake_allowed(text_, tokens_);
        const bool fits = id < kVocab && (static_cast<uint8_t>(now.bits[id / 8]) >> id % 8 & 1);
        if (!fits && mistake_ != Mistake::kMatcher)
            return Error{ErrorCode::kInvalidRequest, "the constraint forbids the token"};
        if (mistake_ == Mistake::kMatcher && tokens_.size() == 3) return Ok{};  // it is lost
        tokens_.push_back(id);
        return Ok{};
    }
    Result<AllowedTokens> allowed() override { return fake_allowed(text_, tokens_); }
    std::unique_ptr<Matcher> fork() const override {
        return std::make_unique<FakeMatcher>(*this);
    }

private:
    std::string text_;
    Mistake mistake_;
    std::vector<uint32_t> tokens_;
};

class FakeText final : public TextEngine {
public:
    explicit FakeText(Mistake mistake = Mistake::kNone) : mistake_(mistake) {}

    Result<std::vector<uint32_t>> encode_plain(std::string_view text) const override {
        std::vector<uint32_t> ids;
        for (const char c : text) {
            if (c < 32 || c >= static_cast<char>(32 + kVocab - 1))
                return Error{ErrorCode::kInvalidRequest, "not a character of the toy vocabulary"};
            ids.push_back(static_cast<uint32_t>(c - 32));
        }
        return ids;
    }
    Result<std::vector<uint32_t>> encode_chat(const Chat& chat) const override {
        std::string all = chat.tools + chat.arguments;
        for (const ChatMessage& m : chat.messages)
            all += m.role + ":" + m.content + m.tool_calls + m.tool_call_id + m.name;
        return encode_plain(all);
    }
    Result<std::string> render_chat(const Chat&) const override { return std::string(); }
    std::string chat_template() const override { return {}; }
    Result<std::unique_ptr<Matcher>> match(const Constraint& constraint) const override {
        if (constraint.texts.empty() || constraint.texts[0] == "refused")
            return Error{ErrorCode::kInvalidRequest, "the constraint is refused"};
        return std::unique_ptr<Matcher>(
            std::make_unique<FakeMatcher>(constraint.texts[0], mistake_));
    }
    std::unique_ptr<TextStream> stream(bool) const override {
        return std::make_unique<Stream>(mistake_);
    }
    Result<std::string> decode(std::span<const uint32_t> ids, bool) const override {
        std::string text;
        for (const uint32_t id : ids) text += static_cast<char>(32 + id);
        return text;
    }
    int32_t vocab_size() const override { return kVocab; }

private:
    class Stream final : public TextStream {
    public:
        explicit Stream(Mistake mistake) : mistake_(mistake) {}
        Result<std::string> push(uint32_t id) override {
            if (mistake_ == Mistake::kText && ++pushed_ == 3) return std::string();
            return std::string(1, static_cast<char>(32 + id));
        }
        std::string finish() override { return {}; }

    private:
        Mistake mistake_;
        uint32_t pushed_ = 0;
    };

    Mistake mistake_;
};

}  // namespace chatloop::sim
