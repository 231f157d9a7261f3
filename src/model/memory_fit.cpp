#include "chatloop/model/memory_fit.hpp"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <sstream>

namespace chatloop {
namespace {

namespace fs = std::filesystem;

// The first number of a file; nullopt also for "max".
std::optional<uint64_t> number_in(const fs::path& path) {
    std::ifstream in(path);
    uint64_t value = 0;
    return in >> value ? std::optional(value) : std::nullopt;
}

// The number behind `key`, which a line begins with.
std::optional<uint64_t> number_of(const fs::path& path, const std::string& key) {
    std::ifstream in(path);
    for (std::string line; std::getline(in, line);) {
        if (!line.starts_with(key)) continue;
        std::istringstream rest(line.substr(key.size()));
        uint64_t value = 0;
        if (rest >> value) return value;
    }
    return std::nullopt;
}

// The names of the same things in the two versions of control groups.
struct GroupFiles {
    const char* controller;  // as in /proc/self/cgroup
    const char* mount;
    const char* limit;
    const char* usage;
    const char* stat_prefix;
};
constexpr GroupFiles kVersions[] = {
    {"", "sys/fs/cgroup", "memory.max", "memory.current", ""},
    {"memory", "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"},
};

uint64_t left_in_group(const fs::path& group, const GroupFiles& files) {
    const std::optional<uint64_t> limit = number_in(group / files.limit);
    const std::optional<uint64_t> usage = number_in(group / files.usage);
    if (!limit || !usage) return UINT64_MAX;
    uint64_t cache = 0;
    for (const std::string kind : {"inactive_file", "active_file"}) {
        cache += number_of(group / "memory.stat", files.stat_prefix + kind).value_or(0);
    }
    const uint64_t used = *usage - std::min(*usage, cache);
    return *limit - std::min(*limit, used);
}

// The least that a group and its parents have left.
uint64_t left_in_groups(const fs::path& root, const GroupFiles& files, const fs::path& group) {
    uint64_t least = left_in_group(root / files.mount, files);
    for (fs::path at = group.relative_path(); !at.empty(); at = at.parent_path()) {
        least = std::min(least, left_in_group(root / files.mount / at, files));
    }
    return least;
}

// Free, or the cache of files.
uint64_t left_on_node(const fs::path& root, int node) {
    const std::string name = std::to_string(node);
    const fs::path file = root / "sys/devices/system/node" / ("node" + name) / "meminfo";
    uint64_t kib = 0;
    for (const char* kind : {"MemFree:", "Active(file):", "Inactive(file):"}) {
        const std::optional<uint64_t> part = number_of(file, "Node " + name + " " + kind);
        if (!part) return UINT64_MAX;
        kib += *part;
    }
    return kib << 10;
}

bool lists(const std::string& controllers, const std::string& name) {
    std::istringstream in(controllers);
    for (std::string one; std::getline(in, one, ',');) {
        if (one == name) return true;
    }
    return controllers == name;
}

}  // namespace

std::string mebibytes(uint64_t bytes) {
    return std::to_string((bytes + (1u << 20) - 1) >> 20) + " MiB";
}

Status check_memory_fit(const MemoryNeed& need, uint64_t available, bool allow_paging,
                        const std::string& file) {
    const uint64_t resident = need.copies + need.kv_cache + need.activations;
    const std::string there = mebibytes(available) + " are available";
    if (resident > available && need.copies > 0) {
        return Error{ErrorCode::kUnsupported,
                     file + ": a copy of the weights of " + mebibytes(need.copies) +
                         ", the KV cache of " + mebibytes(need.kv_cache) + " and " +
                         mebibytes(need.activations) + " for activations do not fit into memory, " +
                         there + "; take --weights mmap, lower --kv-cache-mb, or split into more "
                                 "partitions"};
    }
    if (resident > available) {
        return Error{ErrorCode::kUnsupported,
                     file + ": the KV cache of " + mebibytes(need.kv_cache) + " and " +
                         mebibytes(need.activations) + " for activations do not fit into memory, " +
                         there + "; lower --kv-cache-mb"};
    }
    if (allow_paging || need.weights <= available - resident) return Ok{};
    return Error{ErrorCode::kUnsupported,
                 file + ": " + mebibytes(need.weights + resident) + " are needed (weights " +
                     mebibytes(need.weights) + ", KV cache " + mebibytes(need.kv_cache) +
                     ", activations " + mebibytes(need.activations) + "), " + there +
                     "; split into more partitions, lower --kv-cache-mb, or accept slow reads "
                     "from disk with --allow-paging"};
}

uint64_t available_memory(std::optional<int> numa_node, const fs::path& root) {
    uint64_t least = numa_node ? left_on_node(root, *numa_node) : UINT64_MAX;
    if (const auto kib = number_of(root / "proc/meminfo", "MemAvailable:"))
        least = std::min(least, *kib << 10);
    // Lines "hierarchy:controllers:path"; v2 has no controllers there.
    std::ifstream in(root / "proc/self/cgroup");
    for (std::string line; std::getline(in, line);) {
        const size_t first = line.find(':');
        const size_t second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        for (const GroupFiles& files : kVersions) {
            if (!lists(line.substr(first + 1, second - first - 1), files.controller)) continue;
            least = std::min(least, left_in_groups(root, files, line.substr(second + 1)));
        }
    }
    return least;
}

}  // namespace chatloop
