// Resumable streams (docs/http.md).
#include <doctest/doctest.h>

#include "api_harness.hpp"
#include "chatloop/core/limits.hpp"

using namespace chatloop;
using namespace chatloop::http;

namespace {

constexpr ExchangeId kFirst = 1;
constexpr char kTwoChoices[] =
    R"({"messages": [{"role": "user", "content": "a"}], "n": 2, "stream": true,
        "stream_options": {"include_usage": true, "resumable": true}})";

struct Streams : Harness {
    std::string id;       // of the request
    ExchangeId last = kFirst;

    explicit Streams(const std::string& body = kTwoChoices) {
        post(kFirst, "/v1/chat/completions", body);
        id = submitted(0).request_id;
    }
    // What the router says, step by step; false when that was all.
    bool step(int number) {
        switch (number) {
            case 0: accept(id); return true;
            case 1: piece(id, 0, "a"); return true;
            case 2: piece(id, 1, "x"); return true;
            case 3: piece(id, 1, ""); return true;  // a part of a character
            case 4: piece(id, 1, "y"); return true;
            case 5: api.on_router(wire::ChoiceDone{id, 1, "stop", {}, 3}, 0); return true;
            case 6: piece(id, 0, "b"); return true;
            case 7: api.on_router(wire::ChoiceDone{id, 0, "length", {}, 2}, 0); return true;
            case 8: done(id, "length", 5); return true;
            default: return false;
        }
    }
    std::string address() const {
        for (const auto& [name, value] : responder.answers.at(kFirst).head.headers)
            if (name == "Content-Location") return value;
        return {};
    }
    // Asks as another exchange; the status of the answer.
    int ask(const std::string& method, const std::string& path, const std::string& seen,
            TimeUs now = 0) {
        Request request;
        request.method = method;
        request.path = path;
        request.peer = "10.0.0.2";
        if (!seen.empty()) request.headers = {{"last-event-id", seen}};
        REQUIRE_FALSE(site.on_head(request));
        if (auto response = site.on_request(++last, request, now))
            responder.respond(last, *response);
        return responder.answers.at(last).head.status;
    }
    const std::string& body(ExchangeId exchange) { return responder.answers.at(exchange).body; }
};

// The first `count` events of a stream.
std::string first_events(const std::string& stream, size_t count) {
    size_t at = 0;
    for (; count > 0; --count) at = stream.find("\n\n", at) + 2;
    return stream.substr(0, at);
}

std::string last_id(const std::string& stream) {
    const size_t at = stream.rfind("id: ");
    return at == stream.npos ? "" : stream.substr(at + 4, stream.find('\n', at) - at - 4);
}

size_t count_of(const std::string& text, const std::string& part) {
    size_t count = 0;
    for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++count;
    return count;
}

}  // namespace

TEST_CASE("a stream that did not ask for it has no ids, no address, and ends with its client") {
    Streams s(R"({"messages": [{"role": "user", "content": "a"}], "stream": true})");
    s.accept(s.id);
    s.piece(s.id, 0, "a");
    CHECK(s.address().empty());
    CHECK(s.body(kFirst).find("id: ") == std::string::npos);
    s.api.on_gone(kFirst, 0);
    CHECK(s.cancelled() == std::vector<std::string>{s.id});
}

TEST_CASE("a connection lost behind any event, taken up anywhere, gives the same stream") {
    Streams whole;
    for (int i = 0; whole.step(i);) ++i;
    const std::string expected = whole.body(kFirst);
    CHECK(whole.responder.answers.at(kFirst).ended);
    const size_t events = count_of(expected, "id: ");
    CHECK(events == count_of(expected, "data: "));
    CHECK(events == 10);  // 2 roles, 4 texts, 2 ends, usage, [DONE]
    const std::string done = expected.substr(expected.rfind("id: "));
    CHECK(done == "id: 2.3,3.1\ndata: [DONE]\n\n");
    for (size_t lost = 0; lost <= events; ++lost) {       // events that the client has seen
        for (int back = 1; back <= 9; ++back) {           // steps until it is there again
            Streams s;
            for (int i = 0; i < back; ++i) {
                s.step(i);
                if (i == 0) s.api.on_gone(kFirst, 0);
            }
            // Without a client the stream is the same; it has seen `lost` events of it.
            const std::string seen = first_events(expected, lost);
            const int status = s.ask("GET", s.address(), last_id(seen));
            const bool ahead = lost > 0 && status == 400;
            if (ahead) continue;  // it cannot have seen what has not come yet
            if (status == 204) {
                CHECK(seen == expected);
                continue;
            }
            REQUIRE(status == 200);
            const ExchangeId reader = s.last;
            for (int i = back; s.step(i);) ++i;
            CHECK(seen + s.body(reader) == expected);
            CHECK(s.responder.answers.at(reader).ended);
            CHECK(s.cancelled().empty());
        }
    }
}

TEST_CASE("of two connections the later one has the stream") {
    Streams s;
    s.step(0);
    s.step(1);
    const std::string before = s.body(kFirst);
    CHECK(s.ask("GET", s.address(), "") == 200);
    CHECK(s.responder.answers.at(kFirst).ended);  // aborted
    CHECK(s.body(s.last) == before);
    s.api.on_gone(kFirst, 0);  // told late
    CHECK(s.cancelled().empty());
    s.step(2);
    CHECK(s.body(kFirst) == before);
    CHECK(s.body(s.last).size() > before.size());
}

