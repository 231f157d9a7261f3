#include "chatloop/bus/link.hpp"

#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <memory>

#include "helpers.hpp"

namespace chatloop::test {
namespace {

std::unique_ptr<Socket> bound_pull(Context& context, const std::string& endpoint) {
    auto pull = std::make_unique<Socket>(context, SocketKind::kPull, SocketUse::kData);
    REQUIRE(pull->bind(endpoint).ok());
    return pull;
}

// A listener that takes connections and answers with nothing of ZeroMQ.
class Stranger {
public:
    Stranger() : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        auto* any = reinterpret_cast<sockaddr*>(&address);
        REQUIRE(::bind(fd_, any, sizeof address) == 0);
        REQUIRE(::listen(fd_, 8) == 0);
        socklen_t size = sizeof address;
        REQUIRE(::getsockname(fd_, any, &size) == 0);
        endpoint_ = "tcp://127.0.0.1:" + std::to_string(ntohs(address.sin_port));
    }
    ~Stranger() { ::close(fd_); }
    const std::string& endpoint() const { return endpoint_; }

private:
    int fd_;
    std::string endpoint_;
};

bool changes_to(Link& link, bool up) {
    return eventually([&] {
        const std::vector<bool> changes = link.take_changes(monotonic_now());
        return !changes.empty() && changes.back() == up;
    });
}

}  // namespace

TEST_CASE("a link goes up, down with its peer, and up with the next one") {
    for (const std::string& endpoint : {std::string("tcp://127.0.0.1:*"), fresh_ipc_endpoint()}) {
        Context context;
        auto pull = bound_pull(context, endpoint);
        const std::string bound = pull->last_endpoint();
        Link link(context, bound, monotonic_now());
        CHECK_FALSE(link.up());
        REQUIRE(changes_to(link, true));
        CHECK(link.up());
        CHECK(link.next_timer() == kNever);
        pull.reset();
        REQUIRE(changes_to(link, false));
        CHECK_FALSE(link.up());
        REQUIRE(eventually([&] {
            auto again = std::make_unique<Socket>(context, SocketKind::kPull, SocketUse::kData);
            if (!again->bind(bound).ok()) return false;
            pull = std::move(again);
            return true;
        }));
        REQUIRE(changes_to(link, true));
        REQUIRE(link.send(message_of("after")));
        Envelope envelope;
        REQUIRE(receive_soon(*pull, envelope));
        CHECK(text_of(envelope.message) == "after");
        CHECK(link.sockets_made() == 1);
    }
}

TEST_CASE("frames wait in order until the link is up, and no more than the bound") {
    Context context;
    const std::string endpoint = fresh_ipc_endpoint();
    Link link(context, endpoint, monotonic_now());
    for (size_t i = 0; i < Link::kBacklogMax; ++i) {
        REQUIRE(link.send(message_of(std::to_string(i))));
    }
    CHECK_FALSE(link.send(message_of("one too many")));
    CHECK(link.backlog() == Link::kBacklogMax);

    const auto pull = bound_pull(context, endpoint);
    REQUIRE(changes_to(link, true));
    REQUIRE(eventually([&] {
        link.flush();
        return link.backlog() == 0;
    }));
    Envelope envelope;
    for (size_t i = 0; i < Link::kBacklogMax; ++i) {
        REQUIRE(receive_soon(*pull, envelope));
        CHECK(text_of(envelope.message) == std::to_string(i));
    }
}

