#include "chatloop/core/cpu_list.hpp"

#include <doctest/doctest.h>

using namespace chatloop;

TEST_CASE("CPU lists are read as taskset writes them, and written back") {
    struct Row {
        const char* text;
        std::vector<int> cpus;
        const char* back;
    };
    for (const Row& row : {Row{"0", {0}, "0"}, Row{"0-3,6", {0, 1, 2, 3, 6}, "0-3,6"},
                           Row{"5,1-2,2", {1, 2, 5}, "1-2,5"}, Row{"7-7", {7}, "7"},
                           Row{"4095", {4095}, "4095"}}) {
        CAPTURE(row.text);
        const auto cpus = parse_cpu_list(row.text);
        REQUIRE(cpus.ok());
        CHECK(*cpus == row.cpus);
        CHECK(cpu_list_text(*cpus) == row.back);
    }
}

TEST_CASE("what is no CPU list is refused") {
    for (const char* text : {"", ",", "0,", "-1", "3-1", "0-", "a", "0-3-5", "0;1", " 0", "4096",
                             "99999999999999999999", "0-4095,0-4095,0-4095"}) {
        CAPTURE(text);
        const auto cpus = parse_cpu_list(text);
        REQUIRE_FALSE(cpus.ok());
        CHECK(cpus.error().code == ErrorCode::kInvalidRequest);
    }
}
