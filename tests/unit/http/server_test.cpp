#include <algorithm>
#include <set>

#include "chatloop/core/limits.hpp"
#include "loopback.hpp"

using namespace chatloop;
using namespace chatloop::http;
using namespace chatloop::http::testing;

namespace {

bool has(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

Response text(const std::string& body) { return {200, "text/plain", body, {}}; }

}  // namespace

TEST_CASE("a request comes whole, its answer goes out, the connection is used again") {
    Loopback loopback;
    RawClient client(loopback);
    for (const std::string body : {"first", "second"}) {
        CHECK(client.send(post("/a%20b?x=1", body)));
        REQUIRE(loopback.arrived.size() == 1);
        const ExchangeId id = loopback.arrived.back();
        const Request& request = loopback.requests[id];
        CHECK(request.method == "POST");
        CHECK(request.path == "/a b");
        CHECK(request.query.at("x") == "1");
        CHECK(request.peer == "127.0.0.1");
        CHECK(request.header("host") == "test");
        CHECK(request.body == body);
        CHECK(client.receive().empty());  // it waits
        loopback.server().respond(id, text("answer to " + body));
        const std::string answer = client.receive();
        CHECK(answer.starts_with("HTTP/1.1 200 OK\r\n"));
        CHECK(answer.ends_with("answer to " + body));
        loopback.arrived.clear();
    }
    CHECK(loopback.gone.empty());
    CHECK(loopback.server().idle());
}

TEST_CASE("pipelined requests are answered in order") {
    Loopback loopback;
    RawClient client(loopback);
    client.send(get("/1") + get("/2") + get("/3"));
    std::string all;
    for (const char* path : {"/1", "/2", "/3"}) {
        REQUIRE(loopback.arrived.size() == 1);
        const ExchangeId id = loopback.arrived.back();
        CHECK(loopback.requests[id].path == path);
        loopback.arrived.clear();
        loopback.server().respond(id, text(path));
        all += client.receive();
    }
    CHECK(all.find("/1") < all.find("/2"));
    CHECK(all.find("/2") < all.find("/3"));
}

TEST_CASE("a stream leaves piece by piece and ends") {
    Loopback loopback;
    RawClient client(loopback);
    client.send(get("/"));
    const ExchangeId id = loopback.arrived.at(0);
    loopback.server().start_stream(id, text(""));
    CHECK(has(client.receive(), "Transfer-Encoding: chunked"));
    loopback.server().write(id, "one");
    CHECK(client.receive() == "3\r\none\r\n");
    loopback.server().write(id, "two");
    loopback.server().end(id);
    CHECK(client.receive() == "3\r\ntwo\r\n0\r\n\r\n");
    CHECK(loopback.gone.empty());
    client.send(get("/again"));
    CHECK(loopback.arrived.size() == 2);
}

TEST_CASE("a client that goes is told once, while it waits and while it streams") {
    Loopback loopback;
    for (const bool streams : {false, true}) {
        for (const bool half : {false, true}) {
            RawClient client(loopback);
            client.send(get("/"));
            const ExchangeId id = loopback.arrived.back();
            if (streams) loopback.server().start_stream(id, text("begin"));
            loopback.settle();
            loopback.gone.clear();
            half ? client.half_close() : client.close();
            loopback.until([&] { return loopback.server().idle(); });
            CHECK(loopback.gone == std::vector<ExchangeId>{id});
            loopback.server().write(id, "nobody");  // without effect
            loopback.server().end(id);
        }
    }
    CHECK(loopback.server().counters().clients_gone == 4);
}

TEST_CASE("requests whose end is in doubt are refused and the connection is closed") {
    const std::string host = "Host: a\r\n";
    const std::vector<std::pair<std::string, std::string>> cases = {
        {"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "400"},
        {"Content-Length: 3\r\nContent-Length: 4\r\n", "400"},
        {"Content-Length: -1\r\n", "400"},
        {"Content-Length: 99999999999999999999\r\n", ""},  // libmicrohttpd's own refusal
        {"Transfer-Encoding: gzip\r\n", "501"},
    };
    for (const auto& [headers, status] : cases) {
        CAPTURE(headers);
        Loopback loopback;
        RawClient client(loopback);
        client.send("POST / HTTP/1.1\r\n" + host + headers + "\r\nabc");
        const std::string answer = client.receive();
        if (!status.empty()) CHECK(answer.starts_with("HTTP/1.1 " + status));
        CHECK(client.closed());
        CHECK(loopback.arrived.empty());
    }
}

TEST_CASE("garbage and endless headers end the connection alone") {
    Loopback loopback;
    RawClient good(loopback);
    RawClient bad(loopback);
    bad.send(std::string("\x16\x03\x01\x02 not http\r\n\r\n"));
    RawClient endless(loopback);
    endless.send("GET / HTTP/1.1\r\nHost: a\r\n");
    for (int i = 0; i < 100 && endless.send("X-Filler: " + std::string(1000, 'x') + "\r\n"); ++i) {
    }
    CHECK(endless.closed());
    CHECK(loopback.arrived.empty());
    good.send(get("/"));
    CHECK(loopback.arrived.size() == 1);
}

TEST_CASE("a body that is too large gets 413 once it was read, one far too large at once") {
    Loopback loopback;
    RawClient client(loopback);
    CHECK(client.send(post("/", std::string(kHttpBodyBytesMax + 1, 'x'))));
    CHECK(client.receive().starts_with("HTTP/1.1 413"));
    CHECK_FALSE(client.closed());
    RawClient huge(loopback);
    huge.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000000\r\n\r\n");
    CHECK(huge.receive().starts_with("HTTP/1.1 413"));
    CHECK(huge.closed());
    RawClient polite(loopback);
    polite.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: " +
                std::to_string(kHttpBodyBytesMax + 1) + "\r\n\r\n");
    CHECK(polite.receive().starts_with("HTTP/1.1 413"));
    CHECK(loopback.arrived.empty());
}

TEST_CASE("bodies of all requests together are bounded") {
    Loopback loopback;
    std::vector<std::unique_ptr<RawClient>> clients;
    const std::string most(kHttpBodyBytesMax - 1, 'x');
    const size_t fit = kHttpBodiesBytesMax / kHttpBodyBytesMax;
    for (size_t i = 0; i < fit; ++i) {
        clients.push_back(std::make_unique<RawClient>(loopback));
        clients.back()->send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " +
                             std::to_string(kHttpBodyBytesMax) + "\r\n\r\n" + most);
    }
    RawClient late(loopback);
    late.send(post("/", std::string(kHttpSmallBodyBytes + 1, 'x')));
    CHECK(late.receive().starts_with("HTTP/1.1 503"));
    RawClient small(loopback);
    small.send(post("/", "who asks for little is heard"));
    loopback.until([&] { return loopback.arrived.size() == 1; });
    loopback.server().respond(loopback.arrived[0], text("heard"));
    clients.clear();
    loopback.until([&] { return loopback.server().idle(); });
    late.send(post("/", "now it fits"));
    CHECK(loopback.arrived.size() == 2);
}

