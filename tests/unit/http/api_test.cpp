#include "chatloop/http/api.hpp"

#include <doctest/doctest.h>

#include <algorithm>

#include "api_harness.hpp"
#include "chatloop/http/health.hpp"

using namespace chatloop;
using namespace chatloop::http;

TEST_CASE("a whole answer is put together from pieces") {
    Harness h;
    h.post(1, "/v1/completions", R"({"prompt": "abc", "n": 2, "temperature": 0})");
    REQUIRE(h.sent.size() == 1);
    CHECK(h.sent[0].first == std::string(kClientPrefix) + "10.0.0.1");
    const wire::Submit submit = h.submitted(0);
    CHECK(std::get<std::string>(submit.parameters.prompt) == "abc");
    const std::string id = submit.request_id;
    h.accept(id);
    h.piece(id, 1, "x");
    h.piece(id, 0, "a");
    h.piece(id, 0, "b");
    h.api.on_router(wire::ChoiceDone{id, 0, "length", {}, 2}, 0);
    h.api.on_router(wire::ChoiceDone{id, 1, "stop", {}, 1}, 0);
    CHECK(h.responder.answers.empty());
    h.done(id, "length", 3);
    const Json body = Json::parse(h.responder.answers.at(1).body);
    CHECK(body["id"] == id);
    CHECK(body["created"] == 1000);
    CHECK(body["system_fingerprint"] == "fp_00112233445566aa");
    CHECK(body["choices"][0]["text"] == "ab");
    CHECK(body["choices"][1]["text"] == "x");
    CHECK(body["choices"][1]["finish_reason"] == "stop");
    CHECK(body["usage"]["total_tokens"] == 5);
    CHECK(body["usage"]["prompt_tokens_details"]["cached_tokens"] == 1);
    CHECK(h.api.running() == 0);
}

TEST_CASE("a stream begins when the request was accepted and says usage last") {
    Harness h;
    h.post(1, "/v1/chat/completions",
           R"({"messages": [{"role": "user", "content": "a"}], "stream": true,
               "stream_options": {"include_usage": true}})");
    CHECK(h.responder.answers.empty());
    const std::string id = h.submitted(0).request_id;
    h.accept(id);
    h.piece(id, 0, "");  // a part of a character
    h.piece(id, 0, "word");
    h.done(id, "stop", 2);
    const std::vector<Json> events = h.responder.events(1);
    REQUIRE(events.size() == 5);
    CHECK(events[0]["choices"][0]["delta"] == Json({{"role", "assistant"}, {"content", ""}}));
    CHECK(events[1]["choices"][0]["delta"] == Json({{"content", "word"}}));
    CHECK(events[2]["choices"][0]["delta"] == Json::object());
    CHECK(events[2]["choices"][0]["finish_reason"] == "stop");
    CHECK(events[3]["choices"].empty());
    CHECK(events[3]["usage"]["completion_tokens"] == 2);
    CHECK(events[4] == "[DONE]");
    CHECK(h.responder.answers.at(1).ended);
}

TEST_CASE("an error before the stream is a status, one within it is an event and the end") {
    for (const bool late : {false, true}) {
        Harness h;
        h.post(1, "/v1/completions", R"({"prompt": ["a", "b"], "stream": true})");
        REQUIRE(h.sent.size() == 2);
        const std::string first = h.submitted(0).request_id;
        const std::string second = h.submitted(1).request_id;
        if (late) h.accept(first);
        h.api.on_router(wire::Failure{first, "queue_full", "full", true, 0, 2500}, 0);
        const auto& answer = h.responder.answers.at(1);
        CHECK(answer.ended);
        CHECK(h.cancelled() == std::vector<std::string>{second});
        if (late) {
            const std::vector<Json> events = h.responder.events(1);
            CHECK(events.back()["error"]["code"] == "queue_full");
        } else {
            CHECK(answer.head.status == 429);
            CHECK(std::count(answer.head.headers.begin(), answer.head.headers.end(),
                             std::pair<std::string, std::string>{"Retry-After", "3"}) == 1);
        }
        h.done(second, "cancelled", 0);  // nobody is interested any more
        CHECK(h.api.running() == 0);
    }
}

