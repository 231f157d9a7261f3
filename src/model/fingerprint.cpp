#include "chatloop/model/fingerprint.hpp"

#include <xxhash.h>

#include "chatloop/core/hex.hpp"

namespace chatloop {

std::string Fingerprint::text() const {
    return hex16(value);
}

Fingerprint numerics_fingerprint(const ModelSpec& spec) {
    const std::string subject = "model=" + spec.model_id +
                                "\nnumerics_abi=" + std::to_string(kNumericsAbi) +
                                "\nkv=f16\nresidual=f32\n";
    return Fingerprint{XXH3_64bits(subject.data(), subject.size())};
}

}  // namespace chatloop
