#include "chatloop/http/logprobs.hpp"

#include <cmath>

#include "chatloop/http/json.hpp"

namespace chatloop::http {

namespace {

constexpr double kLeastLogprob = -9999.0;  // JSON has no infinity

double logprob_of(float value) {
    return std::isfinite(value) ? static_cast<double>(value) : kLeastLogprob;
}

Json bytes_of(const std::string& token) {
    if (is_partial(token)) return nullptr;
    Json bytes = Json::array();
    for (const char c : token) bytes.push_back(static_cast<unsigned char>(c));
    return bytes;
}

Json chat_token(uint32_t id, float logprob, TokenTexts& texts) {
    const std::string& token = texts.of(id);
    return {{"token", token}, {"logprob", logprob_of(logprob)}, {"bytes", bytes_of(token)}};
}

Json chat_entry(const wire::TokenEntry& entry, TokenTexts& texts) {
    Json token = chat_token(entry.token, entry.logprob, texts);
    token["top_logprobs"] = Json::array();
    for (const wire::TopLogprob& top : entry.top)
        token["top_logprobs"].push_back(chat_token(top.token, top.logprob, texts));
    return token;
}

// Tokens that look alike share a key: the likeliest stays.
Json text_top(const wire::TokenEntry& entry, TokenTexts& texts) {
    Json top = Json::object();
    for (const wire::TopLogprob& one : entry.top)
        if (const std::string& text = texts.of(one.token); !top.contains(text))
            top[text] = logprob_of(one.logprob);
    if (const std::string& token = texts.of(entry.token); !top.contains(token))
        top[token] = logprob_of(entry.logprob);
    return top;
}

}  // namespace

size_t LogprobsText::bytes() const {
    return contents_.size() + tokens_.size() + values_.size() + tops_.size() + offsets_.size();
}

size_t LogprobsText::add(Surface surface, const wire::TokenEntry& entry, TokenTexts& texts) {
    const size_t before = bytes();
    const auto append = [this](std::string& to, const Json& element) {
        if (count_ > 0) to += ',';
        to += to_text(element);
    };
    if (surface == Surface::kChat) {
        append(contents_, chat_entry(entry, texts));
    } else {
        const bool has_none = std::isnan(entry.logprob);
        const std::string& token = texts.of(entry.token);
        append(tokens_, token);
        append(values_, has_none ? Json() : Json(logprob_of(entry.logprob)));
        append(tops_, has_none ? Json() : text_top(entry, texts));
        append(offsets_, offset_);
        offset_ += characters(token);
    }
    ++count_;
    return bytes() - before;
}

std::string LogprobsText::text(Surface surface) const {
    if (surface == Surface::kChat) return "{\"content\":[" + contents_ + "],\"refusal\":null}";
    return "{\"tokens\":[" + tokens_ + "],\"token_logprobs\":[" + values_ +
           "],\"top_logprobs\":[" + tops_ + "],\"text_offset\":[" + offsets_ + "]}";
}

void LogprobsText::clear() { *this = following(); }

LogprobsText LogprobsText::following() const {
    LogprobsText next;
    next.offset_ = offset_;
    return next;
}

void LogprobsText::append(const LogprobsText& following) {
    constexpr std::string LogprobsText::*kArrays[] = {
        &LogprobsText::contents_, &LogprobsText::tokens_, &LogprobsText::values_,
        &LogprobsText::tops_, &LogprobsText::offsets_};
    for (const auto array : kArrays) {
        const std::string& more = following.*array;
        if (!more.empty() && count_ > 0) this->*array += ',';
        this->*array += more;
    }
    count_ += following.count_;
    offset_ = following.offset_;
}

}  // namespace chatloop::http
