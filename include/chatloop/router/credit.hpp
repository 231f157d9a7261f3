// What one worker incarnation still owes: frames and bytes in its hands, by generation. A frame is
// debited once and credited exactly once: by its RESULT, by FENCED, or with the account by death.
#pragma once

#include <cstdint>
#include <map>

#include "chatloop/core/assert.hpp"
#include "chatloop/core/ids.hpp"
#include "chatloop/wire/messages.hpp"

namespace chatloop {

class CreditAccount {
public:
    explicit CreditAccount(const wire::Share& share = {}) : share_(share) {}

    bool allows(uint64_t bytes) const {
        return frames_ + 1 <= share_.frames && (frames_ == 0 || bytes_ + bytes <= share_.bytes);
    }
    uint32_t frames_out() const { return frames_; }

    void debit(Generation generation, uint64_t bytes) {
        CL_ASSERT(allows(bytes));
        Owed& owed = owed_[generation];
        ++owed.frames;
        owed.bytes += bytes;
        ++frames_;
        bytes_ += bytes;
    }

    // By a RESULT of an unfenced generation.
    void credit(Generation generation, uint64_t bytes) {
        const auto owed = owed_.find(generation);
        if (owed == owed_.end()) return;  // FENCED came first
        CL_ASSERT(owed->second.frames > 0 && owed->second.bytes >= bytes);
        --owed->second.frames;
        owed->second.bytes -= bytes;
        --frames_;
        bytes_ -= bytes;
        if (owed->second.frames == 0) owed_.erase(owed);
    }

    // By FENCED(through): everything of those generations.
    void fenced(Generation through);

private:
    struct Owed {
        uint32_t frames = 0;
        uint64_t bytes = 0;
    };

    wire::Share share_;
    uint32_t frames_ = 0;
    uint64_t bytes_ = 0;
    std::map<Generation, Owed> owed_;
};

}  // namespace chatloop
