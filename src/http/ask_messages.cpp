// Messages of a chat, and what shapes their answer: tools, constraints.
#include "ask_parts.hpp"

#include <algorithm>

#include "chatloop/core/limits.hpp"

namespace chatloop::http {

namespace {

std::string read_part(const Json& part, Fields& fields, const std::string& name) {
    const auto type = part.find("type");
    const auto text = part.find("text");
    const bool is_text = part.is_object() && type != part.end() && *type == "text" &&
                         text != part.end() && text->is_string();
    if (is_text) return text->get<std::string>();
    fields.fail(name, "is not of the form {\"type\": \"text\", \"text\": \"...\"}", "unsupported");
    return {};
}

// A string, nothing, or parts, which are joined by line ends.
std::string read_content(const Json& message, Fields& fields, const std::string& path) {
    const auto content = message.find("content");
    if (content == message.end() || content->is_null()) return {};
    if (content->is_string()) return content->get<std::string>();
    if (!content->is_array()) {
        fields.fail(path + ".content", "is neither a string nor an array of parts");
        return {};
    }
    std::string text;
    for (size_t i = 0; i < content->size() && !fields.failed(); ++i) {
        if (i > 0) text += '\n';
        text += read_part((*content)[i], fields, path + ".content[" + std::to_string(i) + "]");
    }
    return text;
}

// What only assistants and tools say stays JSON; the template gets it.
wire::Message read_message(const Json& one, const std::string& role, Fields& fields,
                           const std::string& path) {
    wire::Message message;
    message.role = role;
    message.content = read_content(one, fields, path);
    const auto present = [&](const char* name) {
        const auto value = one.find(name);
        return value == one.end() || value->is_null() ? nullptr : &*value;
    };
    if (const Json* calls = present("tool_calls"); calls != nullptr && role == "assistant") {
        const bool objects = calls->is_array() &&
                             std::all_of(calls->begin(), calls->end(),
                                         [](const Json& call) { return call.is_object(); });
        if (!objects) fields.fail(path + ".tool_calls", "is not an array of calls");
        if (objects && !calls->empty()) message.tool_calls = to_text(*calls);
    }
    message.has_content = message.tool_calls.empty() || present("content") != nullptr;
    const auto text = [&](const char* name) {
        const Json* value = present(name);
        if (value == nullptr) return std::string();
        const bool good = value->is_string() &&
                          value->get_ref<const std::string&>().size() <= kNameBytesMax;
        if (!good) fields.fail(path + "." + name, "is not a short string");
        return good ? value->get<std::string>() : std::string();
    };
    message.tool_call_id = text("tool_call_id");
    message.name = text("name");
    return message;
}

void constrain(Fields& fields, wire::Parameters& p, const char* name, ConstraintKind kind,
               std::vector<std::string> texts) {
    if (p.constraint) return fields.fail(name, "is a second constraint");
    size_t bytes = 0;
    for (const std::string& text : texts) {
        bytes += text.size();
        if (text.empty()) fields.fail(name, "is empty");
    }
    if (bytes > kConstraintBytesMax) fields.fail(name, "is too long");
    p.constraint = Constraint{kind, std::move(texts)};
}

void read_response_format(Fields& fields, wire::Parameters& p) {
    const Json* format = fields.find("response_format");
    if (format == nullptr) return;
    const auto type = format->find("type");
    const std::string name =
        type != format->end() && type->is_string() ? type->get<std::string>() : "";
    if (name == "text") return;
    if (name == "json_object")
        return constrain(fields, p, "response_format", ConstraintKind::kJsonObject, {});
    if (name != "json_schema")
        return fields.fail("response_format.type",
                           "is none of text, json_object and json_schema");
    const auto outer = format->find("json_schema");
    const bool has_schema = outer != format->end() && outer->is_object() &&
                            outer->contains("schema") && outer->at("schema").is_object();
    if (!has_schema)
        return fields.fail("response_format.json_schema.schema", "is missing or not an object");
    constrain(fields, p, "response_format", ConstraintKind::kJsonSchema,
              {to_text(outer->at("schema"))});
}

std::string choice_name(const Json& choice) {
    const auto function = choice.find("function");
    if (function == choice.end()) return {};
    const auto name = function->find("name");
    return name != function->end() && name->is_string() ? name->get<std::string>() : "";
}

}  // namespace

std::vector<wire::Message> read_messages(Fields& fields) {
    std::vector<wire::Message> messages;
    const Json* list = fields.find("messages");
    if (list == nullptr) {
        fields.fail("messages", "is missing");
        return messages;
    }
    if (!list->is_array() || list->empty() || list->size() > kMessagesMax) {
        fields.fail("messages", "is not an array of 1 to " + std::to_string(kMessagesMax) +
                                    " messages");
        return messages;
    }
    for (size_t i = 0; i < list->size() && !fields.failed(); ++i) {
        const Json& one = (*list)[i];
        const std::string path = "messages[" + std::to_string(i) + "]";
        const auto role = one.find("role");
        if (!one.is_object() || role == one.end() || !role->is_string()) {
            fields.fail(path + ".role", "is missing or not a string");
            return messages;
        }
        const std::string name = role->get<std::string>();
        const bool known = name == "system" || name == "developer" || name == "user" ||
                           name == "assistant" || name == "tool";
        if (!known)
            fields.fail(path + ".role",
                        "is none of system, developer, user, assistant and tool");
        messages.push_back(read_message(one, name, fields, path));
    }
    return messages;
}

// response_format, and the constraints of docs/constrained.md by their names.
void read_constraint(Fields& fields, wire::Parameters& p) {
    read_response_format(fields, p);
    if (const Json* schema = fields.find("json_schema")) {
        if (!schema->is_object()) fields.fail("json_schema", "is not an object");
        constrain(fields, p, "json_schema", ConstraintKind::kJsonSchema, {to_text(*schema)});
    }
    for (const auto& [name, kind] : {std::pair{"regex", ConstraintKind::kRegex},
                                     std::pair{"grammar", ConstraintKind::kGrammar}})
        if (fields.find(name) != nullptr)
            constrain(fields, p, name, kind, {fields.text(name, kConstraintBytesMax)});
    if (const Json* choice = fields.find("choice")) {
        std::vector<std::string> texts;
        const bool good = choice->is_array() && !choice->empty() &&
                          choice->size() <= kConstraintTextsMax &&
                          std::all_of(choice->begin(), choice->end(),
                                      [](const Json& one) { return one.is_string(); });
        if (!good) return fields.fail("choice", "is not an array of strings");
        for (const Json& one : *choice) texts.push_back(one.get<std::string>());
        constrain(fields, p, "choice", ConstraintKind::kChoice, std::move(texts));
    }
}

void read_tools(Fields& fields, Ask& ask) {
    ask.parallel_tool_calls = fields.boolean("parallel_tool_calls").value_or(true);
    const Json* tools = fields.find("tools");
    if (tools != nullptr && !tools->is_array()) fields.fail("tools", "is not an array");
    const bool some = tools != nullptr && tools->is_array() && !tools->empty();
    const Json* choice = fields.find("tool_choice");
    if (choice != nullptr) {
        const std::string word = choice->is_string() ? choice->get<std::string>() : "";
        ask.called_tool = choice->is_object() ? choice_name(*choice) : "";
        ask.tool_required = word == "required" || !ask.called_tool.empty();
        if (!ask.tool_required && word != "auto" && word != "none")
            fields.fail("tool_choice",
                        "is neither none, auto, required nor a named function");
        if (ask.tool_required && !some) fields.fail("tool_choice", "needs tools");
        if (word == "none") return;
    }
    if (!some) return;
    ask.parameters.tools = to_text(*tools);
    if (ask.tool_required && ask.parameters.constraint)
        fields.fail("tool_choice", "and response_format exclude each other");
}

void read_template_arguments(Fields& fields, wire::Parameters& p) {
    const Json* arguments = fields.find("chat_template_kwargs");
    if (arguments == nullptr) return;
    if (!arguments->is_object()) return fields.fail("chat_template_kwargs", "is not an object");
    if (!arguments->empty()) p.chat_template_kwargs = to_text(*arguments);
}

}  // namespace chatloop::http