TEST_CASE("a stream that nobody takes up is cancelled and forgotten") {
    Streams s;
    s.step(0);
    s.api.on_gone(kFirst, 5 * kSecondUs);
    s.api.on_tick(5 * kSecondUs + kHttpResumeUs - 1);
    CHECK(s.cancelled().empty());
    CHECK(s.api.next_timer() <= 6 * kSecondUs + kHttpResumeUs);
    s.api.on_tick(6 * kSecondUs + kHttpResumeUs);
    CHECK(s.cancelled() == std::vector<std::string>{s.id});
    CHECK(s.api.running() == 0);
    CHECK(s.api.next_timer() == kNever);
    CHECK(s.ask("GET", s.address(), "0,0") == 404);
}

TEST_CASE("an answer that has ended is kept for a while, and read again") {
    Streams s;
    for (int i = 0; s.step(i);) ++i;
    CHECK(s.api.running() == 0);
    const std::string whole = s.body(kFirst);
    for (int again = 0; again < 2; ++again) {
        CHECK(s.ask("GET", s.address(), "0,0", kSecondUs) == 200);
        CHECK(s.responder.answers.at(s.last).ended);
        CHECK(first_events(whole, 2) + s.body(s.last) == whole);
    }
    CHECK(s.ask("HEAD", s.address(), "") == 200);
    CHECK(s.body(s.last).empty());
    CHECK(s.ask("GET", s.address(), last_id(whole), kSecondUs) == 204);
    s.api.on_tick(kSecondUs + kHttpResumeUs - 1);
    CHECK(s.ask("GET", s.address(), "0,0", kSecondUs + kHttpResumeUs - 1) == 200);
    s.api.on_tick(3 * kHttpResumeUs);
    CHECK(s.ask("GET", s.address(), "0,0") == 404);
}

TEST_CASE("an error is an event of the stream as any other") {
    Streams s;
    s.step(0);
    s.api.on_gone(kFirst, 0);
    wire::Failure failure;
    failure.request_id = s.id;
    failure.code = "worker_lost";
    failure.message = "no";
    s.api.on_router(failure, 0);
    CHECK(s.ask("GET", s.address(), "0,0") == 200);
    CHECK(s.body(s.last).starts_with("id: 0.1,0\ndata: {\"error\""));
    CHECK(s.responder.answers.at(s.last).ended);
}

TEST_CASE("calls of tools are taken up in their middle") {
    const char* const body =
        R"({"messages": [{"role": "user", "content": "a"}], "stream": true,
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
            "stream_options": {"resumable": true}})";
    const auto play = [](Streams& s) {
        for (const char* text : {"so ", "<tool_call>\n{\"name\": \"f\", ", "\"arguments\": {\"a\"",
                                 ": 1}}\n", "</tool_call>", " and"})
            s.piece(s.id, 0, text);
        s.done(s.id, "stop", 6);
    };
    Streams whole(body);
    whole.step(0);
    play(whole);
    const std::string expected = whole.body(kFirst);
    const size_t events = count_of(expected, "id: ");
    CHECK(count_of(expected, "tool_calls") >= 3);
    for (size_t seen = 1; seen < events; ++seen) {
        Streams s(body);
        s.step(0);
        s.api.on_gone(kFirst, 0);
        play(s);
        const std::string begun = first_events(expected, seen);
        CHECK(s.ask("GET", s.address(), last_id(begun)) == 200);
        CHECK(begun + s.body(s.last) == expected);
    }
}

TEST_CASE("what is no stream, no id of its events, or not kept") {
    Streams s;
    s.step(0);
    CHECK(s.ask("GET", "/v1/streams/key-2", "") == 404);
    CHECK(s.ask("DELETE", "/v1/streams/key-2", "") == 404);
    for (const char* id : {"x", "0", "0,0,0", "0,1", "7,0"})
        CHECK(s.ask("GET", s.address(), id) == 400);
    CHECK_FALSE(s.responder.answers.at(kFirst).ended);  // its reader did not notice
    for (size_t i = 0; i < kHttpKeptBytesMax >> 14; ++i)
        s.piece(s.id, 0, std::string(1u << 14, 'z'));
    CHECK(s.ask("GET", s.address(), "0,0") == 410);
    CHECK(s.ask("GET", s.address(), "") == 410);
    CHECK_FALSE(s.responder.answers.at(kFirst).ended);
}

TEST_CASE("a client that wants no more ends its stream") {
    Streams s;
    s.step(0);
    CHECK(s.ask("DELETE", s.address(), "") == 204);
    CHECK(s.responder.answers.at(kFirst).ended);
    CHECK(s.cancelled() == std::vector<std::string>{s.id});
    CHECK(s.api.running() == 0);
    CHECK(s.ask("DELETE", s.address(), "") == 404);
}

TEST_CASE("a resumable stream has one prompt, and its option is a flag") {
    Harness h;
    h.post(1, "/v1/completions", R"({"prompt": ["a", "b"], "stream": true,
                                     "stream_options": {"resumable": true}})");
    CHECK(h.responder.answers.at(1).head.status == 400);
    h.post(2, "/v1/completions", R"({"prompt": "a", "stream_options": {"resumable": 1}})");
    CHECK(h.responder.answers.at(2).head.status == 400);
    CHECK(h.responder.answers.at(2).body.find("stream_options.resumable") != std::string::npos);
    CHECK(h.sent.empty());
}
