// The parameters of a request, where a client's mistakes get an answer that names them.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "chatloop/core/hex.hpp"
#include "chatloop/core/limits.hpp"
#include "front.hpp"

namespace chatloop::wire {
namespace {

constexpr size_t kParametersMax = 40;  // entries; the page knows 34

const Parameters kDefaults;

float read_f32(Value value, double low, double high) {
    return static_cast<float>(value.loose_real(low, high));
}

// (0, high], in the f32 that the sampler will see
float read_above_0(Value value, double high) {
    const float number = read_f32(value, 0.0, high);
    if (!(number > 0.0f)) value.fail("is not above 0");
    return number;
}

uint32_t read_u32(Value value, uint32_t low = 0, uint32_t high = UINT32_MAX) {
    return static_cast<uint32_t>(value.loose_integer(low, high));
}

int32_t read_priority(Value value) {
    const double priority = value.loose_real(-kPriorityMax, kPriorityMax);
    if (priority != std::trunc(priority)) value.fail("is not an integer");
    return static_cast<int32_t>(priority);
}

// An id as a key of a map: a number, or its digits, as JSON has it.
uint32_t read_id_key(Value key) {
    if (!key.is_str()) return key.u32();
    constexpr size_t kDigitsMax = 10;
    const std::string digits = key.str(kDigitsMax);
    const char* const end = digits.data() + digits.size();
    uint32_t id = 0;
    const auto [stop, error] = std::from_chars(digits.data(), end, id);
    if (error != std::errc{} || stop != end) key.fail("has a key that is no token id");
    return id;
}

std::vector<LogitBias> read_logit_bias(Value value) {
    std::vector<LogitBias> biases;
    for (const auto& [key, bias] : value.pairs(kLogitBiasMax)) {
        const uint32_t id = read_id_key(key);
        biases.push_back({id, read_f32(bias, -kBiasMax, kBiasMax)});
    }
    const auto by_token = [](const LogitBias& a, const LogitBias& b) { return a.token < b.token; };
    const auto same_token = [](const LogitBias& a, const LogitBias& b) {
        return a.token == b.token;
    };
    std::sort(biases.begin(), biases.end(), by_token);
    if (std::adjacent_find(biases.begin(), biases.end(), same_token) != biases.end())
        value.fail("has a repeated key");
    return biases;
}

std::vector<Message> read_messages(Value value, Problem& problem) {
    Fields list = value.list(1, kMessagesMax);
    std::vector<Message> messages;
    for (size_t i = 0; i < list.count() && !problem.found(); ++i) {
        Entries entries = list.next().entries(5);
        Message message;
        message.role = entries.take("role").str(kNameBytesMax);
        if (auto v = entries.find("tool_calls")) message.tool_calls = v->str(kFrontBytesMax);
        if (auto v = entries.find("tool_call_id")) message.tool_call_id = v->str(kNameBytesMax);
        if (auto v = entries.find("name")) message.name = v->str(kNameBytesMax);
        const Value content = entries.take("content");
        message.has_content = message.tool_calls.empty() || !content.is_nil();
        if (message.has_content) message.content = content.str(kFrontBytesMax);
        entries.finish();
        messages.push_back(std::move(message));
    }
    return messages;
}

// A text's length is bounded by the message's; what is too long for the model is the router's to
// say.
void read_prompt(Entries& entries, Parameters& parameters, Problem& problem) {
    const std::optional<Value> prompt = entries.find("prompt");
    const std::optional<Value> messages = entries.find("messages");
    const std::optional<Value> token_ids = entries.find("token_ids");
    if (prompt.has_value() + messages.has_value() + token_ids.has_value() != 1) {
        problem.fail("parameters", "must have exactly one of prompt, messages and token_ids");
    }
    if (prompt) parameters.prompt = prompt->str(kFrontBytesMax);
    if (messages) parameters.prompt = read_messages(*messages, problem);
    if (token_ids) parameters.prompt = token_ids->numbers(kPromptIdsMax);
}

std::string read_stop_string(Value value) {
    std::string text = value.str(kStopStringBytesMax);
    if (text.empty()) value.fail("has an empty string");
    return text;
}

std::vector<std::string> read_stop(Value value) {
    if (!value.is_array()) return {read_stop_string(value)};
    Fields list = value.list(1, kStopStringsMax);
    std::vector<std::string> stop;
    for (size_t i = 0; i < list.count(); ++i) stop.push_back(read_stop_string(list.next()));
    return stop;
}

// One text that says what the answer must look like.
void read_constraint_text(Entries& entries, std::string_view key, ConstraintKind kind,
                          Parameters& parameters, Problem& problem) {
    const std::optional<Value> value = entries.find(key);
    if (!value) return;
    if (parameters.constraint)
        problem.fail(key, "is a second constraint: one of json_schema, json_object, regex, "
                          "grammar and choice");
    parameters.constraint = Constraint{kind, {value->str(kConstraintBytesMax)}};
    if (parameters.constraint->texts[0].empty()) value->fail("is empty");
}

std::vector<std::string> read_choice_texts(Value value) {
    Fields list = value.list(1, kConstraintTextsMax);
    std::vector<std::string> texts;
    size_t bytes = 0;
    for (size_t i = 0; i < list.count(); ++i) {
        texts.push_back(list.next().str(kConstraintBytesMax));
        bytes += texts.back().size();
        if (texts.back().empty()) value.fail("has an empty string");
    }
    if (bytes > kConstraintBytesMax) value.fail("is too long");
    return texts;
}

void read_constraint(Entries& entries, Parameters& parameters, Problem& problem) {
    if (auto v = entries.find("json_object"); v && v->boolean())
        parameters.constraint = Constraint{ConstraintKind::kJsonObject, {}};
    if (auto v = entries.find("choice")) {
        if (parameters.constraint) problem.fail("choice", "is a second constraint");
        parameters.constraint = Constraint{ConstraintKind::kChoice, read_choice_texts(*v)};
    }
    read_constraint_text(entries, "json_schema", ConstraintKind::kJsonSchema, parameters, problem);
    read_constraint_text(entries, "regex", ConstraintKind::kRegex, parameters, problem);
    read_constraint_text(entries, "grammar", ConstraintKind::kGrammar, parameters, problem);
}

void write_constraint(Writer& writer, const Constraint& constraint) {
    switch (constraint.kind) {
        case ConstraintKind::kJsonObject:
            writer.str("json_object").boolean(true);
            return;
        case ConstraintKind::kChoice:
            writer.str("choice").array(constraint.texts.size());
            for (const std::string& text : constraint.texts) writer.str(text);
            return;
        case ConstraintKind::kJsonSchema: writer.str("json_schema"); break;
        case ConstraintKind::kRegex: writer.str("regex"); break;
        case ConstraintKind::kGrammar: writer.str("grammar"); break;
    }
    writer.str(constraint.texts.at(0));
}

std::optional<uint32_t> read_logprobs(Value value) {
    if (value.is_nil()) return std::nullopt;
    return read_u32(value, 0, kTopLogprobsMax);
}

void write_prompt(Writer& writer, const Parameters& parameters) {
    if (const auto* text = std::get_if<std::string>(&parameters.prompt)) {
        writer.str("prompt").str(*text);
    } else if (const auto* messages = std::get_if<std::vector<Message>>(&parameters.prompt)) {
        writer.str("messages").array(messages->size());
        for (const Message& message : *messages) {
            const bool has_calls = !message.tool_calls.empty();
            const bool has_id = !message.tool_call_id.empty();
            const bool has_name = !message.name.empty();
            writer.map(2 + has_calls + has_id + has_name).str("role").str(message.role);
            writer.str("content");
            message.has_content ? writer.str(message.content) : writer.nil();
            if (has_calls) writer.str("tool_calls").str(message.tool_calls);
            if (has_id) writer.str("tool_call_id").str(message.tool_call_id);
            if (has_name) writer.str("name").str(message.name);
        }
    } else {
        writer.str("token_ids").numbers(std::get<std::vector<uint32_t>>(parameters.prompt));
    }
}

void write_logprobs(Writer& writer, std::string_view key, std::optional<uint32_t> count) {
    writer.str(key);
    count ? writer.number(*count) : writer.nil();
}

}  // namespace

void write_parameters(Writer& writer, const Parameters& p) {
    const bool has_model = !p.model.empty();
    const bool has_stop = !p.stop.empty();
    const bool has_bias = !p.logit_bias.empty();
    const bool has_trace = !p.traceparent.empty();
    const bool has_tools = !p.tools.empty();
    const bool has_kwargs = !p.chat_template_kwargs.empty();
    writer.map(18 + has_model + p.seed.has_value() + has_stop + has_bias +
               p.deadline_ms.has_value() + p.constraint.has_value() + has_tools + has_kwargs +
               has_trace);
    write_prompt(writer, p);
    if (has_model) writer.str("model").str(p.model);
    writer.str("max_tokens").number(p.max_tokens);
    writer.str("temperature").f32(p.temperature);
    writer.str("top_p").f32(p.top_p);
    writer.str("top_k").number(p.top_k);
    writer.str("min_p").f32(p.min_p);
    writer.str("typical_p").f32(p.typical_p);
    writer.str("repetition_penalty").f32(p.repetition_penalty);
    writer.str("presence_penalty").f32(p.presence_penalty);
    writer.str("frequency_penalty").f32(p.frequency_penalty);
    if (has_bias) {
        writer.str("logit_bias").map(p.logit_bias.size());
        for (const LogitBias& bias : p.logit_bias) writer.number(bias.token).f32(bias.bias);
    }
    if (p.seed) writer.str("seed").number(*p.seed);
    writer.str("n").number(p.n).str("min_tokens").number(p.min_tokens);
    if (has_stop) {
        writer.str("stop").array(p.stop.size());
        for (const std::string& text : p.stop) writer.str(text);
    }
    writer.str("stop_token_ids").numbers(p.stop_token_ids);
    writer.str("echo").boolean(p.echo);
    write_logprobs(writer, "logprobs", p.logprobs);
    write_logprobs(writer, "prompt_logprobs", p.prompt_logprobs);
    writer.str("ignore_eos").boolean(p.ignore_eos);
    writer.str("priority").signed_number(p.priority);
    if (p.deadline_ms) writer.str("deadline_ms").number(*p.deadline_ms);
    if (has_trace) writer.str("traceparent").str(p.traceparent);
    if (p.constraint) write_constraint(writer, *p.constraint);
    if (has_tools) writer.str("tools").str(p.tools);
    if (has_kwargs) writer.str("chat_template_kwargs").str(p.chat_template_kwargs);
}

Parameters read_parameters(Value value, Problem& problem) {
    Entries entries = value.entries(kParametersMax);
    Parameters p = kDefaults;
    read_prompt(entries, p, problem);
    if (auto v = entries.find("model")) p.model = v->str(kNameBytesMax);
    if (auto v = entries.find("max_tokens")) p.max_tokens = read_u32(*v);
    if (auto v = entries.find("temperature")) p.temperature = read_f32(*v, 0.0, kTemperatureMax);
    if (auto v = entries.find("top_p")) p.top_p = read_above_0(*v, 1.0);
    if (auto v = entries.find("top_k")) p.top_k = read_u32(*v);
    if (auto v = entries.find("min_p")) p.min_p = read_f32(*v, 0.0, 1.0);
    if (auto v = entries.find("typical_p")) p.typical_p = read_above_0(*v, 1.0);
    if (auto v = entries.find("repetition_penalty"))
        p.repetition_penalty = read_above_0(*v, kRepetitionPenaltyMax);
    if (auto v = entries.find("presence_penalty"))
        p.presence_penalty = read_f32(*v, -kPenaltyMax, kPenaltyMax);
    if (auto v = entries.find("frequency_penalty"))
        p.frequency_penalty = read_f32(*v, -kPenaltyMax, kPenaltyMax);
    if (auto v = entries.find("logit_bias")) p.logit_bias = read_logit_bias(*v);
    if (auto v = entries.find("seed")) p.seed = v->loose_integer(0, UINT64_MAX);
    if (auto v = entries.find("n")) p.n = read_u32(*v, 1, kChoicesMax);
    if (auto v = entries.find("min_tokens")) p.min_tokens = read_u32(*v);
    if (p.min_tokens > p.max_tokens) problem.fail("min_tokens", "is above max_tokens");
    if (auto v = entries.find("stop")) p.stop = read_stop(*v);
    if (auto v = entries.find("stop_token_ids")) p.stop_token_ids = v->numbers(kStopTokenIdsMax);
    if (auto v = entries.find("echo")) p.echo = v->boolean();
    if (auto v = entries.find("logprobs")) p.logprobs = read_logprobs(*v);
    if (auto v = entries.find("prompt_logprobs")) p.prompt_logprobs = read_logprobs(*v);
    if (auto v = entries.find("ignore_eos")) p.ignore_eos = v->boolean();
    if (auto v = entries.find("priority")) p.priority = read_priority(*v);
    if (auto v = entries.find("deadline_ms")) p.deadline_ms = read_u32(*v, 1);
    if (auto v = entries.find("traceparent")) p.traceparent = v->str(kNameBytesMax);
    read_constraint(entries, p, problem);
    const bool is_chat = std::holds_alternative<std::vector<Message>>(p.prompt);
    if (auto v = entries.find("tools")) p.tools = v->str(kFrontBytesMax);
    if (auto v = entries.find("chat_template_kwargs"))
        p.chat_template_kwargs = v->str(kFrontBytesMax);
    if (!is_chat && !(p.tools.empty() && p.chat_template_kwargs.empty()))
        problem.fail("tools and chat_template_kwargs", "go with messages alone");
    entries.finish();
    return p;
}

void write_progress(Writer& writer, const Progress& progress) {
    writer.map(4).str("prompt_ids").numbers(progress.prompt_ids);
    if (progress.choices.size() == 1) {
        writer.str("token_ids").numbers(progress.choices[0]);
    } else {
        writer.str("choices").array(progress.choices.size());
        for (const std::vector<uint32_t>& token_ids : progress.choices) writer.numbers(token_ids);
    }
    writer.str("seed").number(progress.seed);
    writer.str("fingerprint").str(progress.fingerprint);
}

Progress read_progress(Value value, uint32_t choices) {
    Entries entries = value.entries(4);
    Progress progress;
    progress.prompt_ids = entries.take("prompt_ids").numbers(kPromptIdsMax);
    if (choices == 1) {
        progress.choices = {entries.take("token_ids").numbers(kPromptIdsMax)};
    } else {
        Fields each = entries.take("choices").fields(choices);
        for (size_t i = 0; i < each.count(); ++i)
            progress.choices.push_back(each.next().numbers(kPromptIdsMax));
    }
    progress.seed = entries.take("seed").u64();
    progress.fingerprint = read_fingerprint(entries.take("fingerprint"));
    entries.finish();
    return progress;
}

std::string read_fingerprint(Value value) {
    constexpr size_t kDigits = 16;
    std::string text = value.str(kDigits);
    if (text.size() != kDigits || !is_hex(text)) value.fail("is not 16 hex digits");
    return text;
}

}  // namespace chatloop::wire
