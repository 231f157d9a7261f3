#include "chatloop/bus/egress.hpp"

#include <doctest/doctest.h>

#include <memory>
#include <vector>

#include "helpers.hpp"

namespace chatloop::test {
namespace {

constexpr size_t kBytes = 872;  // of a message: with its overhead, 1000

// A ROUTER socket's side of each peer: how many messages it takes, and what it took.
struct FakePeers {
    struct Peer {
        size_t room = 0;
        bool reachable = true;
        std::vector<std::string> taken;
    };
    std::map<std::string, Peer> peers;

    Io try_send(const std::string& name, Message& message) {
        Peer& peer = peers[name];
        if (!peer.reachable) return Io::kUnreachable;
        if (peer.room == 0) return Io::kWouldBlock;
        --peer.room;
        peer.taken.push_back(text_of(message));
        message = Message();
        return Io::kOk;
    }
};

struct Harness {
    explicit Harness(const EgressLimits& limits = {})
        : egress([this](const std::string& peer, Message& m) { return world.try_send(peer, m); },
                 limits) {}

    void send(const std::string& peer, const std::string& text) {
        egress.send(peer, message_of(text), now);
    }
    void send_large(const std::string& peer, int count = 1) {
        for (int i = 0; i < count; ++i) send(peer, std::string(kBytes, 'x'));
    }
    // As a loop does: every timer that is due until then.
    void pass(TimeUs time) {
        const TimeUs end = now + time;
        while (egress.next_timer() <= end) {
            REQUIRE(egress.next_timer() > now);
            now = egress.next_timer();
            egress.on_timer(now);
        }
        now = end;
    }

