// One request from its acceptance to its end: token ids, place on a route, text that is held back.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "chatloop/core/clock.hpp"
#include "chatloop/core/ids.hpp"
#include "chatloop/router/kv_blocks.hpp"
#include "chatloop/router/stop_text.hpp"
#include "chatloop/router/token_history.hpp"
#include "chatloop/text/text.hpp"
#include "chatloop/wire/messages.hpp"

namespace chatloop {

struct Sequence {
    SequenceId id = 0;
    std::string client;  // routing id on the front
    std::string request_id;
    wire::Parameters parameters;
    uint32_t attempt = 0;            // of the RESUME that began it here
    uint64_t seed = 0;
    uint32_t tokens_max = 0;         // max_tokens, cut to context and pool
    std::vector<uint32_t> ids;       // prompt, then committed tokens
    uint32_t prompt_count = 0;
    TokenHistory history;            // of ids, as far as a penalty looks at them

    Generation generation = 0;       // of the route it runs on; 0 while it waits
    std::shared_ptr<Placement> placement;
    uint32_t rows_sent = 0;          // rows in frames so far: the next position
    FrameNumber last_frame = 0;      // that had rows of it
    uint32_t blocks_sent = 0;        // entries of placement->blocks named to the workers
    bool lacks_block = false;        // its next row has no block: it waits for one
    bool gives_way = false;          // is preempted when none of its rows is in flight

    std::unique_ptr<TextStream> text;
    StopText stop_text;              // holds back what may become a stop string
    uint64_t text_offset = 0;        // bytes sent to the client
    uint32_t prompt_entries_sent = 0;

    TimeUs arrived_at = 0;
    TimeUs queued_at = 0;            // the last time
    TimeUs admitted_at = 0;
    TimeUs first_token_at = 0;
    TimeUs last_token_at = 0;
    TimeUs deadline_at = kNever;
    TimeUs timeout_at = kNever;      // of Router::timeouts_

    uint32_t committed() const { return static_cast<uint32_t>(ids.size()) - prompt_count; }
    uint32_t rows_left() const { return static_cast<uint32_t>(ids.size()) - rows_sent; }
    void append(uint32_t token) {
        ids.push_back(token);
        if (parameters.has_penalties()) history.add_output(token);
    }
    bool wants_prompt_logprobs() const { return parameters.prompt_logprobs.has_value(); }
};

}  // namespace chatloop
