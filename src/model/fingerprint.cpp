#include "chatloop/model/fingerprint.hpp"

#include <xxhash.h>

#include <cinttypes>
#include <cstdio>

namespace chatloop {

std::string Fingerprint::text() const {
    char digits[17];
    std::snprintf(digits, sizeof digits, "%016" PRIx64, value);
    return digits;
}

Fingerprint numerics_fingerprint(const ModelSpec& spec) {
    const std::string subject = "model=" + spec.model_id +
                                "\nnumerics_abi=" + std::to_string(kNumericsAbi) +
                                "\nkv=f16\nresidual=f32\n";
    return Fingerprint{XXH3_64bits(subject.data(), subject.size())};
}

}  // namespace chatloop
