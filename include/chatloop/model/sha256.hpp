// SHA-256 over bytes that come in pieces, as 64 hex digits.
#pragma once

#include <nettle/sha2.h>

#include <cstdint>
#include <span>
#include <string>

namespace chatloop {

class Sha256 {
public:
    Sha256() { sha256_init(&state_); }

    void update(std::span<const uint8_t> bytes) {
        sha256_update(&state_, bytes.size(), bytes.data());
    }
    std::string finish();  // then it starts anew

private:
    sha256_ctx state_;
};

}  // namespace chatloop
