#include "chatloop/http/reply.hpp"

namespace chatloop::http {

namespace {

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

Json chunk_choice(const ReplyHead& head, const Choice& choice, Json delta) {
    if (head.surface == Surface::kText)
        return {{"index", choice.index}, {"text", choice.text}, {"logprobs", nullptr},
                {"finish_reason", finish_of(choice)}};
    return {{"index", choice.index}, {"delta", std::move(delta)}, {"logprobs", nullptr},
            {"finish_reason", finish_of(choice)}};
}

std::string with_logprobs(const ReplyHead& head, Json one, const Choice& choice) {
    one.erase("logprobs");
    return with_member(to_text(one), "logprobs", choice.logprobs.text(head.surface));
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

std::string event(std::string_view json) {
    return std::string("data: ").append(json).append("\n\n");
}

Json role_chunk(const ReplyHead& head, uint32_t index) {
    Choice choice;
    choice.index = index;
    return chunk(head, chunk_choice(head, choice, {{"role", "assistant"}, {"content", ""}}));
}

std::string text_chunk(const ReplyHead& head, const Choice& choice, bool wants_logprobs) {
    if (head.surface == Surface::kExecute) return to_text({{"text", choice.text}});
    const bool chat = head.surface == Surface::kChat;
    std::string out = head.text_chunk_begin;
    out += std::to_string(choice.index);
    out += chat ? ",\"delta\":{\"content\":" : ",\"text\":";
    out += to_text(choice.text);
    out += chat ? "},\"logprobs\":" : ",\"logprobs\":";
    out += wants_logprobs ? choice.logprobs.text(head.surface) : "null";
    out += ",\"finish_reason\":";
    out += to_text(finish_of(choice));
    return out += "}]}";
}

std::string text_chunk_begin(const ReplyHead& head) {
    Json data = base(head, true);
    if (head.with_usage) data["usage"] = nullptr;
    std::string text = with_member(to_text(data), "choices", "[{\"index\":0}]");
    text.resize(text.rfind('0'));
    return text;
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
                                    {{"tool_calls", Json::array({std::move(piece)})}}));
}

Json end_chunk(const ReplyHead& head, const Choice& choice) {
    Choice end;
    end.index = choice.index;
    end.finish_reason = choice.finish_reason;
    return chunk(head, chunk_choice(head, end, Json::object()));
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

std::string whole_answer(const ReplyHead& head, const std::vector<Choice>& choices,
                         const Usage& usage, bool wants_logprobs, uint64_t seed) {
    if (head.surface == Surface::kExecute) {
        Json body = {{"text", choices.at(0).text}};
        body.update(execute_end(head, choices.at(0), usage, seed));
        body.erase("done");
        return to_text(body);
    }
    std::string list = "[";
    for (const Choice& choice : choices) {
        Json one = {{"index", choice.index}};
        if (head.surface == Surface::kText) {
            one["text"] = choice.text;
        } else {
            one["message"] = message_of(choice);
        }
        one["logprobs"] = nullptr;
        one["finish_reason"] = finish_of(choice);
        if (list.size() > 1) list += ',';
        list += wants_logprobs ? with_logprobs(head, std::move(one), choice) : to_text(one);
    }
    Json data = base(head, false);
    data["usage"] = usage_of(usage);
    return with_member(to_text(data), "choices", list += ']');
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
