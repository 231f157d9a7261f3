// For journal_test.cpp: a folder in memory, processes of a router that use it, and answers as a
// router that is not disturbed gives them.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "api_harness.hpp"

namespace chatloop::http {

inline constexpr ExchangeId kFirst = 1;

class FakeJournal final : public Journal {
public:
    std::map<std::string, wire::Bytes> files;
    std::vector<size_t> ends;  // of what was written of the one file, call by call
    bool begins = true;
    bool appends = true;

    Status begin(const std::string& key, wire::ByteView records) override {
        if (!begins) return Error{ErrorCode::kQueueFull, "the disk is full"};
        files[key].assign(records.begin(), records.end());
        ends.push_back(records.size());
        return Ok{};
    }
    bool append(const std::string& key, wire::ByteView records) override {
        if (!appends) return false;
        wire::Bytes& file = files[key];
        file.insert(file.end(), records.begin(), records.end());
        ends.push_back(file.size());
        return true;
    }
    std::vector<std::string> closed;
    void close(const std::string& key) override { closed.push_back(key); }
    void drop(const std::string& key) override { files.erase(key); }
};

// A process of the router: its Api, the journal's folder, a client's exchanges.
struct Process {
    CharText text;
    FakeResponder responder;
    FakeJournal& journal;
    std::vector<std::pair<std::string, wire::ClientBody>> sent;
    Api api;
    Site site;
    ExchangeId last = kFirst;

    Process(FakeJournal& kept, int64_t unix_time)
        : journal(kept),
          api(ApiConfig{"m", 64, "00112233445566aa", static_cast<uint64_t>(unix_time),
                        [unix_time] { return unix_time; }, [] { return std::string("abc"); },
                        30 * kSecondUs, &journal},
              responder, text,
              [this](const std::string& client, const wire::ClientBody& body, TimeUs) {
                  sent.emplace_back(client, body);
              }) {
        api.serve(site);
    }
    int ask(const std::string& method, const std::string& path, const std::string& body,
            const std::string& seen = {}) {
        Request request;
        request.method = method;
        request.path = path;
        request.peer = "10.0.0.1";
        request.body = body;
        if (!seen.empty()) request.headers = {{"last-event-id", seen}};
        REQUIRE_FALSE(site.on_head(request));
        if (auto response = site.on_request(++last, request, 0)) responder.respond(last, *response);
        return responder.answers.contains(last) ? responder.answers.at(last).head.status : 0;
    }
    // How many bytes were of use; then the router has heard of it.
    size_t restore(const wire::Bytes& bytes) {
        const std::optional<Api::Restored> restored = api.restore(bytes);
        if (!restored) return 0;
        CHECK(restored->key == "abc");
        api.on_tick(0);
        CHECK(restored->has_ended == (api.running() == 0));
        return restored->bytes;
    }
    const std::string& body() { return responder.answers.at(last).body; }
    template <class T>
    std::vector<T> all() const {
        std::vector<T> found;
        for (const auto& [client, message] : sent)
            if (const T* one = std::get_if<T>(&message)) found.push_back(*one);
        return found;
    }
};

// One answer: what is asked, and what a router says that is not disturbed.
struct Answer {
    std::string path;
    std::string body;
    std::vector<wire::RouterBody> said;  // of request "r", whose true id is put in
};

inline wire::Piece piece(uint32_t choice, uint32_t index, uint64_t offset, const std::string& text,
                  bool has_token = true) {
    wire::Piece piece;
    piece.choice = choice;
    piece.index = index;
    piece.text_offset = offset;
    piece.text = text;
    if (has_token) piece.token_ids = {index + 40};
    return piece;
}

inline wire::RouterBody with_id(wire::RouterBody message, const std::string& id) {
    std::visit([&id](auto& one) {
        if constexpr (requires { one.request_id; }) one.request_id = id;
    }, message);
    return message;
}

inline wire::Accepted accepted() {
    wire::Accepted message;
    message.prompt_ids = {1, 2, 3};
    message.seed = 9;
    message.fingerprint = "00112233445566aa";
    message.model = "m";
    return message;
}

inline Answer two_choices() {
    return {"/v1/chat/completions",
            R"({"messages": [{"role": "user", "content": "a"}], "n": 2, "stream": true,
                "stream_options": {"include_usage": true, "resumable": true}})",
            {accepted(), piece(0, 0, 0, "a"), piece(1, 0, 0, "x"), piece(1, 1, 1, ""),
             piece(1, 2, 1, "yz"), piece(1, 3, 3, "held back", false),
             wire::ChoiceDone{"", 1, "stop", {}, 3}, piece(0, 1, 1, "b"),
             wire::ChoiceDone{"", 0, "length", {}, 2},
             wire::Done{"", "length", {}, 3, 0, 5, 0, 0, 0}}};
}

