#include "chatloop/http/callback.hpp"

#include <doctest/doctest.h>

#include <poll.h>

#include "loopback.hpp"

using namespace chatloop;
using namespace chatloop::http;
using namespace chatloop::http::testing;

TEST_CASE("a callback is tried again until it is taken") {
    Loopback loopback;
    std::string log;
    const std::string url = "http://127.0.0.1:" + std::to_string(loopback.port()) + "/ready";
    auto made = Callback::create(
        url, [](const std::string& own) { return "from " + own; },
        [&](char level, const std::string& text) { log += level + text + "\n"; });
    REQUIRE(made);
    Callback& callback = **made;
    TimeUs now = 0;
    const auto turn = [&] {
        for (int i = 0; i < 5; ++i) {
            callback.turn(now);
            loopback.settle();
        }
    };
    for (const int status : {500, 404, 204}) {
        now = std::max(now, callback.next_timer());
        turn();
        REQUIRE(loopback.arrived.size() == 1);
        const Request& request = loopback.requests[loopback.arrived[0]];
        CHECK(request.path == "/ready");
        CHECK(request.body == "from 127.0.0.1");
        loopback.server().respond(loopback.arrived[0], {status, "", "", {}});
        loopback.arrived.clear();
        CHECK_FALSE(callback.done());
        turn();
    }
    CHECK(callback.done());
    CHECK(callback.next_timer() == kNever);
    CHECK(log.find("500") != log.npos);
    CHECK(log.find("taken") != log.npos);
}

TEST_CASE("a server that is not there, and one that never answers, only cost time") {
    Loopback loopback;
    const auto log = [](char, const std::string&) {};
    const auto body = [](const std::string&) { return std::string("x"); };
    auto nowhere = Callback::create("http://127.0.0.1:1/", body, log);
    REQUIRE(nowhere);
    TimeUs now = 0;
    TimeUs pause = 0;
    for (int i = 0; i < 20; ++i) {
        now = std::max(now + 1, (*nowhere)->next_timer());
        (*nowhere)->turn(now);
        pollfd item{(*nowhere)->fd(), POLLIN, 0};
        poll(&item, 1, 100);
        (*nowhere)->turn(now);
        pause = std::max(pause, (*nowhere)->next_timer() - now);
    }
    CHECK_FALSE((*nowhere)->done());
    CHECK(pause == 30 * kSecondUs);
    const std::string url = "http://127.0.0.1:" + std::to_string(loopback.port());
    auto silent = Callback::create(url, body, log);
    REQUIRE(silent);
    for (int i = 0; i < 5; ++i) {
        (*silent)->turn(1);
        loopback.settle();
    }
    CHECK(loopback.arrived.size() == 1);
    (*silent)->turn((*silent)->next_timer());
    loopback.until([&] { return loopback.gone.size() == 1; });
}

TEST_CASE("URLs that are none") {
    const auto log = [](char, const std::string&) {};
    const auto body = [](const std::string&) { return std::string(); };
    for (const char* url : {"", "127.0.0.1:80", "https://127.0.0.1/", "http://", "http://:80/",
                            "http://127.0.0.1:x/", "http://127.0.0.1:80/a b",
                            "http://127.0.0.1\r\nX: y/"})
        CHECK_FALSE(Callback::create(url, body, log));
}
