// Memory of this process alone: zero, and backed by the kernel as it is first written. From 2 MiB
// on it starts at a multiple of 2 MiB and is asked for in huge pages, where one entry of the TLB
// reaches as far as 512 otherwise. Addresses before and behind it fault.
#pragma once

#include <cstddef>
#include <cstdint>

#include "chatloop/core/result.hpp"

namespace chatloop {

inline constexpr uint64_t kHugePageBytes = 2u << 20;

class PrivateMemory {
public:
    // kUnsupported: the address space has no room.
    static Result<PrivateMemory> map(uint64_t bytes);

    PrivateMemory() = default;
    PrivateMemory(PrivateMemory&& other) noexcept;
    PrivateMemory& operator=(PrivateMemory&& other) noexcept;
    ~PrivateMemory();

    uint8_t* data() const { return data_; }  // at least 4096-byte aligned
    uint64_t bytes() const { return bytes_; }

    // Gives back what is behind `bytes`, but for the rest of a page.
    void shrink(uint64_t bytes);
    // Backs all of it now.
    void touch();

    struct Resident {
        uint64_t bytes = 0;
        uint64_t huge_bytes = 0;  // of them in huge pages
    };
    // As /proc says; nothing where it cannot be read.
    Resident resident() const;

private:
    uint8_t* map_ = nullptr;  // with what is around the data
    uint64_t map_bytes_ = 0;
    uint8_t* data_ = nullptr;
    uint64_t bytes_ = 0;
};

// Working memory of `count` values. `preallocate` backs it at once.
template <class T>
class Scratch {
public:
    Scratch(size_t count, bool preallocate) {
        Result<PrivateMemory> memory = PrivateMemory::map(count * sizeof(T));
        CL_ASSERT(memory.ok());  // memory_fit.hpp has counted it
        memory_ = std::move(*memory);
        if (preallocate) memory_.touch();
    }

    T* get() const { return reinterpret_cast<T*>(memory_.data()); }

private:
    PrivateMemory memory_;
};

}  // namespace chatloop
