#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "relay.hpp"

#include <doctest/doctest.h>

#include "chatloop/core/limits.hpp"
#include "unit/support/fake_outbox.hpp"
#include "unit/wire/examples.hpp"

namespace chatloop {

namespace {

struct Harness {
    Message frame() const { return Message(wire::test::frame_example()); }
    void run() {
        while (relay.has_work()) relay.run_unit(now);
    }

    TimeUs now = kSecondUs;
    test::FakeOutbox outbox;
    int reports = 0;
    Relay relay{{"next", 88}, outbox, [this](const RelayCounters&) { ++reports; }};
};

}  // namespace

TEST_CASE("frames go on in order, with the next hop's address and the same payload") {
    Harness h;
    h.relay.on_data(h.frame(), h.now);
    CHECK_FALSE(h.relay.has_work());  // the link is not up yet
    h.relay.on_link(1, true, h.now);
    h.run();
    REQUIRE(h.outbox.data.size() == 1);
    const wire::Bytes& sent = h.outbox.data[0].bytes;
    const wire::Bytes before = wire::test::frame_example();
    const auto header = wire::decode_header(sent);
    REQUIRE(header.ok());
    CHECK(header->destination == 88);
    CHECK(header->hop == wire::test::header_example(wire::kFrameData).hop + 1);
    CHECK(std::equal(sent.begin() + wire::kHeaderBytes, sent.end(),
                     before.begin() + wire::kHeaderBytes, before.end()));
}

TEST_CASE("what is no frame is dropped and counted, and the queue has a bound") {
    Harness h;
    h.relay.on_data(Message(wire::Bytes{1, 2, 3}), h.now);
    CHECK(h.relay.counters().frames_malformed == 1);
    for (uint32_t i = 0; i < kShareFramesMax + 3; ++i) h.relay.on_data(h.frame(), h.now);
    CHECK(h.relay.counters().frames_beyond_queue == 3);
    h.relay.on_link(1, true, h.now);
    h.run();
    CHECK(h.relay.counters().frames_forwarded == kShareFramesMax);
}

TEST_CASE("it reports by the time that it is given") {
    Harness h;
    h.relay.on_tick(h.now);
    h.relay.on_tick(h.now);
    CHECK(h.reports == 1);
    h.now = h.relay.next_timer();
    h.relay.on_tick(h.now);
    CHECK(h.reports == 2);
}

TEST_CASE("a drain finishes what is queued, the time limit or a second signal ends it") {
    for (const bool in_time : {true, false}) {
        Harness h;
        h.relay.on_data(h.frame(), h.now);
        h.relay.drain(h.now);
        h.relay.on_tick(h.now);
        CHECK_FALSE(h.relay.finished());
        if (in_time) {
            h.relay.on_link(1, true, h.now);
            h.run();
        } else {
            h.now += 20 * kSecondUs;
        }
        h.relay.on_tick(h.now);
        CHECK(h.relay.finished());
    }
    Harness h;
    h.relay.on_data(h.frame(), h.now);
    h.relay.drain(h.now);
    h.relay.drain(h.now);
    CHECK(h.relay.finished());
}

}  // namespace chatloop
