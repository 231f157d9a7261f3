#include "chatloop/http/reply.hpp"

#include <algorithm>
#include <cmath>

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

Json chat_logprobs(const Choice& choice, TokenTexts& texts) {
    Json content = Json::array();
    for (const wire::TokenEntry& entry : choice.logprobs) {
        Json token = chat_token(entry.token, entry.logprob, texts);
        token["top_logprobs"] = Json::array();
        for (const wire::TopLogprob& top : entry.top)
            token["top_logprobs"].push_back(chat_token(top.token, top.logprob, texts));
        content.push_back(std::move(token));
    }
    return {{"content", std::move(content)}, {"refusal", nullptr}};
}

// The parallel arrays of the older interface. Tokens that look alike share a key: the likeliest
// stays.
Json text_logprobs(const Choice& choice, TokenTexts& texts) {
    Json tokens = Json::array(), values = Json::array(), tops = Json::array(),
         offsets = Json::array();
    uint64_t offset = choice.text_offset;
    for (const wire::TokenEntry& entry : choice.logprobs) {
        const std::string& token = texts.of(entry.token);
        tokens.push_back(token);
        offsets.push_back(offset);
        offset += characters(token);
        if (std::isnan(entry.logprob)) {  // the first token of a prompt has none
            values.push_back(nullptr);
            tops.push_back(nullptr);
            continue;
        }
        values.push_back(logprob_of(entry.logprob));
        Json top = Json::object();
        for (const wire::TopLogprob& one : entry.top)
            if (const std::string& text = texts.of(one.token); !top.contains(text))
                top[text] = logprob_of(one.logprob);
        if (!top.contains(token)) top[token] = logprob_of(entry.logprob);
        tops.push_back(std::move(top));
    }
    return {{"tokens", std::move(tokens)}, {"token_logprobs", std::move(values)},
            {"top_logprobs", std::move(tops)}, {"text_offset", std::move(offsets)}};
}

Json logprobs_of(Surface surface, const Choice& choice, bool wanted, TokenTexts& texts) {
    if (!wanted) return nullptr;
    return surface == Surface::kChat ? chat_logprobs(choice, texts) : text_logprobs(choice, texts);
}

Json finish_of(const Choice& choice) {
    return choice.finish_reason.empty() ? Json() : Json(choice.finish_reason);
}

Json usage_of(const Usage& usage) {
    return {{"prompt_tokens", usage.prompt_tokens},
            {"completion_tokens", usage.completion_tokens},
            {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
            {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}}};
}

Json base(const ReplyHead& head, bool chunk) {
    const char* object = head.surface == Surface::kText ? "text_completion"
                         : chunk                        ? "chat.completion.chunk"
                                                        : "chat.completion";
    return {{"id", head.id}, {"object", object}, {"created", head.created},
            {"model", head.model}, {"system_fingerprint", head.fingerprint}};
}

Json chunk(const ReplyHead& head, Json choice) {
    Json data = base(head, true);
    data["choices"] = Json::array({std::move(choice)});
    if (head.with_usage) data["usage"] = nullptr;
    return data;
}

Json chunk_choice(const ReplyHead& head, const Choice& choice, Json delta, Json logprobs) {
    if (head.surface == Surface::kText)
        return {{"index", choice.index}, {"text", choice.text}, {"logprobs", std::move(logprobs)},
                {"finish_reason", finish_of(choice)}};
    return {{"index", choice.index}, {"delta", std::move(delta)},
            {"logprobs", std::move(logprobs)}, {"finish_reason", finish_of(choice)}};
}

Json stop_of(const wire::Stop& stop) {
    if (const auto* text = std::get_if<std::string>(&stop)) return *text;
    if (const auto* id = std::get_if<uint32_t>(&stop)) return *id;
    return nullptr;
}