TEST_CASE("a client that goes cancels all that it asked for") {
    Harness h;
    h.post(1, "/v1/completions", R"({"prompt": ["a", "b"]})");
    const std::string second = h.submitted(1).request_id;
    const std::string first = h.submitted(0).request_id;
    h.accept(first);
    h.done(first, "stop", 1);
    h.api.on_gone(1, 0);
    CHECK(h.cancelled() == std::vector<std::string>{second});
    h.api.on_gone(1, 0);
    CHECK(h.cancelled().size() == 1);
    CHECK(h.api.running() == 0);
}

TEST_CASE("log-probabilities in both shapes") {
    const auto entry = [](uint32_t token, float logprob) {
        return wire::TokenEntry{token, logprob, {{token, logprob}, {33, -2.0f}}};
    };
    Harness h;
    h.post(1, "/v1/completions",
           R"({"prompt": [34, 35], "echo": true, "logprobs": 2, "max_tokens": 1})");
    const wire::Submit submit = h.submitted(0);
    CHECK(submit.parameters.prompt_logprobs == 2u);
    wire::Accepted accepted{submit.request_id, {34, 35}, 1, "", "m", "BC"};
    h.api.on_router(accepted, 0);
    h.api.on_router(wire::PromptPiece{submit.request_id, 0, {std::nullopt, entry(35, -1.5f)}}, 0);
    wire::Piece piece{submit.request_id, 0, {36}, "D", 2, {{entry(36, -0.5f)}}, 0};
    h.api.on_router(piece, 0);
    h.done(submit.request_id, "length", 1);
    const Json choice = Json::parse(h.responder.answers.at(1).body)["choices"][0];
    CHECK(choice["text"] == "BCD");
    CHECK(choice["logprobs"]["tokens"] == Json({"B", "C", "D"}));
    CHECK(choice["logprobs"]["token_logprobs"] == Json({nullptr, -1.5, -0.5}));
    CHECK(choice["logprobs"]["text_offset"] == Json({0, 1, 2}));
    CHECK(choice["logprobs"]["top_logprobs"][1] == Json({{"C", -1.5}, {"A", -2.0}}));

    h.post(2, "/v1/chat/completions", R"({"messages": [{"role": "user", "content": "a"}],
        "logprobs": true, "top_logprobs": 2})");
    piece.request_id = h.submitted(1).request_id;
    h.accept(piece.request_id);
    h.api.on_router(piece, 0);
    h.done(piece.request_id, "length", 1);
    const Json token = Json::parse(h.responder.answers.at(2).body)["choices"][0]["logprobs"]
                                  ["content"][0];
    CHECK(token["token"] == "D");
    CHECK(token["bytes"] == Json({68}));
    CHECK(token["top_logprobs"][1]["token"] == "A");
}

