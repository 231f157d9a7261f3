#include "chatloop/bus/system.hpp"

#include <doctest/doctest.h>
#include <unistd.h>

#include <fstream>

using namespace chatloop;

namespace {

// A made-up /sys.
struct Machine {
    Machine() { std::filesystem::create_directories(root); }
    ~Machine() { std::filesystem::remove_all(root); }

    void write(const std::string& name, const std::string& text) const {
        const std::filesystem::path file = root / "sys/devices/system/node" / name;
        std::filesystem::create_directories(file.parent_path());
        std::ofstream(file) << text;
    }

    const std::filesystem::path root =
        std::filesystem::temp_directory_path() / ("chatloop-numa-" + std::to_string(getpid()));
};

std::string refusal(const Result<std::vector<int>>& result) {
    REQUIRE_FALSE(result.ok());
    CHECK(result.error().code == ErrorCode::kInvalidRequest);
    return result.error().message;
}

}  // namespace

TEST_CASE("a NUMA node has its CPUs, or none") {
    const Machine machine;
    CHECK(refusal(numa_cpus(0, machine.root)) ==
          "there is no NUMA node 0 on this machine; it has none");
    machine.write("online", "0-1,4\n");
    machine.write("node1/cpulist", "2-3,6\n");
    machine.write("node4/cpulist", "\n");
    CHECK(*numa_cpus(1, machine.root) == std::vector<int>{2, 3, 6});
    CHECK(numa_cpus(4, machine.root)->empty());
    CHECK(refusal(numa_cpus(2, machine.root)) ==
          "there is no NUMA node 2 on this machine; it has 0-1,4");
}

TEST_CASE("memory is bound to a node that is there") {
    const Result<std::vector<int>> here = numa_cpus(0);
    if (!here.ok()) {
        MESSAGE("this machine has no NUMA node 0: not checked");
        return;
    }
    CHECK(bind_memory(0).ok());
    const Status nowhere = bind_memory(1023);
    REQUIRE_FALSE(nowhere.ok());
    CHECK(nowhere.error().code == ErrorCode::kUnsupported);
    CHECK(nowhere.error().message.find("cannot be bound to NUMA node 1023: ") != std::string::npos);
}
