// The router as the last receiver: RESULTs in order, and what a broken or hostile sampler may send.
#include <doctest/doctest.h>

#include <functional>
#include <random>

#include "router_harness.hpp"

using namespace chatloop;
using namespace chatloop::test;

namespace {

// The end of every request, and nothing else, must come of whatever is answered.
void check_ended(const UpRouter& h, size_t requests) {
    const size_t ends = h.heard<wire::Done>().size() + h.heard<wire::Failure>().size();
    CHECK(ends == requests);
    CHECK(h.router->running() == 0);
}

}  // namespace

TEST_CASE("RESULTs commit the tokens of a request, one end") {
    UpRouter h;
    h.submit("r", 3, 4);
    h.answer_all();
    CHECK(h.tokens("r") ==
          std::vector<uint32_t>{token_at(2), token_at(3), token_at(4), token_at(5)});
    REQUIRE(h.heard<wire::Done>().size() == 1);
    CHECK(h.heard<wire::Done>()[0].finish_reason == "length");
    CHECK(h.heard<wire::Done>()[0].completion_tokens == 4);
    CHECK(h.router->counters().tokens_committed == 4);
    CHECK(h.free_blocks() == 16);
    CHECK(h.free_slots() == 4);
    check_ended(h, 1);
}

TEST_CASE(
    "a stale RESULT is dropped: duplicate, fenced generation, another router or destination") {
    UpRouter h;
    h.submit("r", 3, 40);
    const wire::ResultFrame first = h.result_of(0);
    h.answer(first);
    h.answer(first);
    CHECK(h.router->counters().results_stale == 1);
    wire::ResultFrame second = h.result_of(1);
    for (int field = 0; field < 3; ++field) {
        CAPTURE(field);
        wire::ResultFrame other = second;
        if (field == 0) other.header.generation += 1;
        if (field == 1) other.header.router += 1;
        if (field == 2) other.header.destination += 1;
        h.answer(other);
    }
    CHECK(h.router->counters().results_stale == 4);
    CHECK(h.router->counters().routes_down == 0);
    CHECK(h.tokens("r").size() == 1);
    h.answer(second);
    CHECK(h.tokens("r").size() == 2);
}

TEST_CASE("a RESULT that is out of order, damaged or for no frame is a fault: what ran goes on") {
    using Fault = std::function<void(UpRouter&)>;
    const std::vector<Fault> faults{
        [](UpRouter& h) {
            wire::ResultFrame result = h.result_of(0);
            result.header.number = 2;
            h.answer(result);
        },
        [](UpRouter& h) {
            wire::Bytes bytes = wire::encode_result(h.result_of(0));
            bytes.back() ^= 1;
            h.answer_bytes(std::move(bytes));
        },
        [](UpRouter& h) {
            wire::Bytes bytes = wire::encode_result(h.result_of(0));
            bytes.pop_back();
            h.answer_bytes(std::move(bytes));
        },
        [](UpRouter& h) {
            wire::ResultFrame result = h.result_of(0);
            result.items.clear();
            h.answer(result);
        },
        [](UpRouter& h) {
            wire::ResultFrame result = h.result_of(0);
            result.items.push_back({3, 999, wire::ItemError::kNone, {}});
            h.answer(result);
        },
        [](UpRouter& h) {  // another sequence's answer: the one that waits would wait for ever
            wire::ResultFrame result = h.result_of(0);
            result.items[0].admission += 1;
            h.answer(result);
        },
        [](UpRouter& h) {
            wire::ResultFrame result = h.result_of(0);
            result.items[0].slot += 1;
            h.answer(result);
        },
    };
    for (size_t i = 0; i < faults.size(); ++i) {
        CAPTURE(i);
        UpRouter h;
        h.submit("r", 3, 40);
        faults[i](h);
        CHECK(h.router->counters().routes_down == 1);
        CHECK(h.router->counters().results_bad == 1);
        CHECK(h.heard<wire::Failure>().empty());
        const wire::ResultFrame late = h.result_of(0);
        h.answer(late);
        CHECK(h.router->counters().results_stale == 1);
        h.answered = h.frames();
        CHECK(h.bring_up() == 2);
        h.answer_all();
        CHECK(h.heard<wire::Done>().size() == 1);
        CHECK(h.tokens("r").size() == 40);
    }
}

TEST_CASE("bytes that are no RESULT are counted and dropped") {
    UpRouter h;
    h.submit("r", 3, 2);
    h.answer_bytes({});
    h.answer_bytes({0x9c, 0x00});
    h.answer_bytes(h.frame(0).bytes);  // a data frame
    CHECK(h.router->counters().result_malformed == 3);
    CHECK(h.router->counters().routes_down == 0);
    h.answer_all();
    CHECK(h.heard<wire::Done>().size() == 1);
}