TEST_CASE("who is idle, or sends a request too slowly, is closed") {
    Loopback loopback;
    RawClient idle(loopback);
    RawClient slow_header(loopback);
    slow_header.send("GET / HTTP/1.1\r\nHost: ");
    RawClient slow_body(loopback);
    slow_body.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n1");
    RawClient waiting(loopback);
    waiting.send(get("/"));
    for (int i = 0; i < 5; ++i) {
        loopback.pass(kHttpIdleUs / 4);
        slow_header.send("x");
        slow_body.send("x");
    }
    CHECK(idle.closed());
    CHECK(slow_header.closed());
    CHECK(slow_body.closed());
    CHECK_FALSE(waiting.closed());  // what takes long here is the answer
    CHECK(loopback.arrived.size() == 1);
}

TEST_CASE("who does not read is closed when too much waits, or for too long") {
    Loopback loopback;
    const std::string piece(1u << 20, 'x');
    const auto begin = [&](RawClient& client) {
        client.send(get("/"));
        loopback.server().start_stream(loopback.arrived.back(), text(""));
        loopback.settle();
        return loopback.arrived.back();
    };
    RawClient much(loopback, 4096);
    const ExchangeId id = begin(much);
    for (size_t i = 0; i <= kHttpStreamBytesMax / piece.size() + 16; ++i) {
        loopback.server().write(id, piece);
        loopback.settle();
    }
    CHECK(loopback.gone == std::vector<ExchangeId>{id});
    RawClient stuck(loopback, 4096);
    const ExchangeId other = begin(stuck);
    for (int i = 0; i < 12; ++i) loopback.server().write(other, piece);
    loopback.pass(kHttpStallUs / 2);
    CHECK(loopback.gone.size() == 1);
    loopback.pass(kHttpStallUs);
    CHECK(loopback.gone == std::vector<ExchangeId>{id, other});
    loopback.until([&] { return loopback.server().idle(); });
    CHECK(loopback.server().waiting_bytes() == 0);
}

