#include "chatloop/model/fingerprint.hpp"

#include <xxhash.h>

#include "chatloop/core/hex.hpp"
#include "chatloop/model/kv_pool.hpp"

namespace chatloop {

std::string Fingerprint::text() const {
    return hex16(value);
}

Fingerprint numerics_fingerprint(const ModelSpec& spec, std::optional<kernel::KvType> kv_type) {
    const std::string kv(kv_type ? kv_type_name(*kv_type) : "none");
    const std::string subject = "model=" + spec.model_id +
                                "\nnumerics_abi=" + std::to_string(kNumericsAbi) +
                                "\nkv=" + kv + "\nresidual=f32\n";
    return Fingerprint{XXH3_64bits(subject.data(), subject.size())};
}

}  // namespace chatloop
