// What the choices of one request have in common; each of them is a Sequence. The first runs alone
// until it has a token, so that the others find its blocks in the prefix cache.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "chatloop/core/clock.hpp"
#include "chatloop/core/ids.hpp"
#include "chatloop/router/token_history.hpp"
#include "chatloop/router/trace.hpp"
#include "chatloop/text/text.hpp"
#include "chatloop/wire/messages.hpp"

namespace chatloop {

// What a sequence begins with.
struct SequenceStart {
    std::string client;  // routing id on the front
    std::string request_id;
    wire::Parameters parameters;     // without the prompt once it is ids
    uint64_t seed = 0;
    uint32_t tokens_max = 0;         // max_tokens, cut to context and pool
    std::vector<uint32_t> ids;       // prompt, then committed tokens
    uint32_t prompt_count = 0;
    TokenHistory history;            // of ids, as far as a penalty looks at them
    std::shared_ptr<const Matcher> constraint;  // compiled, before any token; or null
    TimeUs arrived_at = 0;
    TimeUs deadline_at = kNever;
};

struct Request {
    std::string client;
    std::string id;
    uint32_t choices = 1;                   // n
    uint32_t attempt = 0;                   // of the RESUME that began it here
    std::vector<SequenceId> running;        // that have begun and not ended
    std::optional<SequenceStart> others;    // choices 1 and up, until they begin
    std::optional<wire::Progress> resume;   // until all have begun
    size_t constraint_bytes = 0;            // of Router::constraint_bytes_
    bool ended = false;

    // Of those that have ended.
    uint32_t committed = 0;
    wire::Done done;                        // reason and stop of choice 0
    // Of choice 0.
    uint32_t prompt_count = 0;
    uint32_t cached_tokens = 0;
    TimeUs arrived_at = 0;
    TimeUs admitted_at = 0;
    TimeUs first_token_at = 0;

    TraceContext trace;
    std::vector<RequestTrace::Choice> traced;  // of choices that have ended
};

}  // namespace chatloop
