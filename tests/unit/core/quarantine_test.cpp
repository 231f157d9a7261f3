#include "chatloop/core/quarantine.hpp"

#include <doctest/doctest.h>

#include "chatloop/core/limits.hpp"

using namespace chatloop;

namespace {

// Notes `count` malformed messages and says whether the last one was one too many.
bool note(Quarantine& quarantine, const std::string& peer, uint32_t count, TimeUs now) {
    bool shut_out = false;
    for (uint32_t n = 0; n < count; ++n) shut_out = quarantine.note(peer, now);
    return shut_out;
}

}  // namespace

TEST_CASE("who sends too much that is no message is shut out, alone and for a while") {
    Quarantine quarantine;
    CHECK_FALSE(note(quarantine, "a", kMalformedMax - 1, 1000));
    CHECK_FALSE(quarantine.holds("a", 1000));
    CHECK(note(quarantine, "a", 1, 2000));
    CHECK(quarantine.holds("a", 2000));
    CHECK_FALSE(quarantine.holds("b", 2000));
    CHECK(quarantine.holds("a", 2000 + kQuarantineUs - 1));
    CHECK_FALSE(quarantine.holds("a", 2000 + kQuarantineUs));
    CHECK_FALSE(note(quarantine, "a", kMalformedMax - 1, 2000 + kQuarantineUs));
}

TEST_CASE("a mistake now and then shuts nobody out") {
    Quarantine quarantine;
    TimeUs now = 0;
    for (uint32_t n = 0; n < 10 * kMalformedMax; ++n) {
        CHECK_FALSE(quarantine.note("a", now));
        now += 2 * kMalformedWindowUs / kMalformedMax;
    }
}

TEST_CASE("the memory of offenders is bounded, and keeps those who are shut out") {
    Quarantine quarantine;
    for (size_t n = 0; n < 3 * kOffendersMax; ++n) quarantine.note("early" + std::to_string(n), 0);
    CHECK(quarantine.size() == kOffendersMax);
    CHECK(note(quarantine, "a", kMalformedMax, kMalformedWindowUs));
    CHECK(quarantine.size() == 1);  // the others are forgotten: their window is over
    for (size_t n = 0; n < kOffendersMax - 1; ++n)
        quarantine.note("late" + std::to_string(n), kMalformedWindowUs + 1);
    CHECK(quarantine.holds("a", kMalformedWindowUs + 1));
}
