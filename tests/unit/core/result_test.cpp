#include <doctest/doctest.h>

#include <set>
#include <string>

#include "chatloop/core/result.hpp"

using namespace chatloop;

namespace {

constexpr auto kLastCode = static_cast<uint8_t>(ErrorCode::kInternal);

}  // namespace

TEST_CASE("every error code has a name of its own, as clients see it") {
    std::set<std::string> names;
    for (uint8_t code = 0; code <= kLastCode; ++code) {
        CAPTURE(int{code});
        const std::string name(error_name(static_cast<ErrorCode>(code)));
        CHECK(!name.empty());
        CHECK(name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") == std::string::npos);
        CHECK(names.insert(name).second);
        CHECK((name == "internal") == (code == kLastCode));  // the name of codes that have none
    }
}

TEST_CASE("what may succeed later is retryable, what is wrong with the request is not") {
    std::set<ErrorCode> retryable;
    for (uint8_t code = 0; code <= kLastCode; ++code)
        if (error_retryable(static_cast<ErrorCode>(code)))
            retryable.insert(static_cast<ErrorCode>(code));
    CHECK(retryable == std::set<ErrorCode>{ErrorCode::kQueueFull, ErrorCode::kQueueTimeout,
                                           ErrorCode::kNoRoute, ErrorCode::kWorkerLost,
                                           ErrorCode::kClientLost, ErrorCode::kDraining});
}

TEST_CASE("a Result is its value or its error") {
    const Result<std::string> good = std::string("value");
    CHECK(good.ok());
    CHECK(*good == "value");
    CHECK(good->size() == 5);

    const Result<std::string> bad = Error{ErrorCode::kBadFile, "no such file"};
    CHECK_FALSE(bad.ok());
    CHECK_FALSE(static_cast<bool>(bad));
    CHECK(bad.error().code == ErrorCode::kBadFile);
    CHECK(bad.error().message == "no such file");

    const Status status = Ok{};
    CHECK(status.ok());
}
