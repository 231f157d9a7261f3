#include "actors/common.hpp"

#include <doctest/doctest.h>

using namespace chatloop;

TEST_CASE("a CPU that lacks AVX2, FMA or F16C is refused with cause and cure") {
    kernel::CpuFeatures complete;
    complete.avx2 = complete.fma = complete.f16c = true;
    REQUIRE(actors::choose_kernels("auto", complete).ok());
    for (bool kernel::CpuFeatures::*missing :
         {&kernel::CpuFeatures::avx2, &kernel::CpuFeatures::fma, &kernel::CpuFeatures::f16c}) {
        kernel::CpuFeatures features = complete;
        features.*missing = false;
        for (const char* name : {"auto", "avx2", "reference"}) {
            const auto refused = actors::choose_kernels(name, features);
            REQUIRE_FALSE(refused.ok());
            CHECK(actors::exit_code(refused.error()) == actors::kConfig);
            CHECK(refused.error().message.find("this CPU lacks") == 0);
            CHECK(refused.error().message.find('\n') == std::string::npos);
        }
    }
}

TEST_CASE("an unknown table of kernels is named") {
    const auto refused = actors::choose_kernels("sse9");
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().message.find("sse9") != std::string::npos);
}

TEST_CASE("exit codes follow the kind of error") {
    CHECK(actors::exit_code({ErrorCode::kBadFile, ""}) == actors::kConfig);
    CHECK(actors::exit_code({ErrorCode::kUnsupported, ""}) == actors::kConfig);
    CHECK(actors::exit_code({ErrorCode::kInvalidRequest, ""}) == actors::kConfig);
    CHECK(actors::exit_code({ErrorCode::kPortInUse, ""}) == actors::kPortInUse);
    CHECK(actors::exit_code({ErrorCode::kInternal, ""}) == actors::kInternal);
}

TEST_CASE("a tokenizer may know fewer ids than the model, not more") {
    ModelSpec spec;
    spec.vocab_size = 100;
    CHECK(actors::check_vocabulary("dir", spec, 99).ok());
    CHECK(actors::check_vocabulary("dir", spec, 100).ok());
    const Status refused = actors::check_vocabulary("dir", spec, 101);
    REQUIRE_FALSE(refused.ok());
    CHECK(actors::exit_code(refused.error()) == actors::kConfig);
    CHECK(refused.error().message ==
          "dir/tokenizer/tokenizer.json: of another vocabulary: it has 101 ids, the model 100; "
          "copy all files of one split");
}
