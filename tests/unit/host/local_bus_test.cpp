// LocalBus: FIFO per link in any order across links, and nothing comes from a closed one.
#include <doctest/doctest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

#include "chatloop/host/local_bus.hpp"

using namespace chatloop;

namespace {

// A peer that keeps what it hears as "kind from: first byte".
struct Peer {
    Peer(LocalBus& bus, const std::string& name, const std::string& endpoint)
        : outbox(bus.attach(name, endpoint, handlers())) {}

    LocalBus::Handlers handlers() {
        LocalBus::Handlers h;
        h.control = [this](const std::string& from, Message bytes, TimeUs) {
            heard["control " + from].push_back(bytes.data()[0]);
        };
        h.front = [this](const std::string& from, Message bytes, TimeUs) {
            heard["front " + from].push_back(bytes.data()[0]);
        };
        h.data = [this](Message bytes, TimeUs now) {
            heard["data"].push_back(bytes.data()[0]);
            heard_at = now;
        };
        h.link = [this](LinkId link, bool up, TimeUs) { links[link] = up; };
        return h;
    }

    std::map<std::string, std::vector<int>> heard;
    std::map<LinkId, bool> links;
    TimeUs heard_at = 0;
    Outbox& outbox;
};

Message message(uint8_t value) { return Message(std::vector<uint8_t>{value}); }

void deliver_all(LocalBus& bus) {
    for (int i = 0; bus.pending() > 0; ++i) {
        REQUIRE(i < 10'000);
        bus.deliver(0, 1);
    }
}

}  // namespace

TEST_CASE("each kind arrives where it was sent, with its sender's name and the time") {
    LocalBus bus;
    Peer router(bus, "router", "in:router");
    Peer worker(bus, "worker", "in:worker");
    worker.outbox.send_control("router", {1});
    router.outbox.send_control("worker", {2});
    bus.send_front("worker", "router", {3});
    router.outbox.send_client("worker", {4});
    router.outbox.open_link(7, "in:worker");
    router.outbox.send_data(7, message(5));
    CHECK(router.heard.empty());  // nothing is delivered within a call
    while (bus.pending() > 0) bus.deliver(bus.pending() - 1, 99);
    CHECK(router.heard["control worker"] == std::vector<int>{1});
    CHECK(worker.heard["control router"] == std::vector<int>{2});
    CHECK(router.heard["front worker"] == std::vector<int>{3});
    CHECK(worker.heard["front router"] == std::vector<int>{4});
    CHECK(worker.heard["data"] == std::vector<int>{5});
    CHECK(worker.heard_at == 99);
    CHECK(router.links == std::map<LinkId, bool>{{7, true}});
}

TEST_CASE("per link the order holds, whichever link delivers next") {
    for (uint32_t seed = 0; seed < 50; ++seed) {
        CAPTURE(seed);
        std::mt19937 random(seed);
        LocalBus bus;
        Peer a(bus, "a", "in:a");
        Peer b(bus, "b", "in:b");
        a.outbox.open_link(1, "in:b");
        for (uint8_t i = 0; i < 20; ++i) {
            a.outbox.send_data(1, message(i));
            a.outbox.send_control("b", {i});
            bus.send_front("a", "b", {i});
            b.outbox.send_control("a", {i});
            if (random() % 3 == 0) bus.deliver(random() % bus.pending(), 1);
        }
        while (bus.pending() > 0) bus.deliver(random() % bus.pending(), 1);
        std::vector<int> ascending;
        for (int i = 0; i < 20; ++i) ascending.push_back(i);
        CHECK(b.heard["data"] == ascending);
        CHECK(b.heard["control a"] == ascending);
        CHECK(b.heard["front a"] == ascending);
        CHECK(a.heard["control b"] == ascending);
    }
}

TEST_CASE("across links the caller chooses") {
    LocalBus bus;
    Peer a(bus, "a", "in:a");
    Peer b(bus, "b", "in:b");
    a.outbox.send_control("b", {1});
    bus.send_front("a", "b", {2});
    REQUIRE(bus.pending() == 2);
    bus.deliver(1, 1);
    CHECK(b.heard["control a"].empty());
    CHECK(b.heard["front a"] == std::vector<int>{2});
}

TEST_CASE("what waits on a link that is closed is gone with it") {
    LocalBus bus;
    Peer a(bus, "a", "in:a");
    Peer b(bus, "b", "in:b");
    a.outbox.open_link(1, "in:b");
    a.outbox.open_link(2, "in:b");
    for (uint8_t i = 0; i < 3; ++i) {
        a.outbox.send_data(1, message(i));
        a.outbox.send_data(2, message(static_cast<uint8_t>(10 + i)));
    }
    CHECK(a.outbox.backlog(1) == 3);
    a.outbox.close_link(1);
    CHECK(a.outbox.backlog(1) == 0);
    deliver_all(bus);
    CHECK(b.heard["data"] == std::vector<int>{10, 11, 12});
    CHECK(a.links == std::map<LinkId, bool>{{2, true}});  // not even that link 1 came up
    CHECK(a.outbox.backlog(2) == 0);
}

TEST_CASE("a new link to the same peer begins empty") {
    LocalBus bus;
    Peer a(bus, "a", "in:a");
    Peer b(bus, "b", "in:b");
    a.outbox.open_link(1, "in:b");
    a.outbox.send_data(1, message(1));
    a.outbox.close_link(1);
    a.outbox.open_link(2, "in:b");
    CHECK(a.outbox.backlog(2) == 0);
    a.outbox.send_data(2, message(2));
    deliver_all(bus);
    CHECK(b.heard["data"] == std::vector<int>{2});
}

TEST_CASE("who is not there hears nothing, and no link to it comes up") {
    LocalBus bus;
    Peer a(bus, "a", "in:a");
    a.outbox.send_control("nobody", {1});
    a.outbox.send_client("nobody", {1});
    a.outbox.open_link(1, "in:nobody");
    a.outbox.send_data(1, message(1));
    deliver_all(bus);
    CHECK(a.links.empty());
    CHECK(a.heard.empty());
}
