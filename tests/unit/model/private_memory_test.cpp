#include "chatloop/model/private_memory.hpp"

#include <doctest/doctest.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <vector>

using namespace chatloop;

namespace {

constexpr uint64_t kLarge = 5 * kHugePageBytes + 4096;

PrivateMemory mapped(uint64_t bytes) {
    Result<PrivateMemory> memory = PrivateMemory::map(bytes);
    REQUIRE_MESSAGE(memory.ok(), (memory.ok() ? "" : memory.error().message));
    return std::move(*memory);
}

// The exit code of `work` in a process of its own, or minus the signal that ended it.
int in_child(const std::function<int()>& work) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        std::signal(SIGSEGV, SIG_DFL);
        ::_exit(work());
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace

TEST_CASE("private memory is aligned, zero, and backed as it is written") {
    for (const uint64_t bytes : {uint64_t{1}, uint64_t{4097}, kHugePageBytes - 1, kLarge}) {
        CAPTURE(bytes);
        PrivateMemory memory = mapped(bytes);
        CHECK(memory.bytes() >= bytes);
        const auto address = reinterpret_cast<uint64_t>(memory.data());
        CHECK(address % (bytes >= kHugePageBytes ? kHugePageBytes : 4096) == 0);
        CHECK(memory.resident().bytes == 0);
        CHECK(memory.data()[0] == 0);
        CHECK(memory.data()[bytes - 1] == 0);
        memory.data()[bytes - 1] = 7;
        memory.touch();
        CHECK(memory.data()[bytes - 1] == 7);
        CHECK(memory.resident().bytes == memory.bytes());
    }
}

TEST_CASE("memories beside each other are told apart") {
    std::vector<PrivateMemory> memories;
    for (int i = 0; i < 8; ++i) memories.push_back(mapped(kLarge));
    memories[3].touch();
    for (size_t i = 0; i < memories.size(); ++i)
        CHECK(memories[i].resident().bytes == (i == 3 ? memories[3].bytes() : 0));
    const PrivateMemory moved = std::move(memories[3]);
    CHECK(moved.resident().bytes == moved.bytes());
    CHECK(memories[3].data() == nullptr);
}

TEST_CASE("what surrounds it and what was given back faults") {
    for (const uint64_t bytes : {uint64_t{4096}, kLarge}) {
        PrivateMemory memory = mapped(bytes);
        const auto write_at = [&](uint64_t offset) {
            return in_child([&] {
                *const_cast<volatile uint8_t*>(memory.data() + offset) = 1;
                return 0;
            });
        };
        CHECK(write_at(memory.bytes() - 1) == 0);
        CHECK(write_at(memory.bytes()) == -SIGSEGV);
        CHECK(write_at(uint64_t{0} - 1) == -SIGSEGV);
    }
    PrivateMemory memory = mapped(kLarge);
    memory.data()[0] = 9;
    memory.shrink(kHugePageBytes + 1);
    CHECK(memory.bytes() == 2 * kHugePageBytes);
    CHECK(memory.data()[0] == 9);
    CHECK(in_child([&] {
              *const_cast<volatile uint8_t*>(memory.data() + memory.bytes()) = 1;
              return 0;
          }) == -SIGSEGV);
    memory.touch();
    CHECK(memory.resident().bytes == memory.bytes());
}

TEST_CASE("huge pages are counted, and none are found where the process may have none") {
    const auto huge_bytes = [](int disable) {
        if (::prctl(PR_SET_THP_DISABLE, disable, 0, 0, 0) != 0) return 99;
        PrivateMemory memory = mapped(4 * kHugePageBytes);
        memory.touch();
        const PrivateMemory::Resident found = memory.resident();
        if (found.bytes != memory.bytes()) return 98;
        return static_cast<int>(found.huge_bytes / kHugePageBytes);
    };
    CHECK(in_child([&] { return huge_bytes(1); }) == 0);
    const int given = in_child([&] { return huge_bytes(0); });
    CHECK(given <= 4);
    if (given < 4) MESSAGE("this machine gives " << given << " of 4 huge pages");
}

TEST_CASE("what the address space cannot hold is refused") {
    for (const uint64_t bytes : {uint64_t{1} << 62, UINT64_MAX - 4096, UINT64_MAX}) {
        const Result<PrivateMemory> none = PrivateMemory::map(bytes);
        REQUIRE_FALSE(none.ok());
        CHECK(none.error().code == ErrorCode::kUnsupported);
    }
}