TEST_CASE("a link without a handshake gets another socket after 3 s") {
    Context context;
    const Stranger stranger;
    TimeUs now = 1000;
    Link link(context, stranger.endpoint(), now);
    CHECK(link.next_timer() == now + 3 * kSecondUs);
    usleep(50'000);
    CHECK(link.take_changes(now).empty());  // connected, which is not up
    link.on_timer(now + 3 * kSecondUs - 1);
    CHECK(link.sockets_made() == 1);
    now += 3 * kSecondUs;
    link.on_timer(now);
    CHECK(link.sockets_made() == 2);
    CHECK(link.next_timer() == now + 3 * kSecondUs);
}

TEST_CASE("an endpoint that is none makes a link that never comes up") {
    Context context;
    Link link(context, "tcp://no.such.host:1", 0);
    CHECK_FALSE(link.up());
    link.on_timer(3 * kSecondUs);
    CHECK(link.sockets_made() == 2);
    CHECK(link.take_changes(0).empty());
}

TEST_CASE("an endpoint within the process is not connected: a peer's frames reach no monitor") {
    Context context;
    const auto pull = bound_pull(context, "inproc://ours");
    Link link(context, "inproc://ours", monotonic_now());
    REQUIRE(link.send(message_of("x")));
    usleep(20'000);
    link.flush();
    CHECK(link.backlog() == 1);
}

TEST_CASE("without a descriptor a link waits and comes up when there are some again") {
    Context context;
    const auto pull = bound_pull(context, "tcp://127.0.0.1:*");
    rlimit usual;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &usual) == 0);
    for (rlim_t spare : {0, 1, 2}) {  // a link takes three: its socket's, its monitor's two
        CAPTURE(spare);
        const int lowest = ::dup(0);  // all below it are taken
        REQUIRE(::close(lowest) == 0);
        const rlimit tight{static_cast<rlim_t>(lowest) + spare, usual.rlim_max};
        REQUIRE(setrlimit(RLIMIT_NOFILE, &tight) == 0);
        Link link(context, pull->last_endpoint(), 0);
        REQUIRE(setrlimit(RLIMIT_NOFILE, &usual) == 0);
        CHECK(link.sockets_made() == 0);
        CHECK(link.socket() == nullptr);
        CHECK(link.take_changes(0).empty());
        CHECK(link.send(message_of("kept")));
        CHECK(link.next_timer() == Link::kHandshakeTimeoutUs);
        link.on_timer(Link::kHandshakeTimeoutUs);
        REQUIRE(changes_to(link, true));
        link.flush();
        Envelope envelope;
        REQUIRE(receive_soon(*pull, envelope));
        CHECK(text_of(envelope.message) == "kept");
    }
}

TEST_CASE("links can be closed at any moment") {
    Context context;
    const auto pull = bound_pull(context, "tcp://127.0.0.1:*");
    for (int i = 0; i < 50; ++i) {
        Link link(context, pull->last_endpoint(), monotonic_now());
        if (i % 2 == 0) usleep(1000 * (i % 10));
        CHECK(link.send(message_of("x")));
    }
    // An event for a monitor without a reader would have stopped the I/O thread.
    const auto other = bound_pull(context, "tcp://127.0.0.1:*");
    Link link(context, other->last_endpoint(), monotonic_now());
    REQUIRE(changes_to(link, true));
    REQUIRE(link.send(message_of("still")));
    Envelope envelope;
    REQUIRE(receive_soon(*other, envelope));
    CHECK(text_of(envelope.message) == "still");
}

TEST_CASE("all that came at once is taken by one call") {
    Context context;
    auto pull = bound_pull(context, "tcp://127.0.0.1:*");
    const std::string bound = pull->last_endpoint();
    Link link(context, bound, monotonic_now());
    for (int round = 0; round < 3; ++round) {
        REQUIRE(eventually([&] {
            if (pull != nullptr) return true;
            pull = std::make_unique<Socket>(context, SocketKind::kPull, SocketUse::kData);
            if (!pull->bind(bound).ok()) pull.reset();
            return pull != nullptr;
        }));
        // A frame that has arrived left after the handshake was told; one on the way to a peer that
        // is gone is lost.
        REQUIRE(eventually([&] {
            Envelope envelope;
            static_cast<void>(link.send(message_of("x")));
            return pull->receive(envelope) == Io::kOk;
        }));
        if (round < 2) pull.reset();
    }
    CHECK(link.take_changes(monotonic_now()) ==
          std::vector<bool>{true, false, true, false, true});
    CHECK(link.take_changes(monotonic_now()).empty());
}

}  // namespace chatloop::test
