#include "chatloop/model/file_map.hpp"

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <functional>
#include <vector>

#include "chatloop/core/limits.hpp"
#include "tiny_model.hpp"

using namespace chatloop;
using namespace chatloop::testing;

namespace {

constexpr int kExitCode = 64;

struct End {
    int status;  // as of waitpid
    std::string said;
};

// Runs `work` in a process of its own that reports lost pages.
End in_child(const std::function<void()>& work) {
    int pipe_ends[2];
    REQUIRE(::pipe(pipe_ends) == 0);
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        for (const int signal : {SIGBUS, SIGABRT, SIGSEGV}) std::signal(signal, SIG_DFL);
        ::dup2(pipe_ends[1], STDERR_FILENO);
        sigset_t blocked;  // as a parent may have left it
        sigemptyset(&blocked);
        sigaddset(&blocked, SIGBUS);
        pthread_sigmask(SIG_BLOCK, &blocked, nullptr);
        report_lost_pages("test-actor", kExitCode);
        work();
        ::_exit(0);
    }
    ::close(pipe_ends[1]);
    End end = {};
    char text[512];
    for (ssize_t n; (n = ::read(pipe_ends[0], text, sizeof text)) > 0;) {
        end.said.append(text, static_cast<size_t>(n));
    }
    ::close(pipe_ends[0]);
    REQUIRE(::waitpid(child, &end.status, 0) == child);
    return end;
}

void touch(const uint8_t* byte) { (void)*const_cast<const volatile uint8_t*>(byte); }

}  // namespace

TEST_CASE("a file that is truncated while it is mapped ends the process with its name") {
    const TempDir dir;
    const auto path = dir.path() / "weights";
    const auto other = dir.path() / "other";
    for (const auto& each : {path, other}) write_file(each, std::string(3 * 4096, 'x'));
    for (const uint64_t at : {uint64_t{0}, uint64_t{3 * 4096 - 1}}) {
        write_file(path, std::string(3 * 4096, 'x'));
        const End end = in_child([&] {
            const Result<FileMap> before = FileMap::open(other);
            Result<FileMap> opened = FileMap::open(path);
            const FileMap file = std::move(*opened);  // the registration moves along
            touch(file.data() + at);
            std::filesystem::resize_file(path, 0);
            touch(before->data());
            touch(file.data() + at);
        });
        REQUIRE(WIFEXITED(end.status));
        CHECK(WEXITSTATUS(end.status) == kExitCode);
        CHECK(end.said == "test-actor: " + path.string() +
                              ": was truncated or cannot be read while it is mapped; restore it, "
                              "and replace files by renaming only\n");
    }
}

TEST_CASE("any other SIGBUS keeps its default action") {
    const TempDir dir;
    const auto path = dir.path() / "weights";
    write_file(path, std::string(4096, 'x'));
    const std::vector<std::function<void()>> faults = {
        [] { std::raise(SIGBUS); },
        [&] {
            const Result<FileMap> open = FileMap::open(path);
            std::raise(SIGBUS);
        },
        [&] {  // a map that is not ours
            std::FILE* file = std::fopen(path.c_str(), "r");
            void* map = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, ::fileno(file), 0);
            std::filesystem::resize_file(path, 0);
            touch(static_cast<const uint8_t*>(map));
        },
    };
    for (const auto& fault : faults) {
        const End end = in_child(fault);
        REQUIRE(WIFSIGNALED(end.status));
        CHECK(WTERMSIG(end.status) == SIGBUS);
        CHECK(end.said.empty());
    }
}

TEST_CASE("the files of one process are bounded, and a closed one makes room") {
    const TempDir dir;
    const auto path = dir.path() / "weights";
    write_file(path, std::string("x"));
    std::vector<FileMap> files;
    while (files.size() < kMappedFilesMax) {
        Result<FileMap> file = FileMap::open(path);
        REQUIRE(file.ok());
        files.push_back(std::move(*file));
    }
    const Result<FileMap> refused = FileMap::open(path);
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().message.find("at most 256 files") != std::string::npos);
    files.pop_back();
    CHECK(FileMap::open(path).ok());
}
