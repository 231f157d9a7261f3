// Whether what a process will load fits into the memory that is there. A model that does not fit
// would not fail: it would page, a thousand times slower, until peers take the worker for dead.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "chatloop/core/result.hpp"

namespace chatloop {

// Bytes.
struct MemoryNeed {
    uint64_t weights = 0;      // mapped: the kernel may drop and read them again
    uint64_t copies = 0;       // of weights, in private memory
    uint64_t kv_cache = 0;
    uint64_t activations = 0;  // and frames, code, stack
};

// kUnsupported, one line that begins with `file`, when the need exceeds `available` bytes. Weights
// may exceed it with `allow_paging`; the rest may never, there is no file to read it back from.
Status check_memory_fit(const MemoryNeed& need, uint64_t available, bool allow_paging,
                        const std::string& file);

std::string mebibytes(uint64_t bytes);  // "76 MiB", rounded up

// Bytes that may still be used: the system's MemAvailable and the limits of the control groups
// (v2, v1) that this process is in. What is page cache only counts as free. UINT64_MAX where
// nothing can be read. With a NUMA node, no more than that node has. `root` is where proc and sys
// are.
uint64_t available_memory(std::optional<int> numa_node = std::nullopt,
                          const std::filesystem::path& root = "/");

}  // namespace chatloop
