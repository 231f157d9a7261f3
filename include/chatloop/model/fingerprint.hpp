// The numerics fingerprint: two workers with equal ones compute the same bits for the same tokens
// (docs/numerics.md, last paragraph). Instruction set, build and cut are not part of it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "chatloop/kernel/kernels.hpp"
#include "chatloop/model/spec.hpp"

namespace chatloop {

struct Fingerprint {
    uint64_t value = 0;

    std::string text() const;  // 16 hex digits
    bool operator==(const Fingerprint&) const = default;
};

// xxh3 over model id, numerics_abi, KV type (nullopt: a sampler's, which has no cache) and residual
// type (f32).
Fingerprint numerics_fingerprint(const ModelSpec& spec, std::optional<kernel::KvType> kv_type);

}  // namespace chatloop
