#include "chatloop/router/credit.hpp"

#include <algorithm>

#include "chatloop/core/rules.hpp"

namespace chatloop {

void CreditAccount::fenced(Generation through) {
    auto owed = owed_.begin();
    while (owed != owed_.end() && owed->first <= through) {
        CL_ASSERT(!holds(Rule::kCreditOnce) || owed->second.frames <= frames_);
        frames_ -= std::min(owed->second.frames, frames_);
        bytes_ -= std::min(owed->second.bytes, bytes_);
        if (holds(Rule::kCreditOnce)) owed = owed_.erase(owed);
        else ++owed;
    }
}

}  // namespace chatloop