TEST_CASE("a large answer waits for its client, is counted meanwhile, and not for ever") {
    constexpr size_t kBytes = 20u << 20;
    Loopback loopback;
    const auto answer = [&](RawClient& client) {
        client.send(get("/"));
        loopback.server().respond(loopback.arrived.back(), text(std::string(kBytes, 'x')));
        loopback.settle();
    };
    RawClient reader(loopback);
    answer(reader);
    CHECK(loopback.server().waiting_bytes() > kBytes / 8);  // what the kernel did not take
    std::string all;
    for (int stuck = 0; all.size() < kBytes && stuck < 100'000; ++stuck) all += reader.receive();
    CHECK(all.find("Content-Length: " + std::to_string(kBytes)) != all.npos);
    CHECK(std::count(all.begin(), all.end(), 'x') >= static_cast<ptrdiff_t>(kBytes));
    loopback.until([&] { return loopback.server().idle(); });
    CHECK(loopback.server().waiting_bytes() == 0);
    reader.send(get("/"));  // on the same connection
    CHECK(loopback.arrived.size() == 2);

    RawClient stuck(loopback, 4096);
    answer(stuck);
    loopback.pass(kHttpStallUs / 2);
    CHECK(loopback.server().waiting_bytes() > 0);
    loopback.pass(kHttpStallUs);
    CHECK(loopback.server().counters().slow_clients == 1);
    CHECK(loopback.server().waiting_bytes() == 0);
    CHECK(loopback.gone.empty());  // its owner has done with it
}

TEST_CASE("a server ends with requests waiting and streaming") {
    auto loopback = std::make_unique<Loopback>();
    RawClient waiting(*loopback);
    waiting.send(get("/"));
    RawClient streaming(*loopback);
    streaming.send(get("/"));
    loopback->server().start_stream(loopback->arrived.back(), text("begin"));
    loopback->settle();
    loopback.reset();
}

TEST_CASE("addresses") {
    for (const char* good : {"127.0.0.1:8080", "0.0.0.0:*", "[::1]:0", "[::1]:9091+"})
        CHECK(check_address(good));
    for (const char* bad : {"", "8080", "localhost:80", "127.0.0.1:", "127.0.0.1:70000", "::1:80",
                            "127.0.0.1:+", "127.0.0.1:0+", "127.0.0.1:*+", "127.0.0.1:80++"})
        CHECK_FALSE(check_address(bad));
    Loopback loopback;
    const auto second = Server::listen(loopback.server().address(), {}, 0);
    REQUIRE_FALSE(second);
    CHECK(second.error().code == ErrorCode::kPortInUse);
}

// Others of this machine take and leave ports meanwhile, so which one is next is not certain.
TEST_CASE("PORT+ takes a free port from there on, of a bounded number") {
    const auto port_of = [](const Server& server) {
        return std::stoi(server.address().substr(server.address().rfind(':') + 1));
    };
    Loopback loopback;
    const std::string from = loopback.server().address() + "+";
    std::vector<std::unique_ptr<Server>> taken;
    std::set<int> ports = {port_of(loopback.server())};
    for (;;) {
        auto server = Server::listen(from, {}, 0);
        if (!server) {
            CHECK(server.error().code == ErrorCode::kPortInUse);
            break;
        }
        CHECK(ports.insert(port_of(**server)).second);
        taken.push_back(std::move(*server));
    }
    CHECK(!taken.empty());
    CHECK(*ports.begin() == port_of(loopback.server()));
    CHECK(*ports.rbegin() < *ports.begin() + kHttpPortTriesMax);
}