TEST_CASE("tool calls leave the text, whole and streamed") {
    const std::string request = R"({"messages": [{"role": "user", "content": "a"}], "tools":
        [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}])";
    const std::vector<std::string> pieces = {"see <tool", "_call>{\"name\": \"f\", \"argum",
                                             "ents\": {\"x\": 1}}", "</tool_call>"};
    Harness h;
    h.post(1, "/v1/chat/completions", request + "}");
    h.post(2, "/v1/chat/completions", request + R"(, "stream": true})");
    for (size_t i = 0; i < 2; ++i) {
        const std::string id = h.submitted(i).request_id;
        CHECK_FALSE(h.submitted(i).parameters.tools.empty());
        h.accept(id);
        for (const std::string& piece : pieces) h.piece(id, 0, piece);
        h.done(id, "stop", 4);
    }
    const Json choice = Json::parse(h.responder.answers.at(1).body)["choices"][0];
    CHECK(choice["finish_reason"] == "tool_calls");
    CHECK(choice["message"]["content"].get<std::string>().starts_with("see"));
    const Json call = choice["message"]["tool_calls"][0];
    CHECK(call["function"]["name"] == "f");
    CHECK(Json::parse(call["function"]["arguments"].get<std::string>()) == Json({{"x", 1}}));
    std::string name, arguments, content, finish;
    for (const Json& event : h.responder.events(2)) {
        if (!event.is_object()) continue;
        const Json& delta = event["choices"][0]["delta"];
        if (event["choices"][0]["finish_reason"].is_string())
            finish = event["choices"][0]["finish_reason"];
        if (delta.contains("content")) content += delta["content"];
        if (!delta.contains("tool_calls")) continue;
        const Json& piece = delta["tool_calls"][0];
        CHECK(piece["index"] == 0);
        if (piece["function"].contains("name")) {
            name += piece["function"]["name"];
            CHECK(piece["id"] == call["id"]);
        }
        arguments += piece["function"]["arguments"];
    }
    CHECK(name == "f");
    CHECK(arguments == call["function"]["arguments"]);
    CHECK(content == choice["message"]["content"]);
    CHECK(finish == "tool_calls");
    Harness required;
    required.post(1, "/v1/chat/completions", request + R"(, "tool_choice": "required"})");
    CHECK(required.submitted(0).parameters.constraint->kind == ConstraintKind::kGrammar);
}

TEST_CASE("the router hears pings while something runs, a silent stream gets comments") {
    Harness h;
    CHECK(h.api.next_timer() == kNever);
    h.post(1, "/v1/completions", R"({"prompt": "a", "stream": true})");
    h.accept(h.submitted(0).request_id);
    for (TimeUs now = 0; now <= 16 * kSecondUs; now += kSecondUs) h.api.on_tick(now);
    const auto pings = std::count_if(h.sent.begin(), h.sent.end(), [](const auto& message) {
        return std::holds_alternative<wire::Ping>(message.second);
    });
    CHECK(pings == 1);
    CHECK(h.responder.answers.at(1).body == kStreamPing);
    CHECK(h.api.next_timer() <= 17 * kSecondUs);
}

TEST_CASE("ready: by frames that move, else by a canary") {
    FakeResponder responder;
    std::vector<wire::ClientBody> sent;
    Health health(responder, [&](const std::string& client, const wire::ClientBody& body, TimeUs) {
        CHECK(client == kHealthClient);
        sent.push_back(body);
    });
    Site site;
    health.serve(site);
    Request request;
    request.method = "GET";
    request.path = "/readyz";
    const auto ask = [&](ExchangeId id, TimeUs now, bool ready, uint64_t results) {
        CHECK_FALSE(site.on_request(id, request, now));
        wire::StatusReply status;
        status.ready = ready;
        status.counters = {{"results", results}};
        health.on_router(status, now);
    };
    ask(1, 0, false, 0);
    CHECK(responder.answers.at(1).head.status == 503);
    ask(2, kSecondUs, true, 5);
    CHECK(responder.answers.at(2).head.status == 200);  // frames have moved
    ask(3, 20 * kSecondUs, true, 5);
    CHECK_FALSE(responder.answers.contains(3));
    const auto* canary = std::get_if<wire::Submit>(&sent.back());
    REQUIRE(canary != nullptr);
    CHECK(canary->parameters.max_tokens == 1);
    const std::string id = canary->request_id;
    ask(4, 20 * kSecondUs, true, 5);  // joins it
    health.on_router(wire::Done{id, "length", {}, 1, 0, 1, 0, 0, 0}, 21 * kSecondUs);
    CHECK(responder.answers.at(3).head.status == 200);
    CHECK(responder.answers.at(4).head.status == 200);
    ask(5, 30 * kSecondUs, true, 5);
    health.on_tick(health.next_timer());
    CHECK(responder.answers.at(5).head.status == 503);
    CHECK(std::holds_alternative<wire::Cancel>(sent.back()));
}
