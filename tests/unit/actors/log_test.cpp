// Lines of the log: what is escaped, what is cut, and that a reader who does not read stops nobody.
#include "actors/log.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <nlohmann/json.hpp>
#include <string>

#include "chatloop/core/limits.hpp"

using namespace chatloop;
using namespace chatloop::actors;

namespace {

LogRecord record(const std::string& message, const std::string& id = "") {
    return {1'705'314'645'123, "info", "chatloop_router::requests", message,
            LogSpan(id, id.empty() ? "" : std::string(32, 'a'))};
}

std::string read_all(int fd) {
    std::string text(1 << 20, ' ');
    const ssize_t size = read(fd, text.data(), text.size());
    text.resize(size < 0 ? 0 : static_cast<size_t>(size));
    return text;
}

}  // namespace

TEST_CASE("a line is the seed's JSON object") {
    CHECK(json_line(record("Created batch", "req-123")) ==
          "{\"timestamp\":\"2024-01-15T10:30:45.123Z\",\"level\":\"info\","
          "\"target\":\"chatloop_router::requests\",\"message\":\"Created batch\","
          "\"span\":{\"request_id\":\"req-123\",\"trace_id\":\"" +
              std::string(32, 'a') + "\"}}\n");
    CHECK_FALSE(nlohmann::json::parse(json_line(record("x"))).contains("span"));
}

TEST_CASE("whatever a client calls its request, a line is one line and one object") {
    for (const std::string& id :
         {std::string("\"},\n{\"level\":\"error\""), std::string("\0\x1b[2J", 5),
          std::string("\xff\xfe"),
          std::string("\xc2\x9b"), std::string(128, '"')}) {
        const std::string json = json_line(record("m\n", id));
        CHECK(std::count(json.begin(), json.end(), '\n') == 1);
        CHECK(nlohmann::json::parse(json)["span"].contains("request_id"));
        const std::string text = text_line(record("m\n\x1b[31m", id));
        CHECK(std::count(text.begin(), text.end(), '\n') == 1);
        CHECK(std::none_of(text.begin(), text.end() - 1,
                           [](unsigned char c) { return c < 0x20 || c == 0x7f; }));
        CHECK(text.find("\xc2\x9b") == text.npos);
    }
    const std::string odd = "\"},\n{";
    CHECK(nlohmann::json::parse(json_line(record("m", odd)))["span"]["request_id"] == odd);
}

TEST_CASE("a long message is cut to what a pipe takes at once") {
    for (const char* unit : {"a", "\n", "\xe2\x82\xac"}) {
        std::string message;
        while (message.size() < 3 * kLogLineBytesMax) message += unit;
        for (const std::string& line : {json_line(record(message, std::string(128, '\n'))),
                                        text_line(record(message, std::string(128, '\n')))}) {
            CHECK(line.size() <= kLogLineBytesMax);
            CHECK(line.back() == '\n');
            CHECK(line.find("...") != line.npos);
        }
    }
}

TEST_CASE("a full pipe drops whole lines, counts them, and leaves the pipe as others have it") {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    LogWriter writer(ends[1]);
    CHECK((fcntl(ends[1], F_GETFL) & O_NONBLOCK) == 0);  // of those who share it
    const std::string line = std::string(kLogLineBytesMax - 1, 'x') + "\n";
    uint64_t written = 0;
    while (writer.write(line)) ++written;
    CHECK(written >= 1);
    for (int i = 0; i < 9; ++i) CHECK_FALSE(writer.write(line));
    CHECK(writer.dropped() == 10);
    const std::string held = read_all(ends[0]);
    CHECK(held.size() % line.size() == 0);
    CHECK(writer.write(line));
    CHECK(writer.dropped() == 10);
    close(ends[0]);
    close(ends[1]);
}

TEST_CASE("a full socket drops, too, and a line that follows a torn one begins anew") {
    int ends[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    LogWriter writer(ends[1]);
    const std::string line = std::string(kLogLineBytesMax - 1, 'x') + "\n";
    while (writer.write(line)) {
    }
    CHECK(writer.dropped() == 1);
    std::string text;
    while (text.size() < line.size()) text += read_all(ends[0]);
    while (true) {
        const std::string more = [&] {
            std::string chunk(1 << 20, ' ');
            const ssize_t size = recv(ends[0], chunk.data(), chunk.size(), MSG_DONTWAIT);
            chunk.resize(size < 0 ? 0 : static_cast<size_t>(size));
            return chunk;
        }();
        if (more.empty()) break;
        text += more;
    }
    CHECK(writer.write("last\n"));
    text += read_all(ends[0]);
    CHECK(text.ends_with("\nlast\n"));
    close(ends[0]);
    close(ends[1]);
}

TEST_CASE("a reader who is gone is no error") {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    signal(SIGPIPE, SIG_IGN);
    LogWriter writer(ends[1]);
    close(ends[0]);
    CHECK_FALSE(writer.write("line\n"));
    CHECK(writer.dropped() == 1);
    close(ends[1]);
}

TEST_CASE("a full disk is no error") {
    const int full = open("/dev/full", O_WRONLY);
    REQUIRE(full >= 0);
    LogWriter writer(full);
    CHECK_FALSE(writer.write("line\n"));
    CHECK(writer.dropped() == 1);
    close(full);
}
