// The API with a router that the test plays: what it was sent is kept, what it says is said here.
#pragma once

#include <doctest/doctest.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "chatloop/http/api.hpp"

namespace chatloop::http {

// A token is a printable character; the template knows tools in the Hermes form.
class CharText final : public TextEngine {
public:
    Result<std::vector<uint32_t>> encode_plain(std::string_view text) const override {
        std::vector<uint32_t> ids;
        for (const char c : text) ids.push_back(static_cast<uint32_t>(c - 32));
        return ids;
    }
    Result<std::vector<uint32_t>> encode_chat(const Chat&) const override {
        return std::vector<uint32_t>{1};
    }
    Result<std::string> render_chat(const Chat&) const override { return std::string("chat"); }
    std::string chat_template() const override { return "{{ tools }}<tool_call>"; }
    Result<std::unique_ptr<Matcher>> match(const Constraint&) const override {
        return Error{ErrorCode::kUnsupported, "not here"};
    }
    std::unique_ptr<TextStream> stream(bool) const override { return nullptr; }
    Result<std::string> decode(std::span<const uint32_t> ids, bool) const override {
        std::string text;
        for (const uint32_t id : ids) text += static_cast<char>(32 + id);
        return text;
    }
    int32_t vocab_size() const override { return 95; }
};

class FakeResponder final : public Responder {
public:
    struct Answer {
        Response head;
        std::string body;
        bool ended = false;
    };
    std::map<ExchangeId, Answer> answers;

    void respond(ExchangeId id, Response response) override {
        CHECK_FALSE(answers.contains(id));
        answers[id] = {response, response.body, true};
    }
    void start_stream(ExchangeId id, Response head) override { answers[id] = {head, "", false}; }
    void write(ExchangeId id, std::string_view bytes) override { answers.at(id).body += bytes; }
    void end(ExchangeId id) override { answers.at(id).ended = true; }
    void abort(ExchangeId id) override { answers[id].ended = true; }

    // The data of each event; "[DONE]" as a string.
    std::vector<Json> events(ExchangeId id) const {
        std::vector<Json> found;
        const std::string& body = answers.at(id).body;
        for (size_t at = 0; at < body.size();) {
            const size_t end = body.find("\n\n", at);
            REQUIRE(end != body.npos);
            REQUIRE(body.compare(at, 6, "data: ") == 0);
            const std::string data = body.substr(at + 6, end - at - 6);
            found.push_back(data == "[DONE]" ? Json(data) : Json::parse(data));
            at = end + 2;
        }
        return found;
    }
};

struct Harness {
    CharText text;
    FakeResponder responder;
    std::vector<std::pair<std::string, wire::ClientBody>> sent;
    uint64_t streams = 0;
    Api api{ApiConfig{"m", 64, "00112233445566aa", 7, [] { return int64_t{1000}; },
                      [this] { return "key-" + std::to_string(++streams); }},
            responder, text,
            [this](const std::string& client, const wire::ClientBody& body, TimeUs) {
                sent.emplace_back(client, body);
            }};
    Site site;

    Harness() { api.serve(site); }

    // A response that comes at once also ends in the responder.
    void post(ExchangeId id, const std::string& path, const std::string& body) {
        Request request;
        request.method = "POST";
        request.path = path;
        request.peer = "10.0.0.1";
        request.body = body;
        REQUIRE_FALSE(site.on_head(request));
        if (auto response = site.on_request(id, request, 0)) responder.respond(id, *response);
    }
    const wire::Submit& submitted(size_t index) {
        return std::get<wire::Submit>(sent.at(index).second);
    }
    std::vector<std::string> cancelled() const {
        std::vector<std::string> ids;
        for (const auto& [client, body] : sent)
            if (const auto* cancel = std::get_if<wire::Cancel>(&body))
                ids.push_back(cancel->request_id);
        return ids;
    }
    void accept(const std::string& request, std::vector<uint32_t> ids = {1, 2}) {
        wire::Accepted accepted;
        accepted.request_id = request;
        accepted.prompt_ids = std::move(ids);
        accepted.seed = 9;
        api.on_router(accepted, 0);
    }
    void piece(const std::string& request, uint32_t choice, const std::string& words) {
        Said& said = said_[{request, choice}];
        wire::Piece piece;
        piece.request_id = request;
        piece.choice = choice;
        piece.index = said.tokens++;
        piece.token_ids = {3};
        piece.text = words;
        piece.text_offset = said.text_bytes;
        said.text_bytes += words.size();
        api.on_router(piece, 0);
    }
    void done(const std::string& request, const std::string& reason, uint32_t tokens) {
        api.on_router(wire::Done{request, reason, {}, 2, 1, tokens, 0, 0, 0}, 0);
    }

private:
    struct Said {
        uint32_t tokens = 0;
        uint64_t text_bytes = 0;
    };
    std::map<std::pair<std::string, uint32_t>, Said> said_;  // of a request's choice
};

}  // namespace chatloop::http
