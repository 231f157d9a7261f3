#include <doctest/doctest.h>
#include <zmq.h>

#include <filesystem>

#include "chatloop/core/limits.hpp"
#include "helpers.hpp"

namespace chatloop::test {
namespace {

size_t thread_count() {
    const std::filesystem::directory_iterator tasks("/proc/self/task");
    return static_cast<size_t>(std::distance(begin(tasks), end(tasks)));
}

// Counts how often the bytes of a message were freed.
struct Freed {
    std::atomic<int> count = 0;
    static void on_free(void*, void* hint) { ++static_cast<Freed*>(hint)->count; }
};

// The two ends of a control connection, in one process.
struct ControlPair {
    Context context;
    Socket router{context, SocketKind::kRouter, SocketUse::kControl};
    Socket dealer;

    explicit ControlPair(const std::string& name)
        : dealer(context, SocketKind::kDealer, SocketUse::kControl, name) {
        REQUIRE(router.bind("inproc://" + name).ok());
        REQUIRE(dealer.connect("inproc://" + name).ok());
    }
};

}  // namespace

TEST_CASE("a process with sockets has three threads") {
    CHECK(thread_count() == 1);
    {
        Context context;
        Socket first(context, SocketKind::kPull, SocketUse::kData);
        Socket second(context, SocketKind::kRouter, SocketUse::kControl);
        REQUIRE(first.bind("tcp://127.0.0.1:*").ok());
        REQUIRE(second.bind(fresh_ipc_endpoint()).ok());
        CHECK(thread_count() == 3);
    }
    CHECK(thread_count() == 1);
}

TEST_CASE("messages arrive in order, over tcp and ipc") {
    for (const std::string& endpoint : {std::string("tcp://127.0.0.1:*"), fresh_ipc_endpoint()}) {
        Context context;
        Socket pull(context, SocketKind::kPull, SocketUse::kData);
        Socket push(context, SocketKind::kPush, SocketUse::kData);
        REQUIRE(pull.bind(endpoint).ok());
        REQUIRE(push.connect(pull.last_endpoint()).ok());
        for (int i = 0; i < 1000; ++i) REQUIRE(send_soon(push, std::to_string(i)));
        Envelope envelope;
        for (int i = 0; i < 1000; ++i) {
            REQUIRE(receive_soon(pull, envelope));
            CHECK(text_of(envelope.message) == std::to_string(i));
            CHECK(envelope.peer.empty());
        }
    }
}

TEST_CASE("a port in use is one clear line") {
    Context context;
    Socket first(context, SocketKind::kPull, SocketUse::kData);
    Socket second(context, SocketKind::kPull, SocketUse::kData);
    REQUIRE(first.bind("tcp://127.0.0.1:*").ok());
    const Status status = second.bind(first.last_endpoint());
    REQUIRE_FALSE(status.ok());
    CHECK(status.error().code == ErrorCode::kPortInUse);
    CHECK(status.error().message.find(first.last_endpoint()) != std::string::npos);
    CHECK(status.error().message.find('\n') == std::string::npos);
}

TEST_CASE("an address of another host is named, and is no port in use") {
    Context context;
    Socket socket(context, SocketKind::kPull, SocketUse::kData);
    const Status status = socket.bind("tcp://192.0.2.1:7100");  // for documentation, RFC 5737
    REQUIRE_FALSE(status.ok());
    CHECK(status.error().code == ErrorCode::kInvalidRequest);
    CHECK(status.error().message.find("no address of this host") != std::string::npos);
}

TEST_CASE("an endpoint is numeric") {
    Context context;
    Socket pull(context, SocketKind::kPull, SocketUse::kData);
    Socket push(context, SocketKind::kPush, SocketUse::kData);
    for (const std::string bad :
         {"", "tcp://localhost:7200", "tcp://127.0.0.1", "tcp://127.0.0.1:0", "tcp://:7200",
          "tcp://127.0.0.1:70000", "tcp://127.0.0.1:72x", "tcp://eth0:7200", "udp://127.0.0.1:1",
          "ipc://", "7200", "tcp://[::1]:7200"}) {
        CAPTURE(bad);
        REQUIRE_FALSE(pull.bind(bad).ok());
        CHECK(pull.bind(bad).error().code == ErrorCode::kInvalidRequest);
        CHECK_FALSE(push.connect(bad).ok());
    }
    CHECK_FALSE(push.connect("tcp://127.0.0.1:*").ok());
    CHECK_FALSE(push.connect(std::string("tcp://127.0.0.1\0:7200", 21)).ok());
    CHECK(push.connect("tcp://127.0.0.1:1").ok());
}

TEST_CASE("without a peer nothing is queued, and the message stays") {
    Context context;
    Socket push(context, SocketKind::kPush, SocketUse::kData);
    REQUIRE(push.connect(fresh_ipc_endpoint()).ok());
    Message message = message_of("kept");
    CHECK(push.send(message) == Io::kWouldBlock);
    CHECK(push.send(message) == Io::kWouldBlock);  // also what came back from a failed send
    CHECK(text_of(message) == "kept");
    Socket pull(context, SocketKind::kPull, SocketUse::kData);
    Envelope envelope;
    CHECK(pull.receive(envelope) == Io::kWouldBlock);
}

TEST_CASE("a router addresses peers and says which are unreachable") {
    Context context;
    Socket router(context, SocketKind::kRouter, SocketUse::kControl);
    REQUIRE(router.bind("tcp://127.0.0.1:*").ok());
    Message message = message_of("to nobody");
    CHECK(router.send_to("worker:a:1", message) == Io::kUnreachable);
    CHECK(text_of(message) == "to nobody");
    {
        Socket dealer(context, SocketKind::kDealer, SocketUse::kControl, "worker:a:1");
        REQUIRE(dealer.connect(router.last_endpoint()).ok());
        REQUIRE(send_soon(dealer, "hello"));
        Envelope envelope;
        REQUIRE(receive_soon(router, envelope));
        CHECK(envelope.peer == "worker:a:1");
        CHECK(text_of(envelope.message) == "hello");
        CHECK(router.send_to(envelope.peer, message) == Io::kOk);
        CHECK(message.size() == 0);
        REQUIRE(receive_soon(dealer, envelope));
        CHECK(text_of(envelope.message) == "to nobody");
    }
    CHECK(eventually([&] {
        Message late = message_of("late");
        return router.send_to("worker:a:1", late) == Io::kUnreachable;
    }));
}

TEST_CASE("after one to nobody the next message is whole") {
    ControlPair pair("peer");
    auto& [context, router, dealer] = pair;
    REQUIRE(send_soon(dealer, "hello"));
    Envelope envelope;
    REQUIRE(receive_soon(router, envelope));
    // A body that is a peer's name: sent after a refused address it would be taken for one.
    Message to_nobody = message_of("peer");
    REQUIRE(router.send_to("nobody", to_nobody) == Io::kUnreachable);
    Message next = message_of("next");
    REQUIRE(router.send_to("peer", next) == Io::kOk);
    REQUIRE(receive_soon(dealer, envelope));
    CHECK(text_of(envelope.message) == "next");
    CHECK(dealer.receive(envelope) == Io::kWouldBlock);
    CHECK(dealer.malformed() == 0);
}

TEST_CASE("a message of too many parts is skipped and counted") {
    ControlPair pair("d");
    auto& [context, router, dealer] = pair;
    zmq_send(dealer.handle(), "a", 1, ZMQ_SNDMORE);
    zmq_send(dealer.handle(), "b", 1, ZMQ_SNDMORE);
    zmq_send(dealer.handle(), "c", 1, 0);
    REQUIRE(send_soon(dealer, "good"));
    Envelope envelope;
    REQUIRE(receive_soon(router, envelope));
    CHECK(text_of(envelope.message) == "good");
    CHECK(router.malformed() == 1);
}

TEST_CASE("neither sending nor receiving nor passing on copies the bytes") {
    Context context;
    Socket pull(context, SocketKind::kPull, SocketUse::kData);
    Socket push(context, SocketKind::kPush, SocketUse::kData);
    REQUIRE(pull.bind("inproc://zero-copy").ok());
    REQUIRE(push.connect("inproc://zero-copy").ok());
    std::vector<uint8_t> bytes(100'000, 7);
    Freed freed;
    Message message(bytes.data(), bytes.size(), Freed::on_free, &freed);
    for (int hop = 0; hop < 3; ++hop) {
        REQUIRE(push.send(message) == Io::kOk);
        Envelope envelope;
        REQUIRE(receive_soon(pull, envelope));
        CHECK(envelope.message.data() == bytes.data());
        CHECK(envelope.message.size() == bytes.size());
        message = std::move(envelope.message);
        CHECK(freed.count == 0);
    }
    message = Message();
    CHECK(freed.count == 1);
}

TEST_CASE("a message larger than its socket's bound ends the sender's connection") {
    Context context;
    Socket router(context, SocketKind::kRouter, SocketUse::kControl);  // takes 1 MiB
    Socket dealer(context, SocketKind::kDealer, SocketUse::kFront, "d");  // would send 4
    REQUIRE(router.bind("tcp://127.0.0.1:*").ok());
    REQUIRE(dealer.connect(router.last_endpoint()).ok());
    Message large(std::vector<uint8_t>(kControlBytesMax + 1));
    REQUIRE(eventually([&] { return dealer.send(large) == Io::kOk; }));
    usleep(100'000);
    Envelope envelope;
    CHECK(router.receive(envelope) == Io::kWouldBlock);
}

}  // namespace chatloop::test
