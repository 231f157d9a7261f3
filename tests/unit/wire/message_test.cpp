// Control and client front messages: what is encoded is decoded, and nothing else is.
#include <doctest/doctest.h>

#include "chatloop/core/limits.hpp"
#include "examples.hpp"
#include "mutation.hpp"

namespace chatloop::wire::test {
namespace {

bool control_ok(ByteView bytes) {
    return decode_control(bytes).ok();
}
bool client_ok(ByteView bytes) {
    return std::holds_alternative<ClientBody>(decode_client(bytes));
}
bool router_ok(ByteView bytes) {
    return decode_router(bytes).ok();
}

void check_truncations(const Bytes& bytes, bool (*accepts)(ByteView)) {
    REQUIRE(accepts(bytes));
    for (size_t size = 0; size < bytes.size(); ++size) {
        CAPTURE(size);
        CHECK_FALSE(accepts(ByteView(bytes).first(size)));
    }
    Bytes longer = bytes;
    longer.push_back(0xc0);
    CHECK_FALSE(accepts(longer));
}

std::string joined(const std::set<std::string>& set) {
    std::string text;
    for (const std::string& entry : set) text += entry + "; ";
    return text;
}

void check_mutations(const Bytes& bytes, bool (*accepts)(ByteView),
                     const std::set<std::string>& expected) {
    CHECK(joined(accepted_mutations(bytes, accepts)) == joined(expected));
}

using Expected = std::vector<std::set<std::string>>;

}  // namespace

TEST_CASE("every control message survives the wire") {
    for (const Control& message : control_examples()) {
        CAPTURE(message.body.index());
        const auto decoded = decode_control(encode_control(message));
        REQUIRE(decoded.ok());
        CHECK(*decoded == message);
    }
}

TEST_CASE("every client front message survives the wire") {
    for (const ClientBody& message : client_examples()) {
        CAPTURE(message.index());
        const auto decoded = decode_client(encode_client(message));
        REQUIRE(std::holds_alternative<ClientBody>(decoded));
        CHECK(std::get<ClientBody>(decoded) == message);
    }
    for (const RouterBody& message : router_examples()) {
        CAPTURE(message.index());
        const auto decoded = decode_router(encode_router(message));
        REQUIRE(decoded.ok());
        CHECK(*decoded == message);
    }
}

TEST_CASE("a truncated or longer message is none") {
    for (const Control& message : control_examples()) {
        check_truncations(encode_control(message), control_ok);
    }
    for (const ClientBody& message : client_examples()) {
        check_truncations(encode_client(message), client_ok);
    }
    for (const RouterBody& message : router_examples()) {
        check_truncations(encode_router(message), router_ok);
    }
}

TEST_CASE("one wrong element makes a control message wrong") {
    // Only what the page leaves open is accepted: u64 of any value, lists of other lengths.
    const Expected expected = {
        {"/14 huge", "/16 huge"},
        {"/4 huge"},
        {"/4 huge", "/6 huge"},
        {"/4 huge"},
        {"/4 huge", "/6 huge", "/7 huge"},
        {"/7 huge", "/8 shorter", "/8/0/0 huge", "/8/0/2 huge", "/8/0/3 huge", "/8/1/0 huge",
         "/8/1/2 huge", "/8/1/3 huge", "/9/0 huge", "/9/1 huge", "/9/2 huge", "/9/3 huge",
         "/9/4 huge", "/9/5 huge", "/9/6 huge", "/9/7 huge", "/9/8 huge", "/9/9 huge",
         "/9/10 huge"},
        {},
        {"/4 huge"},
        {},
        {"/4 huge", "/8 shorter", "/8/0/3 huge", "/8/1/3 huge"},
        {"/4 huge"},
        {"/4 huge", "/5 huge", "/6 shorter", "/6/0 huge", "/6/1 huge", "/6/2 huge"},
        {},
    };
    const auto examples = control_examples();
    for (size_t i = 0; i < examples.size(); ++i) {
        CAPTURE(i);
        std::set<std::string> all = i < expected.size() ? expected[i] : std::set<std::string>{};
        all.insert({"/2 huge", "/3 huge"});  // sender and sequence
        check_mutations(encode_control(examples[i]), control_ok, all);
    }
}

TEST_CASE("one wrong element makes a client's message wrong") {
    const Expected expected = {
        {"/3 smaller", "/3/frequency_penalty negative", "/3/logit_bias smaller",
         "/3/logit_bias/5 negative", "/3/logit_bias/70000 negative", "/3/logprobs nil",
         "/3/presence_penalty negative", "/3/priority negative", "/3/priority number",
         "/3/prompt_logprobs nil", "/3/seed huge",
         "/3/stop shorter", "/3/stop str", "/3/stop_token_ids shorter"},
        {"/3 smaller", "/3/frequency_penalty negative", "/3/logprobs number",
         "/3/messages shorter", "/3/presence_penalty negative", "/3/priority negative",
         "/3/prompt_logprobs number"},
        {},
        {"/4 smaller", "/4/choice shorter", "/4/frequency_penalty negative", "/4/logprobs number",
         "/4/presence_penalty negative", "/4/priority negative", "/4/prompt_logprobs number",
         "/4/token_ids shorter", "/5/prompt_ids shorter", "/5/seed huge", "/5/token_ids shorter"},
        {" longer", "/2 huge"},
        {" shorter", "/2 huge"},
        {},
        {"/4 smaller", "/4/choice shorter", "/4/frequency_penalty negative", "/4/logprobs number",
         "/4/presence_penalty negative", "/4/priority negative", "/4/prompt_logprobs number",
         "/4/token_ids shorter", "/5/choices/0 shorter", "/5/prompt_ids shorter", "/5/seed huge"},
        {"/3 smaller", "/3/frequency_penalty negative", "/3/logprobs number",
         "/3/messages shorter", "/3/messages/1/content str", "/3/messages/2 smaller",
         "/3/presence_penalty negative", "/3/priority negative", "/3/prompt_logprobs number"},
    };
    const auto examples = client_examples();
    for (size_t i = 0; i < examples.size(); ++i) {
        CAPTURE(i);
        check_mutations(encode_client(examples[i]), client_ok,
                        i < expected.size() ? expected[i] : std::set<std::string>{});
    }
}

TEST_CASE("one wrong element makes a router's message wrong") {
    const std::set<std::string> any_duration = {
        "/3/decode_ms huge float", "/3/prefill_ms huge float", "/3/queue_ms huge float"};
    const auto done = [&](std::set<std::string> stop) {
        stop.insert(any_duration.begin(), any_duration.end());
        return stop;
    };
    const Expected expected = {
        {"/3/prompt_ids shorter", "/3/seed huge"},
        {"/3 smaller", "/3/seed huge"},
        {"/4 shorter", "/6 huge"},
        {"/6 huge", "/7 nil", "/7/0/2 shorter"},
        {"/4 shorter", "/4/1/2 shorter"},
        {"/4 shorter", "/4/0/2 shorter"},
        done({"/3/stop nil", "/3/stop number"}),
        done({"/3/stop nil", "/3/stop str"}),
        done({"/3/stop number", "/3/stop str"}),
        {"/2 nil", "/7 number"},
        {"/2 nil", "/7 nil"},
        {"/2 str", "/7 number"},
        {"/2 huge", "/3 huge"},
        {" shorter", "/2 huge", "/3 huge"},
        {" shorter", "/2 huge", "/3 huge", "/4 shorter"},
        {"/2/workers shorter", "/2/workers/0/counters smaller",
         "/2/workers/0/counters/frames_gap huge", "/2/workers/0/counters key unknown",
         "/2/counters key unknown", "/2/errors key unknown", "/2/backlog_bytes huge",
         "/2/counters smaller",
         "/2/counters/requests huge", "/2/counters/rejected huge", "/2/errors smaller",
         "/2/errors/worker_lost huge", "/2/histograms key unknown", "/2/histograms smaller",
         "/2/histograms/empty/counts/0 huge", "/2/histograms/empty/sum huge float",
         "/2/histograms/queue_ms/bounds/0 huge float", "/2/histograms/queue_ms/bounds/1 huge float",
         "/2/histograms/queue_ms/counts/0 huge", "/2/histograms/queue_ms/counts/1 huge",
         "/2/histograms/queue_ms/counts/2 huge", "/2/histograms/queue_ms/sum huge float",
         "/2/routes shorter", "/2/routes/0/counters key unknown", "/2/routes/0/counters smaller",
         "/2/routes/0/counters/kv_held huge", "/2/routes/0/generation huge",
         "/2/routes/0/hops shorter", "/2/routes/0/hops/0/busy_us huge",
         "/2/routes/0/hops/1/busy_us huge",
         "/2/events shorter", "/2/events/0/age_us huge", "/2/events/0/number huge",
         "/2/events/1/age_us huge", "/2/events/1/number huge", "/2/requests shorter",
         "/2/requests/0/age_us huge", "/2/requests/0/generation huge",
         "/2/requests/1/age_us huge", "/2/requests/1/generation huge", "/2/uptime_us huge",
         "/2/workers/0/work shorter", "/2/workers/0/work/0/busy_us huge",
         "/2/workers/0/work/0/frames huge", "/2/workers/0/work/0/queue_us huge",
         "/2/workers/0/work/0/rows huge", "/2/workers/0/work/0/work_us huge",
         "/2/workers/0/work/0/step_s/bounds/0 huge float",
         "/2/workers/0/work/0/step_s/bounds/1 huge float",
         "/2/workers/0/work/0/step_s/counts/0 huge", "/2/workers/0/work/0/step_s/counts/1 huge",
         "/2/workers/0/work/0/step_s/counts/2 huge", "/2/workers/0/work/0/step_s/sum huge float"},
        {"/4/stop nil", "/4/stop number"},
        {"/4/stop number", "/4/stop str"},
        {},
        {"/3 nil", "/3/spans shorter", "/3/spans/0/1 huge", "/3/spans/0/2 huge",
         "/3/spans/0/5 key unknown", "/3/spans/0/5 smaller", "/3/spans/0/5/prompt_tokens huge",
         "/3/spans/0/5/prompt_tokens str", "/3/spans/0/5/request_id huge",
         "/3/spans/0/5/request_id number",
         "/3/spans/1/1 huge", "/3/spans/1/2 huge"},
    };
    const auto examples = router_examples();
    for (size_t i = 0; i < examples.size(); ++i) {
        CAPTURE(i);
        check_mutations(encode_router(examples[i]), router_ok,
                        i < expected.size() ? expected[i] : std::set<std::string>{});
    }
}

TEST_CASE("a long sentence is cut between two characters") {
    std::string text(kNameBytesMax - 1, 'a');
    text += "\xc3\xa4";
    const auto decoded = decode_router(encode_router(Failure{"r", "internal", text, false, 0, {}}));
    REQUIRE(decoded.ok());
    CHECK(std::get<Failure>(*decoded).message == std::string(kNameBytesMax - 1, 'a'));
}

}  // namespace chatloop::wire::test
