#include "chatloop/http/event_log.hpp"

#include <doctest/doctest.h>

#include "chatloop/core/limits.hpp"

using namespace chatloop;
using namespace chatloop::http;

namespace {

// What stands after "id: " in an event.
std::string id_of(const std::string& event) {
    REQUIRE(event.starts_with("id: "));
    return event.substr(4, event.find('\n') - 4);
}

}  // namespace

TEST_CASE("ids are read as they are written, and nothing else is") {
    for (const char* id : {"0", "12", "12.1", "0.4294967295", "-"}) {
        const auto places = read_id(id, 1);
        REQUIRE(places.has_value());
        CHECK(to_id(*places) == id);
    }
    const auto three = read_id("12,7.1,-", 3);
    REQUIRE(three.has_value());
    CHECK(*three == std::vector<Place>{{12, 0}, {7, 1}, {-1, 0}});
    CHECK(to_id(*three) == "12,7.1,-");
    for (const char* id : {"", " ", "1,", ",1", "1,2", "1.", ".1", "--", "-1", "+1", "1x", "1.x",
                           "1.2.3", "0x1", "99999999999999999999", "1.4294967296", "1 "})
        CHECK_FALSE(read_id(id, 1).has_value());
    CHECK_FALSE(read_id("1", 2).has_value());
    CHECK_FALSE(read_id("1,2,3", 2).has_value());
}

TEST_CASE("whoever has seen an event gets exactly those behind it") {
    size_t all_bytes = 0;
    EventLog log(2, all_bytes);
    std::vector<std::string> events;
    std::vector<std::string> ids;
    for (const uint32_t choice : {0u, 1u, 0u, 0u, 1u, 1u, 0u}) {
        if (events.size() > 1) log.add_tokens(choice, events.size() % 2);
        events.push_back(log.add(choice, "data: " + std::to_string(events.size()) + "\n\n"));
        ids.push_back(id_of(events.back()));
    }
    CHECK(ids == std::vector<std::string>{"0,-", "0,0", "0.1,0", "1,0", "1,0.1", "1,1", "1.1,1"});
    std::string rest;
    for (size_t i = events.size(); i-- > 0;) {
        const auto seen = read_id(ids[i], 2);
        REQUIRE(seen.has_value());
        CHECK(log.reach(*seen) == EventLog::Reach::kKept);
        CHECK(log.behind(*seen) == rest);
        rest = events[i] + rest;
    }
    CHECK(log.behind(log.beginning()) == rest);
    CHECK(log.reach(*read_id("1.2,1", 2)) == EventLog::Reach::kAhead);
    CHECK(log.reach(*read_id("0,2", 2)) == EventLog::Reach::kAhead);
}

TEST_CASE("a log that grows past its bound drops its oldest events, and knows it") {
    size_t all_bytes = 0;
    {
        EventLog log(1, all_bytes);
        const std::string event = "data: " + std::string(64u << 10, 'x') + "\n\n";
        for (size_t i = 0; i < 2 * kHttpKeptBytesMax / event.size(); ++i) {
            log.add_tokens(0, 1);
            log.add(0, event);
            CHECK(all_bytes <= kHttpKeptBytesMax);
        }
        CHECK(all_bytes > kHttpKeptBytesMax - 2 * event.size());
        CHECK(log.reach(log.beginning()) == EventLog::Reach::kDropped);
        CHECK(log.reach(*read_id("1", 1)) == EventLog::Reach::kDropped);
        // The first id from which nothing is missing has all that is kept behind it.
        int64_t first = 1;
        while (log.reach({{first, 0}}) == EventLog::Reach::kDropped) ++first;
        CHECK(log.behind({{first, 0}}).starts_with("id: " + std::to_string(first + 1) + "\n"));
    }
    CHECK(all_bytes == 0);
}

TEST_CASE("all logs together are bounded: the one that grows gives way") {
    size_t all_bytes = kHttpKeptAllBytesMax - 200;  // of others
    EventLog log(1, all_bytes);
    log.add(0, "data: 1\n\n");
    CHECK(log.reach(log.beginning()) == EventLog::Reach::kKept);
    for (int i = 0; i < 10; ++i) log.add(0, "data: 2\n\n");
    CHECK(all_bytes <= kHttpKeptAllBytesMax);
    CHECK(log.reach(log.beginning()) == EventLog::Reach::kDropped);
}
