// Three surfaces, one set of parameters.
#include "chatloop/http/ask.hpp"

#include <algorithm>
#include <charconv>

#include "ask_parts.hpp"
#include "chatloop/core/limits.hpp"

namespace chatloop::http {

namespace {

constexpr uint32_t kTopLogprobsOfOpenAi = 20;

float above_zero(Fields& fields, const char* name, double high, float fallback) {
    const std::optional<double> value = fields.number(name, 0.0, high);
    if (!value) return fallback;
    const auto number = static_cast<float>(*value);
    if (!(number > 0.0f)) fields.fail(name, "is not above 0");
    return number;
}

template <class T>
T integer(Fields& fields, const char* name, int64_t low, int64_t high, T fallback) {
    const std::optional<int64_t> value = fields.integer(name, low, high);
    return value ? static_cast<T>(*value) : fallback;
}

float real(Fields& fields, const char* name, double low, double high, float fallback) {
    const std::optional<double> value = fields.number(name, low, high);
    return value ? static_cast<float>(*value) : fallback;
}

std::vector<std::string> read_stop(Fields& fields) {
    const Json* value = fields.find("stop");
    if (value == nullptr) return {};
    std::vector<std::string> stop;
    const auto add = [&](const Json& one) {
        if (!one.is_string())
            return fields.fail("stop", "is neither a string nor an array of them");
        const std::string& text = one.get_ref<const std::string&>();
        if (text.empty()) return fields.fail("stop", "has an empty string");
        if (text.size() > kStopStringBytesMax) return fields.fail("stop", "has too long a string");
        stop.push_back(text);
    };
    if (!value->is_array()) {
        add(*value);
        return stop;
    }
    if (value->size() > kStopStringsMax) {
        fields.fail("stop", "has more than " + std::to_string(kStopStringsMax) + " strings");
        return stop;
    }
    for (const Json& one : *value) add(one);
    return stop;
}

std::vector<wire::LogitBias> read_logit_bias(Fields& fields) {
    const Json* value = fields.find("logit_bias");
    if (value == nullptr) return {};
    std::vector<wire::LogitBias> biases;
    if (!value->is_object() || value->size() > kLogitBiasMax) {
        fields.fail("logit_bias", "is not an object of at most " + std::to_string(kLogitBiasMax) +
                                      " token ids");
        return biases;
    }
    for (const auto& [key, bias] : value->items()) {
        uint32_t id = 0;
        const char* const end = key.data() + key.size();
        const auto [stop, error] = std::from_chars(key.data(), end, id);
        const bool in_range = bias.is_number() && bias.get<double>() >= -kBiasMax &&
                              bias.get<double>() <= kBiasMax;
        if (error != std::errc() || stop != end || key.empty() || !in_range)
            fields.fail("logit_bias", "does not map token ids to numbers from -100 to 100");
        if (fields.failed()) return biases;
        biases.push_back({id, bias.get<float>()});
    }
    std::sort(biases.begin(), biases.end(),
              [](const auto& a, const auto& b) { return a.token < b.token; });
    const auto twice =
        std::adjacent_find(biases.begin(), biases.end(),
                           [](const auto& a, const auto& b) { return a.token == b.token; });
    if (twice != biases.end()) fields.fail("logit_bias", "has a token id twice");
    return biases;
}

bool is_id(const Json& value) {
    return value.is_number_unsigned() && value.get<uint64_t>() <= UINT32_MAX;
}

std::vector<uint32_t> ids_of(const Json& array) {
    std::vector<uint32_t> ids;
    ids.reserve(array.size());
    for (const Json& value : array) ids.push_back(value.get<uint32_t>());
    return ids;
}

bool are_ids(const Json& value) {
    return value.is_array() && !value.empty() && value.size() <= kPromptIdsMax &&
           std::all_of(value.begin(), value.end(), is_id);
}

// What all surfaces have in common.
void read_parameters(Fields& fields, Ask& ask, float temperature) {
    wire::Parameters& p = ask.parameters;
    ask.stream = fields.boolean("stream").value_or(false);
    if (const Json* options = fields.find("stream_options")) {
        if (!options->is_object()) {
            fields.fail("stream_options", "is not an object");
        } else {
            Fields inner = fields.within(*options, "stream_options");
            ask.include_usage = inner.boolean("include_usage").value_or(false) && ask.stream;
            ask.resumable = inner.boolean("resumable").value_or(false) && ask.stream;
        }
    }
    p.model = fields.text("model", kNameBytesMax);
    p.temperature = real(fields, "temperature", 0.0, kTemperatureMax, temperature);
    p.top_p = above_zero(fields, "top_p", 1.0, 1.0f);
    p.top_k = static_cast<uint32_t>(
        std::max<int64_t>(0, integer<int64_t>(fields, "top_k", -1, INT32_MAX, 0)));
    p.min_p = real(fields, "min_p", 0.0, 1.0, 0.0f);
    p.typical_p = above_zero(fields, "typical_p", 1.0, 1.0f);
    const char* repetition = fields.find("repetition_penalty") ? "repetition_penalty"
                                                               : "repeat_penalty";
    p.repetition_penalty = above_zero(fields, repetition, kRepetitionPenaltyMax, 1.0f);
    p.presence_penalty = real(fields, "presence_penalty", -kPenaltyMax, kPenaltyMax, 0.0f);
    p.frequency_penalty = real(fields, "frequency_penalty", -kPenaltyMax, kPenaltyMax, 0.0f);
    p.logit_bias = read_logit_bias(fields);
    if (const auto seed = fields.integer("seed", INT64_MIN, INT64_MAX))
        p.seed = static_cast<uint64_t>(*seed);
    p.n = integer<uint32_t>(fields, "n", 1, kChoicesMax, 1);
    p.min_tokens = integer<uint32_t>(fields, "min_tokens", 0, UINT32_MAX, 0);
    p.stop = read_stop(fields);
    if (fields.find("stop_token_ids") != nullptr)
        p.stop_token_ids = read_token_ids(fields, "stop_token_ids", kStopTokenIdsMax);
    p.ignore_eos = fields.boolean("ignore_eos").value_or(false);
    read_constraint(fields, p);
    p.priority = integer<int32_t>(fields, "priority", -kPriorityMax, kPriorityMax, 0);
    if (const auto deadline = fields.integer("deadline_ms", 1, UINT32_MAX))
        p.deadline_ms = static_cast<uint32_t>(*deadline);
}

void read_max_tokens(Fields& fields, wire::Parameters& p, int64_t low, uint32_t fallback) {
    p.max_tokens = integer<uint32_t>(fields, "max_tokens", low, UINT32_MAX, fallback);
    p.max_tokens = integer<uint32_t>(fields, "max_completion_tokens", low, UINT32_MAX,
                                     p.max_tokens);
    if (p.min_tokens > p.max_tokens) fields.fail("min_tokens", "is above max_tokens");
}

// What the servers of others have and this one has not, where ignoring it would change the answer.
void refuse_fields(Fields& fields, std::initializer_list<const char*> names) {
    for (const char* name : names)
        if (fields.find(name) != nullptr) fields.fail(name, "is not supported", "unsupported");
}

void read_prompts(Fields& fields, Ask& ask) {
    const Json* prompt = fields.find("prompt");
    if (prompt == nullptr) return fields.fail("prompt", "is missing");
    if (prompt->is_string()) {
        ask.prompts.emplace_back(prompt->get<std::string>());
    } else if (are_ids(*prompt)) {
        ask.prompts.emplace_back(ids_of(*prompt));
    } else if (!prompt->is_array() || prompt->empty() || prompt->size() > kHttpPromptsMax) {
        fields.fail("prompt",
                    "is neither a string, an array of token ids, nor an array of at most " +
                        std::to_string(kHttpPromptsMax) + " of these");
    } else {
        for (const Json& one : *prompt) {
            if (one.is_string()) {
                ask.prompts.emplace_back(one.get<std::string>());
            } else if (are_ids(one)) {
                ask.prompts.emplace_back(ids_of(one));
            } else {
                return fields.fail("prompt", "has an element that is neither a string nor an array "
                                             "of token ids");
            }
        }
    }
}

AskOrProblem result(std::optional<Problem>& problem, Ask& ask) {
    if (problem) return std::move(*problem);
    return std::move(ask);
}

}  // namespace

std::vector<uint32_t> read_token_ids(Fields& fields, const char* name, size_t count_max) {
    const Json* value = fields.find(name);
    if (value == nullptr) {
        fields.fail(name, "is missing");
        return {};
    }
    if (value->is_array() && value->size() <= count_max &&
        std::all_of(value->begin(), value->end(), is_id))
        return ids_of(*value);
    fields.fail(name, "is not an array of at most " + std::to_string(count_max) + " token ids");
    return {};
}

AskOrProblem read_chat(const Json& body) {
    std::optional<Problem> problem;
    Fields fields(body, problem);
    Ask ask;
    ask.surface = Surface::kChat;
    read_parameters(fields, ask, 1.0f);
    read_max_tokens(fields, ask.parameters, 1, UINT32_MAX);
    const bool wants = fields.boolean("logprobs").value_or(false);
    const auto top = integer<uint32_t>(fields, "top_logprobs", 0, kTopLogprobsOfOpenAi, 0);
    if (wants) ask.parameters.logprobs = top;
    if (!wants && top > 0) fields.fail("top_logprobs", "needs logprobs");
    refuse_fields(fields, {"audio", "functions", "function_call"});
    ask.prompts.emplace_back(read_messages(fields));
    read_tools(fields, ask);
    read_template_arguments(fields, ask.parameters);
    return result(problem, ask);
}

AskOrProblem read_completion(const Json& body) {
    constexpr uint32_t kMaxTokensOfOpenAi = 16;
    std::optional<Problem> problem;
    Fields fields(body, problem);
    Ask ask;
    ask.surface = Surface::kText;
    read_parameters(fields, ask, 1.0f);
    read_max_tokens(fields, ask.parameters, 0, kMaxTokensOfOpenAi);
    wire::Parameters& p = ask.parameters;
    p.echo = fields.boolean("echo").value_or(false);
    if (const auto top = fields.integer("logprobs", 0, kTopLogprobsOfOpenAi)) {
        p.logprobs = static_cast<uint32_t>(*top);
        if (p.echo) p.prompt_logprobs = p.logprobs;
    }
    if (p.max_tokens == 0 && !p.echo) fields.fail("max_tokens", "may be 0 with echo only");
    refuse_fields(fields, {"suffix"});
    if (const auto best_of = fields.integer("best_of", 1, kChoicesMax); best_of && *best_of != p.n)
        fields.fail("best_of", "is not supported beside n", "unsupported");
    read_prompts(fields, ask);
    return result(problem, ask);
}

// Deterministic unless told otherwise: the worker interface of docs/http.md.
AskOrProblem read_execute(const Json& body) {
    std::optional<Problem> problem;
    Fields fields(body, problem);
    Ask ask;
    ask.surface = Surface::kExecute;
    read_parameters(fields, ask, 0.0f);
    read_max_tokens(fields, ask.parameters, 1, wire::Parameters().max_tokens);
    if (ask.parameters.n != 1) fields.fail("n", "is 1 here");
    if (fields.find("prompt") != nullptr && fields.find("messages") != nullptr) {
        fields.fail("prompt", "and messages exclude each other");
    } else if (fields.find("messages") != nullptr) {
        ask.prompts.emplace_back(read_messages(fields));
    } else {
        const Json* prompt = fields.find("prompt");
        if (prompt == nullptr || !prompt->is_string()) fields.fail("prompt", "is not a string");
        ask.prompts.emplace_back(fields.text("prompt", kHttpBodyBytesMax));
    }
    return result(problem, ask);
}

}  // namespace chatloop::http