TEST_CASE("an answer to what was not asked fails its request and nobody else's") {
    using Change = std::function<void(wire::ResultItem&)>;
    const std::vector<std::pair<Change, std::string>> changes{
        {[](wire::ResultItem& item) { item.outputs.clear(); }, "internal"},
        {[](wire::ResultItem& item) { item.outputs.push_back(item.outputs[0]); }, "internal"},
        {[](wire::ResultItem& item) { item.outputs[0].row += 1; }, "internal"},
        {[](wire::ResultItem& item) { item.outputs[0].kind = 2; }, "internal"},
        {[](wire::ResultItem& item) { item.outputs[0].token = sim::kVocab; }, "internal"},
        {[](wire::ResultItem& item) { item.outputs[0].token = UINT32_MAX; }, "internal"},
        {[](wire::ResultItem& item) { item.error = wire::ItemError::kMalformed; }, "internal"},
        {[](wire::ResultItem& item) { item.error = wire::ItemError::kNonFinite; }, "non_finite"},
    };
    for (size_t i = 0; i < changes.size(); ++i) {
        CAPTURE(i);
        RouterHarness h;
        h.submit("a", 3, 3);
        h.submit("b", 4, 3);
        h.bring_up();
        wire::ResultFrame result = h.result_of(0);
        REQUIRE(result.items.size() == 2);
        changes[i].first(result.items[0]);
        h.answer(result);
        h.answered = 1;
        h.answer_all();
        REQUIRE(h.heard<wire::Failure>().size() == 1);
        CHECK(h.heard<wire::Failure>()[0].request_id == "a");
        CHECK(h.heard<wire::Failure>()[0].code == changes[i].second);
        REQUIRE(h.heard<wire::Done>().size() == 1);
        CHECK(h.heard<wire::Done>()[0].request_id == "b");
        CHECK(h.tokens("b").size() == 3);
        CHECK(h.free_slots() == 4);
    }
}

TEST_CASE("an answer to a prefill row that asked for nothing fails the request") {
    UpRouter h;
    h.submit("r", 150, 3);  // rows 0 to 99 want no output
    wire::ResultFrame result = h.result_of(0);
    REQUIRE(result.items[0].outputs.empty());
    result.items[0].outputs.push_back({99, 1, 5, 0.0f, {}});
    h.answer(result);
    CHECK(h.errors() == std::vector<std::string>{"internal"});
    h.answered = 1;
    h.answer_all();
    check_ended(h, 1);
}

TEST_CASE("prompt log-probabilities must be of the prompt's own tokens") {
    for (const bool wrong : {false, true}) {
        CAPTURE(wrong);
        UpRouter h;
        wire::Parameters parameters = RouterHarness::ask(4, 1);
        parameters.prompt_logprobs = 1;
        h.say(wire::Submit{"r", parameters});
        wire::ResultFrame result = h.result_of(0);
        REQUIRE(result.items[0].outputs.size() == 4);
        if (wrong) result.items[0].outputs[1].token += 1;
        h.answer(result);
        CHECK(h.heard<wire::Failure>().size() == (wrong ? 1 : 0));
        CHECK(h.heard<wire::Done>().size() == (wrong ? 0 : 1));
        if (wrong) continue;
        size_t entries = 0;
        for (const wire::PromptPiece& piece : h.heard<wire::PromptPiece>()) {
            CHECK(piece.index == entries);
            for (const auto& entry : piece.entries)
                if (entry) CHECK(entry->top.size() == 1);  // as many as asked, not as many as came
            entries += piece.entries.size();
        }
        CHECK(entries == 4);
    }
}

TEST_CASE("no random damage to a RESULT's content crashes the router or loses a request") {
    std::mt19937 random(7);
    const auto below = [&](uint32_t n) { return static_cast<uint32_t>(random() % n); };
    size_t faulted = 0;
    for (int run = 0; run < 300; ++run) {
        CAPTURE(run);
        UpRouter h;
        wire::Parameters parameters = RouterHarness::ask(3 + below(120), 1 + below(4));
        if (below(2) == 0) parameters.prompt_logprobs = below(3);
        h.say(wire::Submit{"a", parameters});
        h.submit("b", 2, 3);
        for (; h.answered < h.frames() && h.router->counters().routes_down == 0; ++h.answered) {
            wire::ResultFrame result = h.result_of(h.answered);
            for (wire::ResultItem& item : result.items) {
                if (below(4) != 0) continue;
                switch (below(7)) {
                    case 0: item.error = wire::ItemError{static_cast<uint8_t>(below(4))}; break;
                    case 1: item.outputs.resize(below(4)); break;
                    case 2:
                        for (auto& o : item.outputs) o.kind = static_cast<uint8_t>(1 + below(2));
                        break;
                    case 3: for (auto& o : item.outputs) o.token = below(100); break;
                    case 4: for (auto& o : item.outputs) o.row = below(200); break;
                    case 5: for (auto& o : item.outputs) o.top.resize(below(32)); break;
                    case 6: item.admission = 1 + below(4); break;
                }
            }
            if (below(40) == 0) result.items.resize(below(3));
            if (below(40) == 0) result.header.number += 1;
            std::set<Slot> slots;  // what names a slot twice is refused by the codec
            bool encodable = true;
            for (const wire::ResultItem& item : result.items)
                encodable = encodable && item.admission != 0 && slots.insert(item.slot).second;
            h.answer(encodable ? result : h.result_of(h.answered));
        }
        if (h.router->counters().routes_down > 0) {
            h.answered = h.frames();
            h.bring_up();
            h.answer_all();
        }
        check_ended(h, 2);
        faulted += h.heard<wire::Failure>().size();
    }
    CHECK(faulted > 100);
    CHECK(faulted < 600);
}
