#include "chatloop/model/file_map.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "chatloop/core/limits.hpp"

namespace chatloop {
namespace {

Error bad_file(const std::string& name, const std::string& what) {
    return Error{ErrorCode::kBadFile, name + ": " + what};
}

std::string errno_text(int number) { return std::generic_category().message(number); }

int64_t nanoseconds(const timespec& time) {
    return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

// What the signal handler reads: nothing in it is allocated or locked when the fault comes.
struct MappedRange {
    const uint8_t* begin = nullptr;  // nullptr: free
    uint64_t bytes = 0;
    char* line = nullptr;  // what to say when a page of it is lost
};
MappedRange mapped_ranges[kMappedFilesMax];

std::string actor_prefix;
int lost_page_exit_code = 0;

bool register_range(const uint8_t* begin, uint64_t bytes, const std::string& name) {
    const auto slot = std::find_if(std::begin(mapped_ranges), std::end(mapped_ranges),
                                   [](const MappedRange& range) { return !range.begin; });
    if (slot == std::end(mapped_ranges)) return false;
    const std::string line = actor_prefix + name +
                             ": was truncated or cannot be read while it is mapped; restore it, "
                             "and replace files by renaming only\n";
    *slot = {begin, bytes, strdup(line.c_str())};
    CL_ASSERT(slot->line != nullptr);
    return true;
}

void release_range(const uint8_t* begin) {
    const auto slot = std::find_if(std::begin(mapped_ranges), std::end(mapped_ranges),
                                   [=](const MappedRange& range) { return range.begin == begin; });
    CL_ASSERT(slot != std::end(mapped_ranges));
    std::free(slot->line);
    *slot = {};
}

// Async-signal-safe: write, _exit, signal and raise only.
void on_bus_error(int, siginfo_t* info, void*) {
    const auto* address = static_cast<const uint8_t*>(info->si_addr);
    const bool fault = info->si_code > 0;  // else another process sent it
    for (const MappedRange& range : mapped_ranges) {
        const bool inside = range.begin != nullptr && address >= range.begin &&
                            address < range.begin + range.bytes;
        if (!fault || !inside) continue;
        const ssize_t written = ::write(STDERR_FILENO, range.line, std::strlen(range.line));
        (void)written;
        ::_exit(lost_page_exit_code);
    }
    std::signal(SIGBUS, SIG_DFL);
    std::raise(SIGBUS);  // taken when the handler returns
}

}  // namespace

void report_lost_pages(const std::string& actor, int exit_code) {
    actor_prefix = actor + ": ";
    lost_page_exit_code = exit_code;
    struct sigaction action = {};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO;
    CL_ASSERT(::sigaction(SIGBUS, &action, nullptr) == 0);
    // A parent may have blocked it, and a blocked fault kills without the handler.
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    CL_ASSERT(pthread_sigmask(SIG_UNBLOCK, &set, nullptr) == 0);
}

Result<FileMap> FileMap::open(const std::filesystem::path& path) {
    FileMap file;
    file.name_ = path.string();
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return bad_file(file.name_, "cannot be opened: " + errno_text(errno));
    struct stat info = {};
    if (::fstat(descriptor, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size == 0) {
        ::close(descriptor);
        return bad_file(file.name_, "not a regular file, or empty");
    }
    file.identity_ = {static_cast<uint64_t>(info.st_size), info.st_ino,
                      nanoseconds(info.st_mtim), nanoseconds(info.st_ctim)};
    void* map = ::mmap(nullptr, file.identity_.bytes, PROT_READ, MAP_SHARED, descriptor, 0);
    const int map_errno = errno;
    ::close(descriptor);
    if (map == MAP_FAILED) {
        return bad_file(file.name_, "cannot be mapped: " + errno_text(map_errno));
    }
    const auto* data = static_cast<const uint8_t*>(map);
    if (!register_range(data, file.identity_.bytes, file.name_)) {
        ::munmap(map, file.identity_.bytes);
        return Error{ErrorCode::kUnsupported,
                     file.name_ + ": one process maps at most " + std::to_string(kMappedFilesMax) +
                         " files; split the model into fewer partitions"};
    }
    file.data_ = data;
    return file;
}

FileMap::FileMap(FileMap&& other) noexcept { *this = std::move(other); }

FileMap& FileMap::operator=(FileMap&& other) noexcept {
    std::swap(name_, other.name_);
    std::swap(data_, other.data_);
    std::swap(identity_, other.identity_);
    return *this;
}

FileMap::~FileMap() { unmap(); }

void FileMap::drop_pages() const {
    if (data_ == nullptr) return;
    (void)::madvise(const_cast<uint8_t*>(data_), identity_.bytes, MADV_DONTNEED);
}

void FileMap::unmap() {
    if (data_ == nullptr) return;
    release_range(data_);
    ::munmap(const_cast<uint8_t*>(data_), identity_.bytes);
    data_ = nullptr;
}

}  // namespace chatloop