    FakePeers world;
    Egress egress;
    TimeUs now = kSecondUs;
};

}  // namespace

TEST_CASE("what a peer does not take waits in order and leaves when there is room") {
    Harness h;
    h.world.peers["a"].room = 1;
    h.world.peers["b"].room = 100;
    for (const char* text : {"1", "2", "3", "4"}) h.send("a", text);
    h.send("b", "other");
    CHECK(h.world.peers["a"].taken == std::vector<std::string>{"1"});
    CHECK(h.world.peers["b"].taken == std::vector<std::string>{"other"});
    h.world.peers["a"].room = 2;
    h.send("a", "5");  // there is room, but it does not overtake
    CHECK(h.world.peers["a"].taken.size() == 1);
    h.pass(kSecondUs);
    CHECK(h.world.peers["a"].taken == std::vector<std::string>{"1", "2", "3"});
    h.world.peers["a"].room = 100;
    h.pass(kSecondUs);
    h.send("a", "6");
    CHECK(h.world.peers["a"].taken == std::vector<std::string>{"1", "2", "3", "4", "5", "6"});
    CHECK(h.egress.bytes() == 0);
    CHECK(h.egress.next_timer() == kNever);
    CHECK(h.egress.take_gone().empty());
    CHECK(h.egress.messages_dropped() == 0);
}

TEST_CASE("a peer that takes nothing is asked less and less often, one that takes some at once") {
    Harness h;
    h.send("a", "1");
    h.pass(10 * kSecondUs);
    const TimeUs pause = h.egress.next_timer() - h.now;
    CHECK(pause <= 500 * kMillisecondUs);
    h.send("a", "2");
    h.world.peers["a"].room = 1;
    h.pass(pause);
    CHECK(h.world.peers["a"].taken.size() == 1);
    CHECK(h.egress.next_timer() - h.now <= 5 * kMillisecondUs);
}

TEST_CASE("a peer that cannot be reached is gone with all that waits for it") {
    Harness h;
    h.send("a", "1");
    h.send("a", "2");
    h.world.peers["a"].reachable = false;
    h.pass(kSecondUs);
    CHECK(h.egress.bytes() == 0);
    CHECK(h.egress.next_timer() == kNever);
    CHECK(h.egress.messages_dropped() == 2);
    CHECK(h.egress.peers_dropped() == 1);
    CHECK(h.egress.take_gone() == std::set<std::string>{"a"});

    h.send("a", "3");  // nothing waited: it is gone all the same
    CHECK(h.egress.has_gone());
    CHECK(h.egress.peers_dropped() == 1);
    CHECK(h.egress.messages_dropped() == 3);
}

TEST_CASE("after a drop nothing is sent before the owner has heard of it, and then the end is") {
    Harness h({5000, 100'000, kSecondUs});
    h.send_large("a", 6);
    h.world.peers["a"].room = 100;
    h.send("a", "a piece behind the gap");
    CHECK(h.world.peers["a"].taken.empty());
    CHECK(h.egress.take_gone() == std::set<std::string>{"a"});
    h.send("a", "ERROR");
    CHECK(h.world.peers["a"].taken == std::vector<std::string>{"ERROR"});
}

TEST_CASE("what waits for one peer is bounded") {
    Harness h({5000, 100'000, kSecondUs});
    h.send_large("a", 5);
    CHECK(h.egress.bytes() == 5000);
    CHECK_FALSE(h.egress.has_gone());
    h.send("a", "");
    CHECK(h.egress.bytes() == 0);
    CHECK(h.egress.messages_dropped() == 6);
    CHECK(h.egress.take_gone() == std::set<std::string>{"a"});
}

TEST_CASE("what waits for all is bounded: who has taken nothing for the longest pays") {
    Harness h({5000, 12'000, 100 * kSecondUs});
    for (const char* peer : {"a", "b", "c"}) {
        h.send_large(peer, 4);
        h.pass(kSecondUs);
    }
    h.world.peers["a"].room = 1;  // the oldest makes progress, so that "b" is the one
    h.pass(kSecondUs);
    h.send_large("a", 1);
    CHECK_FALSE(h.egress.has_gone());
    h.send_large("a", 1);
    CHECK(h.egress.take_gone() == std::set<std::string>{"b"});
    CHECK(h.egress.bytes() == 9000);
}

TEST_CASE("a peer that makes no progress for long enough is gone, a slow one never") {
    Harness h({5000, 100'000, 10 * kSecondUs});
    h.send_large("slow", 5);
    h.send_large("stuck", 5);
    for (int i = 0; i < 4; ++i) {
        h.world.peers["slow"].room = 1;
        h.pass(9 * kSecondUs);
    }
    CHECK(h.egress.take_gone() == std::set<std::string>{"stuck"});
    CHECK(h.world.peers["slow"].taken.size() == 4);
    CHECK(h.egress.bytes() == 1000);
}

TEST_CASE("a real ROUTER socket: all arrives at a client that reads late") {
    Context context;
    Socket router(context, SocketKind::kRouter, SocketUse::kFront);
    Socket dealer(context, SocketKind::kDealer, SocketUse::kFront, "reader");
    REQUIRE(router.bind("tcp://127.0.0.1:*").ok());
    REQUIRE(dealer.connect(router.last_endpoint()).ok());
    REQUIRE(send_soon(dealer, "hello"));
    Envelope envelope;
    REQUIRE(receive_soon(router, envelope));
    Egress egress([&](const std::string& peer, Message& m) { return router.send_to(peer, m); });
    constexpr int kMessages = 40'000;  // 8 MB: more than the kernel's buffers hold
    const std::string padding(200, '.');
    for (int i = 0; i < kMessages; ++i)
        egress.send("reader", message_of(std::to_string(i) + padding), monotonic_now());
    CHECK(egress.bytes() > 0);
    for (int i = 0; i < kMessages; ++i) {
        REQUIRE(eventually([&] {
            egress.on_timer(monotonic_now());
            return dealer.receive(envelope) == Io::kOk;
        }));
        REQUIRE(text_of(envelope.message) == std::to_string(i) + padding);
    }
    CHECK(egress.bytes() == 0);
    CHECK_FALSE(egress.has_gone());
}

}  // namespace chatloop::test
