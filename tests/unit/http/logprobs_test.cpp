#include "chatloop/http/logprobs.hpp"

#include <doctest/doctest.h>

#include "api_harness.hpp"
#include "chatloop/core/limits.hpp"

using namespace chatloop;
using namespace chatloop::http;

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

TEST_CASE("log-probabilities of a long prompt leave a stream as they come, or are bounded") {
    constexpr uint32_t kTokens = 1000;
    Harness h;
    const auto ask = [&](ExchangeId id, const std::string& more) {
        h.post(id, "/v1/completions",
               R"({"prompt": [34], "echo": true, "logprobs": 2, "n": 2, "max_tokens": 0)" + more);
        const std::string request = h.submitted(id - 1).request_id;
        h.api.on_router(wire::Accepted{request, std::vector<uint32_t>(kTokens, 34), 1, "", "m",
                                       std::string(kTokens, 'B')}, 0);
        wire::PromptPiece piece{request, 0, {std::nullopt}};
        h.api.on_router(piece, 0);
        piece = {request, 1, std::vector<std::optional<wire::TokenEntry>>(
                                 kTokens - 1, wire::TokenEntry{34, -1.0f, {{34, -1.0f}}})};
        h.api.on_router(piece, 0);
        return request;
    };
    const auto end = [&](const std::string& request) {
        for (const uint32_t c : {0u, 1u})
            h.api.on_router(wire::ChoiceDone{request, c, "length", {}, 0}, 0);
        h.done(request, "length", 0);
    };
    const std::string streamed = ask(1, R"(, "stream": true})");
    CHECK(h.responder.events(1).size() == 8);  // four of each choice, before the answer
    end(streamed);
    end(ask(2, "}"));
    const Json whole = Json::parse(h.responder.answers.at(2).body)["choices"];
    for (const size_t c : {0u, 1u}) {
        Json texts, offsets;
        for (const Json& event : h.responder.events(1)) {
            if (!event.is_object() || event["choices"][0]["index"] != c) continue;
            const Json& logprobs = event["choices"][0]["logprobs"];
            if (logprobs.is_null()) continue;
            CHECK(logprobs["tokens"].size() <= kHttpLogprobsPerEvent);
            for (const Json& token : logprobs["tokens"]) texts.push_back(token);
            for (const Json& offset : logprobs["text_offset"]) offsets.push_back(offset);
        }
        CHECK(texts.size() == kTokens);
        CHECK(texts == whole[c]["logprobs"]["tokens"]);
        CHECK(offsets == whole[c]["logprobs"]["text_offset"]);
    }
    // As it will be sent: some 40 bytes for each token of the prompt and choice.
    std::vector<std::string> requests;
    for (ExchangeId id = 3; h.responder.answers.size() < 3; ++id) {
        REQUIRE(id < 1000);
        const std::string request = ask(id, R"(, "stop": "x"})");
        for (int i = 0; i < 50 && !h.responder.answers.contains(id); ++i)
            h.piece(request, 0, std::string(100'000, '\n'));  // two bytes each
        requests.push_back(request);
        if (id == 3) CHECK_FALSE(h.responder.answers.contains(id));
    }
    const auto& refused = h.responder.answers.rbegin()->second;
    CHECK(refused.head.status == 503);  // 256 MiB of all
    CHECK(requests.size() > 20);
    for (const std::string& request : requests) h.done(request, "cancelled", 0);
}
