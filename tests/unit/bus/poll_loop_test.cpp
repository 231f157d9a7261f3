#include "chatloop/bus/poll_loop.hpp"

#include <doctest/doctest.h>
#include <sys/time.h>

#include <csignal>
#include <utility>
#include <vector>

#include "chatloop/core/limits.hpp"
#include "helpers.hpp"

namespace chatloop::test {
namespace {

// Runs until told otherwise or for 5 s; what happens is set by each test.
struct Script : LoopHandler {
    std::function<void(TimeUs)> tick = [](TimeUs) {};
    std::function<void(TimeUs)> unit = [](TimeUs) {};
    TimeUs timer = kNever;
    int work = 0;
    bool done = false;
    int ticks = 0;
    TimeUs end = monotonic_now() + 5 * kSecondUs;

    void on_tick(TimeUs now) override {
        ++ticks;
        tick(now);
    }
    TimeUs next_timer() const override { return std::min(timer, end); }
    bool has_work() const override { return work > 0; }
    void run_unit(TimeUs now) override {
        --work;
        unit(now);
    }
    bool finished() const override { return done || monotonic_now() > end; }
};

struct Pair {
    Pair(Context& context, const std::string& endpoint)
        : in(context, SocketKind::kPull, SocketUse::kData),
          out(context, SocketKind::kPush, SocketUse::kData) {
        REQUIRE(in.bind(endpoint).ok());
        REQUIRE(out.connect(endpoint).ok());
    }
    void send(const std::string& text) {
        Message message = message_of(text);
        REQUIRE(out.send(message) == Io::kOk);
    }
    Socket in;
    Socket out;
};

}  // namespace

TEST_CASE("control comes before data, data before one unit of work") {
    Context context;
    Pair control(context, "inproc://control");
    Pair data(context, "inproc://data");
    PollLoop loop;
    Script script;
    std::string order;
    int data_seen = 0;
    loop.add_socket(data.in, Priority::kData, [&](TimeUs, Envelope) {
        order += 'd';
        script.done = ++data_seen == 40;
    });
    loop.add_socket(control.in, Priority::kControl, [&](TimeUs, Envelope) { order += 'c'; });
    script.tick = [&](TimeUs) { order += 't'; };
    script.unit = [&](TimeUs) { order += 'u'; };
    script.work = 3;
    for (int i = 0; i < 40; ++i) data.send("d");
    for (int i = 0; i < 70; ++i) control.send("c");
    loop.run(script);
    const auto turn = [](int control, int frames) {
        return std::string(control, 'c') + "t" + std::string(frames, 'd') + "u";
    };
    CHECK(order == turn(kDrainControlMax, kDrainDataMax) +
                       turn(70 - kDrainControlMax, 40 - kDrainDataMax));
}

TEST_CASE("an idle loop sleeps until its timer") {
    PollLoop loop;
    Script script;
    const TimeUs start = monotonic_now();
    script.timer = start + 30 * kMillisecondUs;
    script.tick = [&](TimeUs now) { script.done = now >= script.timer; };
    loop.run(script);
    const TimeUs took = monotonic_now() - start;
    CHECK(took >= 30 * kMillisecondUs);
    CHECK(took < 500 * kMillisecondUs);
    CHECK(script.ticks <= 2);
}

TEST_CASE("a link without a backlog lets the loop sleep, one with a backlog is flushed by it") {
    Context context;
    const std::string endpoint = fresh_ipc_endpoint();
    Socket pull(context, SocketKind::kPull, SocketUse::kData);
    Link link(context, endpoint, monotonic_now());
    REQUIRE(link.send(message_of("waiting")));
    PollLoop loop;
    Script script;
    std::vector<bool> changes;
    bool bound = false;
    loop.add_link(link, [&](TimeUs, bool up) { changes.push_back(up); });
    loop.add_socket(pull, Priority::kData, [&](TimeUs now, Envelope envelope) {
        CHECK(text_of(envelope.message) == "waiting");
        script.ticks = 0;
        script.timer = now + 50 * kMillisecondUs;
    });
    script.timer = monotonic_now() + 10 * kMillisecondUs;
    script.tick = [&](TimeUs now) {
        if (now < script.timer) return;
        script.done = bound;
        if (!bound) REQUIRE(pull.bind(endpoint).ok());
        bound = true;
        script.timer = kNever;
    };
    loop.run(script);
    CHECK(script.done);
    CHECK(changes == std::vector<bool>{true});
    CHECK(link.backlog() == 0);
    CHECK(script.ticks <= 5);
}

TEST_CASE("a message that a send on the same socket has taken in wakes the loop") {
    Context context;
    Socket router(context, SocketKind::kRouter, SocketUse::kFront);
    Socket dealer(context, SocketKind::kDealer, SocketUse::kFront, "client");
    REQUIRE(router.bind("inproc://both-ways").ok());
    REQUIRE(dealer.connect("inproc://both-ways").ok());
    PollLoop loop;
    Script script;
    std::string heard;
    bool answered = false;
    loop.add_socket(router, Priority::kData, [&](TimeUs, Envelope envelope) {
        heard += text_of(envelope.message);
        script.done = heard == "ab";
    });
    REQUIRE(send_soon(dealer, "a"));
    script.tick = [&](TimeUs) {
        if (heard != "a" || !router.settled() || std::exchange(answered, true)) return;
        Message second = message_of("b");
        REQUIRE(dealer.send(second) == Io::kOk);
        usleep(5000);  // libzmq looks at what came once in a millisecond
        Message reply = message_of("reply");
        REQUIRE(router.send_to("client", reply) == Io::kOk);
        CHECK_FALSE(router.settled());
    };
    const TimeUs start = monotonic_now();
    script.timer = start + 20 * kMillisecondUs;  // for the tick behind the first message
    loop.run(script);
    CHECK(heard == "ab");
    CHECK(monotonic_now() - start < kSecondUs);
}

TEST_CASE("a loop with work and nothing to receive asks each socket once, not every turn") {
    Context context;
    Pair pair(context, "inproc://quiet");
    PollLoop loop;
    Script script;
    loop.add_socket(pair.in, Priority::kData, [&](TimeUs, Envelope) { FAIL("nothing was sent"); });
    int unsettled = 0;
    script.tick = [&](TimeUs) { unsettled += pair.in.settled() ? 0 : 1; };
    script.work = 100;
    script.unit = [&](TimeUs) { script.done = script.work == 0; };
    loop.run(script);
    CHECK(script.ticks == 100);
    CHECK(unsettled <= 1);
}

TEST_CASE("what is removed in a handler is not called again") {
    Context context;
    auto first = std::make_unique<Pair>(context, "inproc://first");
    auto second = std::make_unique<Pair>(context, "inproc://second");
    PollLoop loop;
    Script script;
    int calls = 0;
    // Whichever comes first removes and destroys both, and adds a third.
    Pair third(context, "inproc://third");
    const auto once = [&](TimeUs, Envelope) {
        ++calls;
        loop.remove_socket(first->in);
        loop.remove_socket(second->in);
        first.reset();
        second.reset();
        const auto finish = [&](TimeUs, Envelope) { script.done = true; };
        loop.add_socket(third.in, Priority::kControl, finish);
        third.send("z");
    };
    for (int i = 0; i < 3; ++i) first->send("x");
    for (int i = 0; i < 3; ++i) second->send("y");
    loop.add_socket(first->in, Priority::kControl, once);
    loop.add_socket(second->in, Priority::kData, once);
    loop.run(script);
    CHECK(script.done);
    CHECK(calls == 1);
}

TEST_CASE("a link may be destroyed by its own change") {
    Context context;
    Socket pull(context, SocketKind::kPull, SocketUse::kData);
    REQUIRE(pull.bind("tcp://127.0.0.1:*").ok());
    auto link = std::make_unique<Link>(context, pull.last_endpoint(), monotonic_now());
    PollLoop loop;
    Script script;
    loop.add_link(*link, [&](TimeUs, bool up) {
        CHECK(up);
        loop.remove_link(*link);
        link.reset();
        script.done = true;
    });
    loop.run(script);
    CHECK(link == nullptr);
}

TEST_CASE("a long unit is a gap, waiting is none") {
    PollLoop loop;
    Script script;
    script.timer = monotonic_now() + 40 * kMillisecondUs;
    script.tick = [&](TimeUs now) {
        if (now < script.timer) return;
        script.timer = kNever;
        CHECK(loop.take_loop_gap() < 30 * kMillisecondUs);
        script.work = 1;
    };
    script.unit = [&](TimeUs) {
        usleep(60'000);
        script.timer = monotonic_now();
        script.tick = [&](TimeUs) { script.done = true; };
    };
    loop.run(script);
    CHECK(loop.take_loop_gap() >= 60 * kMillisecondUs);
    CHECK(loop.take_loop_gap() == 0);
}

TEST_CASE("SIGTERM arrives through the loop") {
    SignalFd signals;
    PollLoop loop;
    Script script;
    int taken = 0;
    loop.add_fd(signals.fd(), [&](TimeUs) {
        taken = signals.take();
        script.done = true;
    });
    script.tick = [&](TimeUs) {
        if (script.ticks == 1) std::raise(SIGTERM);
    };
    script.timer = monotonic_now() + kMillisecondUs;
    loop.run(script);
    CHECK(taken == SIGTERM);
    CHECK(signals.take() == 0);
}

TEST_CASE("a signal that interrupts the wait changes nothing") {
    static std::atomic<int> alarms = 0;
    struct sigaction action {};
    action.sa_handler = [](int) { ++alarms; };  // without SA_RESTART
    REQUIRE(sigaction(SIGALRM, &action, nullptr) == 0);
    Context context;
    Pair pair(context, "inproc://interrupted");
    PollLoop loop;
    Script script;
    int received = 0;
    loop.add_socket(pair.in, Priority::kData, [&](TimeUs, Envelope) { ++received; });
    const TimeUs start = monotonic_now();
    script.timer = start + 60 * kMillisecondUs;
    script.tick = [&](TimeUs now) { script.done = now >= script.timer; };
    const itimerval every_5_ms = {{0, 5000}, {0, 5000}};
    REQUIRE(setitimer(ITIMER_REAL, &every_5_ms, nullptr) == 0);
    loop.run(script);
    const itimerval off = {};
    REQUIRE(setitimer(ITIMER_REAL, &off, nullptr) == 0);
    CHECK(alarms >= 5);
    CHECK(received == 0);
    CHECK(monotonic_now() - start >= 60 * kMillisecondUs);
}

}  // namespace chatloop::test
