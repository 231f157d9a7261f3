// Text for the simulator: one token is one printable character.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "chatloop/text/text.hpp"
#include "hash_model.hpp"

namespace chatloop::sim {

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
    Result<std::vector<uint32_t>> encode_chat(const std::vector<ChatMessage>& messages,
                                              bool) const override {
        std::string all;
        for (const ChatMessage& m : messages) all += m.role + ":" + m.content;
        return encode_plain(all);
    }
    Result<std::string> render_chat(const std::vector<ChatMessage>&, bool) const override {
        return std::string();
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