Json message_of(const Choice& choice) {
    Json message = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
    if (choice.tool_calls.empty()) return message;
    if (choice.text.empty()) message["content"] = nullptr;
    message["tool_calls"] = Json::array();
    for (const ToolCall& call : choice.tool_calls)
        message["tool_calls"].push_back(
            {{"id", call.id},
             {"type", "function"},
             {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
    return message;
}

}  // namespace

std::string event(const Json& data) { return "data: " + to_text(data) + "\n\n"; }

Json role_chunk(const ReplyHead& head, uint32_t index) {
    Choice choice;
    choice.index = index;
    return chunk(head, chunk_choice(head, choice, {{"role", "assistant"}, {"content", ""}}, {}));
}

Json text_chunk(const ReplyHead& head, const Choice& choice, bool wants_logprobs,
                TokenTexts& texts) {
    if (head.surface == Surface::kExecute) return {{"text", choice.text}};
    return chunk(head, chunk_choice(head, choice, {{"content", choice.text}},
                                    logprobs_of(head.surface, choice, wants_logprobs, texts)));
}

// Clients add up what they get: id, type and name stand in the first piece of a call alone.
Json tool_chunk(const ReplyHead& head, uint32_t index, uint32_t call_index, const ToolCall& call) {
    Json piece = {{"index", call_index}};
    if (!call.name.empty()) {
        piece["id"] = call.id;
        piece["type"] = "function";
        piece["function"] = {{"name", call.name}, {"arguments", call.arguments}};
    } else {
        piece["function"] = {{"arguments", call.arguments}};
    }
    Choice choice;
    choice.index = index;
    return chunk(head, chunk_choice(head, choice,
                                    {{"tool_calls", Json::array({std::move(piece)})}}, {}));
}

Json end_chunk(const ReplyHead& head, const Choice& choice) {
    Choice end;
    end.index = choice.index;
    end.finish_reason = choice.finish_reason;
    return chunk(head, chunk_choice(head, end, Json::object(), {}));
}

Json usage_chunk(const ReplyHead& head, const Usage& usage) {
    Json data = base(head, true);
    data["choices"] = Json::array();
    data["usage"] = usage_of(usage);
    return data;
}

Json execute_end(const ReplyHead& head, const Choice& choice, const Usage& usage, uint64_t seed) {
    return {{"done", true},
            {"id", head.id},
            {"model", head.model},
            {"finish_reason", choice.finish_reason},
            {"stop", stop_of(choice.stop)},
            {"prompt_tokens", usage.prompt_tokens},
            {"cached_tokens", usage.cached_tokens},
            {"completion_tokens", usage.completion_tokens},
            {"seed", seed},
            {"fingerprint", head.fingerprint}};
}

Json whole_answer(const ReplyHead& head, const std::vector<Choice>& choices, const Usage& usage,
                  bool wants_logprobs, uint64_t seed, TokenTexts& texts) {
    if (head.surface == Surface::kExecute) {
        Json body = {{"text", choices.at(0).text}};
        body.update(execute_end(head, choices.at(0), usage, seed));
        body.erase("done");
        return body;
    }
    Json data = base(head, false);
    data["choices"] = Json::array();
    for (const Choice& choice : choices) {
        Json logprobs = logprobs_of(head.surface, choice, wants_logprobs, texts);
        Json one = {{"index", choice.index}};
        if (head.surface == Surface::kText) {
            one["text"] = choice.text;
        } else {
            one["message"] = message_of(choice);
        }
        one["logprobs"] = std::move(logprobs);
        one["finish_reason"] = finish_of(choice);
        data["choices"].push_back(std::move(one));
    }
    data["usage"] = usage_of(usage);
    return data;
}

Problem problem_of(const wire::Failure& failure) {
    struct Mapped {
        const char* code;
        int status;
        const char* param;
        const char* as;
    };
    static constexpr Mapped kMapped[] = {
        {"invalid_request", 400, "", "invalid_request"},
        {"prompt_too_long", 400, "", "context_length_exceeded"},
        {"not_utf8", 400, "", "not_utf8"},
        {"unknown_model", 404, "model", "model_not_found"},
        {"queue_full", 429, "", "queue_full"},
        {"queue_timeout", 503, "", "queue_timeout"},
        {"deadline_exceeded", 408, "", "deadline_exceeded"},
        {"no_route", 503, "", "no_route"},
        {"worker_lost", 503, "", "worker_lost"},
        {"draining", 503, "", "draining"},
        {"unsupported", 400, "", "unsupported"},
    };
    constexpr unsigned kAgainMs = 1000;
    Problem problem{500, failure.message, "", failure.code};
    for (const Mapped& mapped : kMapped) {
        if (failure.code != mapped.code) continue;
        problem.status = mapped.status;
        problem.param = mapped.param;
        problem.code = mapped.as;
    }
    if (failure.retryable) problem.retry_after_ms = failure.retry_after_ms.value_or(kAgainMs);
    return problem;
}

}  // namespace chatloop::http
