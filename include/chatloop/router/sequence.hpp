// One choice of a request from its beginning to its end: token ids, place on a route, text that is
// held back.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "chatloop/core/clock.hpp"
#include "chatloop/core/ids.hpp"
#include "chatloop/router/kv_blocks.hpp"
#include "chatloop/router/request.hpp"
#include "chatloop/router/stop_text.hpp"
#include "chatloop/text/text.hpp"

namespace chatloop {

// Its rows were in a frame that was running when a worker died (poison.hpp).
struct Suspicion {
    uint64_t group = 0;      // those that share a frame, and nobody else's rows do
    uint32_t row_first = 0;  // the rows in question
    uint32_t row_end = 0;
    uint32_t deaths = 0;     // with nobody else in the frame
};

struct Sequence : SequenceStart {
    Sequence(SequenceStart start, std::shared_ptr<Request> of)
        : SequenceStart(std::move(start)), request(std::move(of)) {}

    SequenceId id = 0;
    std::shared_ptr<Request> request;
    uint32_t choice = 0;

    Generation generation = 0;       // of the route it runs on; 0 while it waits
    std::shared_ptr<Placement> placement;
    uint32_t rows_sent = 0;          // rows in frames so far: the next position
    FrameNumber last_frame = 0;      // that had rows of it
    uint32_t blocks_sent = 0;        // entries of placement->blocks named to the workers
    bool lacks_block = false;        // its next row has no block: it waits for one
    bool gives_way = false;          // is preempted when none of its rows is in flight
    uint32_t confirmed = 0;          // rows whose RESULT came, of this placement
    bool recovers = false;           // computes again what a fault has taken
    bool was_refused = false;        // by a hop, once: it began again, without the prefix cache
    std::optional<Suspicion> suspicion;

    std::unique_ptr<TextStream> text;
    StopText stop_text;              // holds back what may become a stop string
    uint64_t text_offset = 0;        // bytes sent to the client
    uint32_t prompt_entries_sent = 0;

    TimeUs queued_at = 0;            // the last time
    TimeUs admitted_at = 0;
    TimeUs first_token_at = 0;
    TimeUs last_token_at = 0;
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
