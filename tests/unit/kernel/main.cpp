// kernel_test --table=NAME: the tests of one table against the reference. A CPU that lacks its
// instructions skips them all.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <string>

#include "support.hpp"

namespace {

std::string table_name = "avx2";

}  // namespace

const chatloop::kernel::Kernels& chatloop::kernel::test::table() {
    return *find_kernels(table_name.c_str(), cpu_features());
}

int main(int argc, char** argv) {
    constexpr int kMesonSkip = 77;
    const std::string option = "--table=";
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        if (argument.starts_with(option)) table_name = argument.substr(option.size());
    }
    if (chatloop::kernel::find_kernels(table_name.c_str(), chatloop::kernel::cpu_features()) ==
        nullptr) {
        std::printf("SKIPPED: this CPU has no %s\n", table_name.c_str());
        return kMesonSkip;
    }
    doctest::Context context(argc, argv);
    return context.run();
}
