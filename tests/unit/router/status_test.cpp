// What STATUS counts: each refusal and each drop, under its own name.
#include <doctest/doctest.h>

#include <map>

#include "chatloop/core/limits.hpp"
#include "router_harness.hpp"

using namespace chatloop;
using namespace chatloop::test;

namespace {

std::map<std::string, uint64_t> by_name(const std::vector<wire::Counter>& counters) {
    std::map<std::string, uint64_t> named;
    for (const wire::Counter& counter : counters) {
        CHECK_FALSE(named.contains(counter.name));
        named[counter.name] = counter.value;
    }
    return named;
}

wire::StatusReply status_of(RouterHarness& h) {
    h.say(wire::StatusQuery{}, "observer");
    return h.heard<wire::StatusReply>("observer").back();
}

}  // namespace

TEST_CASE("a router without a past has counters of zero") {
    UpRouter h;
    const wire::StatusReply status = status_of(h);
    auto counters = by_name(status.counters);
    CHECK(counters.at("routes_up") == 1);
    CHECK(counters.at("workers_joined") == 1);
    counters.erase("routes_up");
    counters.erase("workers_joined");
    for (const auto& [name, value] : counters) CHECK_MESSAGE(value == 0, name);
    CHECK(status.errors.empty());
    CHECK(status.backlog_bytes == 0);
}

TEST_CASE("every refusal is counted by its code") {
    UpRouter h;
    const wire::Bytes garbage{0xc1};
    h.router->on_client(kClient, garbage, h.now);
    wire::Parameters other = RouterHarness::ask(3, 1);
    other.model = "other";
    h.say(wire::Submit{"model", other});
    h.submit("long", 1000, 1);
    h.submit("twice", 3, 10);
    h.submit("twice", 3, 10);
    h.say(wire::Cancel{"nobody"});
    const wire::StatusReply status = status_of(h);
    CHECK(by_name(status.errors) ==
          std::map<std::string, uint64_t>{{"malformed", 1},
                                          {"unknown_model", 1},
                                          {"prompt_too_long", 1},
                                          {"duplicate_id", 1},
                                          {"invalid_request", 1}});
    const auto counters = by_name(status.counters);
    CHECK(counters.at("rejected") == 4);
    CHECK(counters.at("requests") == 4);
    CHECK(counters.at("front_malformed") == 1);
}

TEST_CASE("a client that is gone is counted, and its request with its code") {
    UpRouter h;
    h.submit("r", 3, 10);
    h.router->on_client_gone(kClient, h.now);
    h.router->on_client_gone(kClient, h.now);
    const wire::StatusReply status = status_of(h);
    CHECK(by_name(status.counters).at("clients_gone") == 1);
    CHECK(by_name(status.errors).at("client_lost") == 1);
    CHECK(status.running == 0);
}

TEST_CASE("what the sockets and the workers counted is there, too") {
    UpRouter h;
    const wire::Bytes garbage{0xc1};
    h.router->on_control("stranger", garbage, h.now);
    h.answer_bytes({0xc1});
    h.router->note_sockets({10, 20, 30, 4, 5, 6, 7});
    h.hear(wire::WorkerHeartbeat{wire::WorkerState::kReady, 0, 0, 0, {{1, 0, 0, 0, true, true}},
                                 {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}});
    const wire::StatusReply status = status_of(h);
    const auto counters = by_name(status.counters);
    CHECK(counters.at("front_malformed") == 10);
    CHECK(counters.at("ctrl_malformed") == 21);
    CHECK(counters.at("result_malformed") == 31);
    CHECK(counters.at("backlog_drops") == 4);
    CHECK(counters.at("backlog_messages_dropped") == 5);
    CHECK(status.backlog_bytes == 6);
    CHECK(counters.at("sends_blocked") == 7);
    REQUIRE(status.workers.size() == 1);
    const auto worker = by_name(status.workers[0].counters);
    CHECK(worker.size() == 11);
    CHECK(worker.at("cpu_ms") == 10);
    CHECK(worker.at("memory_bytes") == 11);
    CHECK(worker.at("frames_executed") == 1);
    CHECK(worker.at("messages_malformed") == 8);
}

