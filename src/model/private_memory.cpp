#include "chatloop/model/private_memory.hpp"

#include <sys/mman.h>

#include <charconv>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>

namespace chatloop {
namespace {

constexpr uint64_t kPageBytes = 4096;

uint64_t up_to(uint64_t bytes, uint64_t unit) { return (bytes + unit - 1) / unit * unit; }

// No swap is reserved: memory_fit.hpp has looked whether there is enough.
void* map_nothing(void* at, uint64_t bytes, int flags) {
    return ::mmap(at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
}

// The range that a line of smaps begins with, "7f0000000000-7f0000200000 rw-p ..."; false for the
// lines below it.
bool parse_range(const std::string& line, uint64_t& first, uint64_t& end) {
    const char* const last = line.data() + line.size();
    const auto a = std::from_chars(line.data(), last, first, 16);
    if (a.ec != std::errc() || a.ptr == last || *a.ptr != '-') return false;
    const auto b = std::from_chars(a.ptr + 1, last, end, 16);
    return b.ec == std::errc() && b.ptr != last && *b.ptr == ' ';
}

}  // namespace

Result<PrivateMemory> PrivateMemory::map(uint64_t bytes) {
    CL_ASSERT(bytes > 0);
    const bool huge = bytes >= kHugePageBytes;
    const uint64_t alignment = huge ? kHugePageBytes : kPageBytes;
    PrivateMemory memory;
    memory.bytes_ = up_to(bytes, kPageBytes);
    // What stays inaccessible around the data also keeps the kernel from merging it with other
    // memory, which resident() could not tell apart.
    memory.map_bytes_ = memory.bytes_ + alignment + kPageBytes;
    void* map = memory.map_bytes_ < bytes ? MAP_FAILED : map_nothing(nullptr, memory.map_bytes_, 0);
    if (map == MAP_FAILED)
        return Error{ErrorCode::kUnsupported,
                     "no address space for " + std::to_string(bytes >> 20) + " MiB"};
    memory.map_ = static_cast<uint8_t*>(map);
    const auto address = reinterpret_cast<uint64_t>(map);
    memory.data_ = memory.map_ + (up_to(address + kPageBytes, alignment) - address);
    if (::mprotect(memory.data_, memory.bytes_, PROT_READ | PROT_WRITE) != 0)
        return Error{ErrorCode::kUnsupported,
                     "no memory for " + std::to_string(bytes >> 20) + " MiB"};
    if (huge) (void)::madvise(memory.data_, memory.bytes_, MADV_HUGEPAGE);  // or small ones
    return memory;
}

PrivateMemory::PrivateMemory(PrivateMemory&& other) noexcept { *this = std::move(other); }

PrivateMemory& PrivateMemory::operator=(PrivateMemory&& other) noexcept {
    std::swap(map_, other.map_);
    std::swap(map_bytes_, other.map_bytes_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
}

PrivateMemory::~PrivateMemory() {
    if (map_ != nullptr) ::munmap(map_, map_bytes_);
}

void PrivateMemory::shrink(uint64_t bytes) {
    const uint64_t kept = up_to(bytes, bytes_ >= kHugePageBytes ? kHugePageBytes : kPageBytes);
    if (kept >= bytes_) return;
    CL_ASSERT(map_nothing(data_ + kept, bytes_ - kept, MAP_FIXED) != MAP_FAILED);
    bytes_ = kept;
}

void PrivateMemory::touch() {
    volatile uint8_t* bytes = data_;
    for (uint64_t i = 0; i < bytes_; i += kPageBytes) bytes[i] = bytes[i];
}

PrivateMemory::Resident PrivateMemory::resident() const {
    const auto data = reinterpret_cast<uint64_t>(data_);
    Resident found;
    std::ifstream smaps("/proc/self/smaps");
    bool inside = false;
    for (std::string line; std::getline(smaps, line);) {
        uint64_t first = 0;
        uint64_t end = 0;
        if (parse_range(line, first, end)) {
            inside = first < data + bytes_ && data < end;
            continue;
        }
        if (!inside) continue;
        std::istringstream words(line);
        std::string name;
        uint64_t kib = 0;
        if (!(words >> name >> kib)) continue;
        if (name == "Rss:") found.bytes += kib << 10;
        if (name == "AnonHugePages:") found.huge_bytes += kib << 10;
    }
    return found;
}

}  // namespace chatloop
