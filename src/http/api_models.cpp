// The paths around completions: which model there is, and its text engine.
#include "ask_parts.hpp"
#include "chatloop/core/limits.hpp"
#include "chatloop/http/api.hpp"

namespace chatloop::http {

namespace {

Response ok(const Json& body) { return {200, "application/json", to_text(body), {}}; }

Response refused(const Error& error) {
    return problem_response({400, error.message, "", std::string(error_name(error.code))});
}

// As the router makes it of a request.
Chat read_chat_alone(Fields& fields) {
    Ask ask;
    std::vector<ChatMessage> messages = read_messages(fields);
    read_tools(fields, ask);
    read_template_arguments(fields, ask.parameters);
    return {std::move(messages), std::move(ask.parameters.tools),
            std::move(ask.parameters.chat_template_kwargs),
            fields.boolean("add_generation_prompt").value_or(true)};
}

}  // namespace

void Api::serve(Site& site) {
    const auto post = [&](const std::string& path, Reader read) {
        site.add("POST", path, Access::kKey,
                 [this, read](ExchangeId id, Request& request, TimeUs now) {
                     return on_post(id, request, read, now);
                 });
    };
    const auto answer = [&](const char* method, const std::string& path,
                            Response (Api::*handler)(const Request&) const) {
        site.add(method, path, Access::kKey,
                 [this, handler](ExchangeId, Request& request, TimeUs) {
                     return std::optional<Response>((this->*handler)(request));
                 });
    };
    for (const std::string version : {"/v1", ""}) {
        post(version + "/chat/completions", read_chat);
        post(version + "/completions", read_completion);
        answer("GET", version + "/models", &Api::models);
        answer("GET", version + "/models/*", &Api::model);
    }
    serve_streams(site);
    post("/execute", read_execute);
    answer("POST", "/tokenize", &Api::tokenize);
    answer("POST", "/detokenize", &Api::detokenize);
    answer("POST", "/apply-template", &Api::apply_template);
}

Json Api::model_card() const {
    return {{"id", config_.model},
            {"object", "model"},
            {"created", started_at_},
            {"owned_by", "chatloop"},
            {"max_model_len", config_.context_length}};
}

Response Api::models(const Request&) const {
    return ok({{"object", "list"}, {"data", Json::array({model_card()})}});
}

Response Api::model(const Request& request) const {
    const std::string name = request.path.substr(request.path.find("/models/") + 8);
    if (name == config_.model) return ok(model_card());
    return problem_response({404, "model \"" + name + "\" is not served; this is \"" +
                                      config_.model + "\"", "model", "model_not_found"});
}

// What is encoded at once is as much as the router takes of a prompt.
Chat Api::read_bounded_chat(Fields& fields) const {
    Chat chat = read_chat_alone(fields);
    size_t bytes = chat.tools.size() + chat.arguments.size();
    for (const auto& message : chat.messages)
        bytes += message.content.size() + message.tool_calls.size();
    const size_t bytes_max = prompt_bytes_max(config_.context_length);
    if (bytes > bytes_max)
        fields.fail("messages", "have " + std::to_string(bytes) + " bytes; at most " +
                                    std::to_string(bytes_max) + " are taken");
    return chat;
}

Response Api::tokenize(const Request& request) const {
    const auto body = body_of(request);
    if (const auto* refusal = std::get_if<Response>(&body)) return *refusal;
    std::optional<Problem> problem;
    Fields fields(std::get<Json>(body), problem);
    const char* name = fields.find("content") != nullptr ? "content" : "prompt";
    Result<std::vector<uint32_t>> ids = std::vector<uint32_t>();
    if (fields.find("messages") != nullptr) {
        const Chat chat = read_bounded_chat(fields);
        if (!problem) ids = text_.encode_chat(chat);
    } else {
        if (fields.find(name) == nullptr) fields.fail(name, "is missing");
        const std::string text = fields.text(name, prompt_bytes_max(config_.context_length));
        if (!problem) ids = text_.encode_plain(text);
    }
    if (problem) return problem_response(*problem);
    if (!ids) return refused(ids.error());
    return ok({{"tokens", *ids}, {"count", ids->size()},
               {"max_model_len", config_.context_length}});
}

Response Api::detokenize(const Request& request) const {
    const auto body = body_of(request);
    if (const auto* refusal = std::get_if<Response>(&body)) return *refusal;
    std::optional<Problem> problem;
    Fields fields(std::get<Json>(body), problem);
    const std::vector<uint32_t> ids =
        read_token_ids(fields, "tokens", std::min(kPromptIdsMax, config_.context_length));
    if (problem) return problem_response(*problem);
    const Result<std::string> text = text_.decode(ids, false);
    if (!text) return refused(text.error());
    return ok({{"content", *text}, {"prompt", *text}});
}

Response Api::apply_template(const Request& request) const {
    const auto body = body_of(request);
    if (const auto* refusal = std::get_if<Response>(&body)) return *refusal;
    std::optional<Problem> problem;
    Fields fields(std::get<Json>(body), problem);
    const Chat chat = read_bounded_chat(fields);
    if (problem) return problem_response(*problem);
    const Result<std::string> text = text_.render_chat(chat);
    if (!text) return refused(text.error());
    return ok({{"prompt", *text}});
}

}  // namespace chatloop::http