TEST_CASE("a route's hops, work and blocks, and how long everybody waited") {
    UpRouter h;
    h.submit("r", 3, 3);
    for (int i = 0; i < 3; ++i) {
        wire::ResultFrame result = h.result_of(h.answered++);
        result.timings = {{100, 4000}, {0, 1000}};
        h.now += 6000;
        h.answer(result);
    }
    const wire::StatusReply status = status_of(h);
    REQUIRE(status.routes.size() == 1);
    const wire::RouteStatus& route = status.routes[0];
    CHECK(route.hops == std::vector<wire::HopStatus>{{"worker-1", 12'000}, {"worker-1", 3'000}});
    const auto counters = by_name(route.counters);
    CHECK(counters.at("frames") == 3);
    CHECK(counters.at("work_us") == 18'000);
    CHECK(counters.at("wire_us") == 2'700);
    CHECK(counters.at("kv_blocks") == 16);
    CHECK(counters.at("kv_held") == 0);
    CHECK(counters.at("credit_frames") == 0);
    std::map<std::string, double> sums;
    std::map<std::string, uint64_t> counts;
    for (const wire::HistogramStatus& histogram : status.histograms) {
        sums[histogram.name] = histogram.sum;
        for (const uint64_t count : histogram.counts) counts[histogram.name] += count;
    }
    CHECK(sums.at("time_to_first_token_ms") == 6.0);
    CHECK(sums.at("inter_token_ms") == 12.0);
    CHECK(counts.at("inter_token_ms") == 2);
    CHECK(counts.at("queue_ms") == 1);
    CHECK(counts.at("decode_rows") == 2);
    REQUIRE(status.workers.at(0).work.size() == 2);
    const wire::RoleStatus& stage = status.workers[0].work[0];
    CHECK(stage.role == wire::kRoleStage);
    CHECK(stage.frames == 3);
    CHECK(stage.rows == 5);  // the prompt's three, then one a token
    CHECK(stage.busy_us == 12'000);
    CHECK(stage.queue_us == 300);
    CHECK(stage.work_us == 18'000);
    CHECK(stage.step.sum == doctest::Approx(0.012));
    CHECK(status.workers[0].work[1].busy_us == 3'000);
}

TEST_CASE("requests under way and what happened are listed") {
    UpRouter h;
    h.submit("decodes", 3, 9);
    h.answer(h.result_of(h.answered++));
    h.submit("next", 2, 9);
    h.now += 5000;
    h.tick(0);
    wire::StatusReply status = status_of(h);
    REQUIRE(status.requests.size() == 2);
    CHECK(status.requests[0].id == "decodes");
    CHECK(status.requests[0].state == "decode");
    CHECK(status.requests[0].prompt_tokens == 3);
    CHECK(status.requests[0].completion_tokens == 1);
    CHECK(status.requests[0].age_us >= 5000);
    CHECK(status.requests[1].state == "prefill");
    REQUIRE(status.events.size() == 2);
    CHECK(status.events[0].text == "worker worker-1 joined");
    CHECK(status.events[1].text == "route 1 is up");
    CHECK(status.events[1].number == status.events[0].number + 1);
    CHECK_FALSE(status.events[1].warning);
    h.router->on_worker_gone(peer_of(kWorker), h.now);
    status = status_of(h);
    REQUIRE(status.requests.size() == 2);  // they wait for another worker
    CHECK(status.requests[0].state == "queue");
    CHECK(std::any_of(status.events.begin(), status.events.end(),
                      [](const wire::EventStatus& e) { return e.warning; }));
}

TEST_CASE("events are the latest ones, however many there were") {
    UpRouter h;
    for (uint32_t i = 0; i < kStatusEventsMax; ++i) {
        h.router->on_worker_gone(peer_of(kWorker), h.now);
        h.bring_up();
    }
    const wire::StatusReply status = status_of(h);
    CHECK(status.events.size() == kStatusEventsMax);
    CHECK(status.events.back().number > 2 * kStatusEventsMax);
}