inline Answer with_logprobs() {
    const auto entry = [](uint32_t id) {
        return wire::TokenEntry{id, -0.5f, {{id, -0.5f}}};
    };
    Answer answer{"/v1/completions",
                  R"({"prompt": "abc", "echo": true, "logprobs": 1, "stream": true,
                      "stream_options": {"resumable": true}})",
                  {accepted()}};
    std::get<wire::Accepted>(answer.said[0]).prompt_text = "abc";
    answer.said.push_back(wire::PromptPiece{"", 0, {std::nullopt}});
    answer.said.push_back(wire::PromptPiece{"", 1, {entry(2), entry(3)}});
    for (uint32_t i = 0; i < 3; ++i) {
        wire::Piece one = piece(0, i, 2 * i, "wo");
        one.logprobs = {entry(i + 40)};
        answer.said.push_back(one);
    }
    answer.said.push_back(wire::Done{"", "length", {}, 3, 0, 3, 0, 0, 0});
    return answer;
}

inline Answer with_tools() {
    Answer answer{"/v1/chat/completions",
                  R"({"messages": [{"role": "user", "content": "a"}], "stream": true,
                      "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
                      "stream_options": {"resumable": true}})",
                  {accepted()}};
    uint32_t index = 0;
    uint64_t offset = 0;
    for (const std::string text : {"so ", "<tool_call>\n{\"name\": \"f\", ",
                                   "\"arguments\": {\"a\"", ": 1}}\n", "</tool_call>"}) {
        answer.said.push_back(piece(0, index++, offset, text));
        offset += text.size();
    }
    answer.said.push_back(wire::Done{"", "stop", {}, 3, 0, index, 0, 0, 0});
    return answer;
}

inline Answer executed() {
    return {"/execute",
            R"({"prompt": "abc", "stream": true, "stream_options": {"resumable": true}})",
            {accepted(), piece(0, 0, 0, "a"), piece(0, 1, 1, "b"),
             wire::Done{"", "stop", uint32_t{7}, 3, 0, 2, 0, 0, 0}}};
}

inline Answer failing() {
    Answer answer = two_choices();
    answer.said.resize(5);
    wire::Failure failure;
    failure.code = "no_route";
    failure.message = "nobody is there";
    answer.said.push_back(failure);
    return answer;
}

inline const std::vector<Answer> kAnswers = {two_choices(), with_logprobs(), with_tools(),
                                             executed(), failing()};

// What a router says to RESUME: what its tokens do not tell.
inline void take_up(Process& process, const Answer& answer, const wire::Resume& resume) {
    for (const wire::RouterBody& message : answer.said) {
        const auto* one = std::get_if<wire::Piece>(&message);
        const bool is_known = one != nullptr && !one->token_ids.empty() &&
                              one->index < resume.progress.choices.at(one->choice).size();
        const bool is_unasked = std::holds_alternative<wire::PromptPiece>(message) &&
                                !resume.parameters.prompt_logprobs;
        if (!is_known && !is_unasked)
            process.api.on_router(with_id(message, resume.request_id), 0);
    }
}

}  // namespace chatloop::http
