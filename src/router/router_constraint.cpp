// Constrained answers: after each commit, which tokens may come next. The matcher belongs to the
// sequence and only sees committed tokens, so a replay or a preemption needs nothing of it, and a
// RESUME rebuilds it from the tokens that the client brought.
#include <algorithm>

#include "chatloop/core/limits.hpp"
#include "chatloop/router/router.hpp"

namespace chatloop {

namespace {

void set_bit(std::string& bits, uint32_t id, bool on) {
    if (id / 8 >= bits.size()) return;
    const auto bit = static_cast<uint8_t>(1u << id % 8);
    const auto byte = static_cast<uint8_t>(bits[id / 8]);
    bits[id / 8] = static_cast<char>(on ? byte | bit : byte & ~bit);
}

}  // namespace

// The constraint of a request, compiled once; each of its choices gets a matcher of its own.
Status Router::compile_constraint(Sequence& sequence) const {
    const std::optional<Constraint>& constraint = sequence.parameters.constraint;
    if (!constraint) return Ok{};
    if (config_.cluster.vocab > 8 * kAllowedBytesMax)
        return Error{ErrorCode::kInvalidRequest,
                     "constraints are not served with a vocabulary of " +
                         std::to_string(config_.cluster.vocab)};
    Result<std::unique_ptr<Matcher>> matcher = text_.match(*constraint);
    if (!matcher) return matcher.error();
    sequence.constraint = std::move(*matcher);
    sequence.parameters.constraint.reset();  // its text has done its work
    return Ok{};
}

// What the next token may be: stop ids exactly where the answer may end, since they are no part of
// it. False: nothing may come, the answer ends here.
Result<bool> Router::constrain(Sequence& sequence) const {
    if (sequence.matcher == nullptr) return true;
    Result<AllowedTokens> next = sequence.matcher->allowed();
    if (!next) return next.error();
    std::string& bits = next->bits;
    const uint32_t vocab = config_.cluster.vocab;
    bits.resize((vocab + 7) / 8);
    for (uint32_t id = vocab; id < 8 * bits.size(); ++id) set_bit(bits, id, false);
    const wire::Parameters& parameters = sequence.parameters;
    const auto set_all = [&](const std::vector<uint32_t>& ids, bool on) {
        for (const uint32_t id : ids)
            if (id < vocab) set_bit(bits, id, on);
    };
    set_all(config_.stop_ids, false);
    set_all(parameters.stop_token_ids, false);
    if (std::all_of(bits.begin(), bits.end(), [](char byte) { return byte == 0; })) {
        if (next->may_end) return false;
        return Error{ErrorCode::kInvalidRequest,
                     "no token of the vocabulary goes on as the constraint asks"};
    }
    if (next->may_end && sequence.committed() >= parameters.min_tokens) {
        if (!parameters.ignore_eos) set_all(config_.stop_ids, true);
        set_all(parameters.stop_token_ids, true);
    }
    bits.resize(bits.find_last_not_of('\0') + 1);
    sequence.allowed = std::move(bits);
    return true;
}

// A token was committed: what may follow. False: nothing.
Result<bool> Router::advance(Sequence& sequence, uint32_t token) const {
    if (sequence.matcher == nullptr) return true;
    if (!sequence.matcher->commit(token))
        return Error{ErrorCode::kInternal, "the sampler answered a token that was not allowed"};
    return constrain(sequence);
}

}  // namespace chatloop
