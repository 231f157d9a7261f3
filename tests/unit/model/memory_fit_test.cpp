#include "chatloop/model/memory_fit.hpp"

#include <doctest/doctest.h>

#include "tiny_model.hpp"

using namespace chatloop;
using namespace chatloop::testing;

namespace {

constexpr uint64_t kMiB = 1u << 20;

std::string refusal(const MemoryNeed& need, uint64_t available, bool allow_paging = false) {
    const Status status = check_memory_fit(need, available, allow_paging, "weights.file");
    return status.ok() ? "" : status.error().message;
}

// A made-up /proc and /sys.
struct Machine {
    Machine() {
        write("proc/meminfo", "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable: 8192 kB\n");
    }

    void write(const std::string& name, const std::string& text) const {
        std::filesystem::create_directories((dir.path() / name).parent_path());
        write_file(dir.path() / name, text);
    }
    uint64_t available(std::optional<int> node = std::nullopt) const {
        return available_memory(node, dir.path());
    }

    TempDir dir;
};

}  // namespace

TEST_CASE("weights, KV cache and activations must fit together") {
    const MemoryNeed need = {100 * kMiB, 0, 20 * kMiB, 5 * kMiB};
    CHECK(refusal(need, 125 * kMiB).empty());
    CHECK(refusal(need, UINT64_MAX).empty());
    CHECK(refusal(need, 125 * kMiB - 1) ==
          "weights.file: 125 MiB are needed (weights 100 MiB, KV cache 20 MiB, activations 5 MiB), "
          "125 MiB are available; split into more partitions, lower --kv-cache-mb, or accept slow "
          "reads from disk with --allow-paging");
    CHECK_FALSE(refusal({1ull << 62, 0, 0, 0}, 1ull << 61).empty());
}

TEST_CASE("paging is for weights: what no file holds must fit") {
    const MemoryNeed need = {100 * kMiB, 0, 20 * kMiB, 5 * kMiB};
    CHECK(refusal(need, 25 * kMiB, /*allow_paging=*/true).empty());
    for (const bool allow_paging : {false, true}) {
        CHECK(refusal(need, 24 * kMiB, allow_paging) ==
              "weights.file: the KV cache of 20 MiB and 5 MiB for activations do not fit into "
              "memory, 24 MiB are available; lower --kv-cache-mb");
    }
}

TEST_CASE("a copy of the weights must fit, whatever paging is allowed") {
    const MemoryNeed need = {0, 100 * kMiB, 20 * kMiB, 5 * kMiB};
    for (const bool allow_paging : {false, true}) {
        CHECK(refusal(need, 125 * kMiB, allow_paging).empty());
        CHECK(refusal(need, 125 * kMiB - 1, allow_paging) ==
              "weights.file: a copy of the weights of 100 MiB, the KV cache of 20 MiB and 5 MiB "
              "for activations do not fit into memory, 125 MiB are available; take --weights mmap, "
              "lower --kv-cache-mb, or split into more partitions");
    }
}

TEST_CASE("available is what the system and the control groups leave") {
    const Machine machine;
    CHECK(machine.available() == 8 * kMiB);

    SUBCASE("v2, the cache of files counts as free") {
        machine.write("proc/self/cgroup", "0::/a/b\n");
        machine.write("sys/fs/cgroup/a/b/memory.max", "4194304\n");
        machine.write("sys/fs/cgroup/a/b/memory.current", "2097152\n");
        CHECK(machine.available() == 2 * kMiB);
        machine.write("sys/fs/cgroup/a/b/memory.stat",
                      "anon 5\ninactive_file 524288\nactive_file 524288\n");
        CHECK(machine.available() == 3 * kMiB);
        machine.write("sys/fs/cgroup/a/memory.max", "1048576\n");  // the parent is tighter
        machine.write("sys/fs/cgroup/a/memory.current", "2097152\n");
        CHECK(machine.available() == 0);
    }
    SUBCASE("a NUMA node leaves no more than it has") {
        machine.write("sys/devices/system/node/node1/meminfo",
                      "\nNode 1 MemTotal: 9000 kB\nNode 1 MemFree:  1024 kB\n"
                      "Node 1 Active(file): 1024 kB\nNode 1 Inactive(file): 2048 kB\n");
        CHECK(machine.available(1) == 4 * kMiB);
        CHECK(machine.available(0) == 8 * kMiB);
        machine.write("sys/devices/system/node/node0/meminfo",
                      "Node 0 MemFree: 99999 kB\nNode 0 Active(file): 0 kB\n"
                      "Node 0 Inactive(file): 0 kB\n");
        CHECK(machine.available(0) == 8 * kMiB);
    }
    SUBCASE("v2 without a limit") {
        machine.write("proc/self/cgroup", "0::/\n");
        machine.write("sys/fs/cgroup/memory.max", "max\n");
        machine.write("sys/fs/cgroup/memory.current", "2097152\n");
        CHECK(machine.available() == 8 * kMiB);
    }
    SUBCASE("v1, also where the container sees its own group as the root") {
        machine.write("proc/self/cgroup", "5:cpu,cpuacct:/d\n4:memory:/d/x\n1:name=systemd:/d\n");
        machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "4194304\n");
        machine.write("sys/fs/cgroup/memory/memory.usage_in_bytes", "3145728\n");
        machine.write("sys/fs/cgroup/memory/memory.stat", "total_inactive_file 1048576\n");
        CHECK(machine.available() == 2 * kMiB);
    }
}

TEST_CASE("without /proc nothing is known, and nothing refused") {
    const TempDir empty;
    for (const std::optional<int> node : {std::optional<int>(), std::optional<int>(0)})
        CHECK(available_memory(node, empty.path()) == UINT64_MAX);
    const uint64_t here = available_memory();
    CHECK(here > kMiB);
    CHECK(here < UINT64_MAX);
}
