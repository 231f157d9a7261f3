// A request of a simulated client: what it asks, what must come, what came.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "chatloop/core/clock.hpp"
#include "chatloop/wire/messages.hpp"
#include "random.hpp"

namespace chatloop::sim {

// One of its answers: what is expected of it, and what was heard.
struct SimChoice {
    std::vector<uint32_t> expected;  // committed tokens, without an end token
    std::string expected_text;
    std::string expected_reason;

    std::vector<uint32_t> tokens;
    std::string text;
    std::optional<wire::ChoiceDone> done;
};

struct SimRequest {
    wire::Submit submit;
    std::optional<wire::Progress> resume;  // it was begun elsewhere: its first message is RESUME
    bool poison = false;      // it kills the worker that computes it
    std::string fingerprint;  // under which it was begun
    TimeUs at = 0;
    TimeUs cancel_at = kNever;

    uint32_t attempt = 0;
    bool sent = false;
    uint64_t sent_nonce = 0;  // of the PING before it was sent last
    bool cancel_sent = false;
    bool was_cut = false;    // a connection broke while it ran, or it was taken up
    bool abandoned = false;  // its client died, or gave it up
    TimeUs resume_at = kNever;
    uint64_t connection = 0;  // on which it was sent

    std::vector<SimChoice> choices;  // n
    bool accepted = false;
    std::vector<std::optional<wire::TokenEntry>> prompt;
    std::optional<wire::Done> done;
    std::optional<wire::Failure> failure;  // that may not be retried

    const std::vector<uint32_t>& prompt_ids() const {
        return std::get<std::vector<uint32_t>>(submit.parameters.prompt);
    }
    bool ended() const { return done || failure || abandoned; }
    bool open() const { return sent && !ended(); }
};

inline constexpr char kSimFingerprint[] = "000000000000002a";

SimRequest make_request(Random& random, uint32_t index, TimeUs at);
// Fills in what is expected.
void expect(SimRequest& request, uint32_t stages);
// As if `random` tokens of it had come from another router.
void begin_elsewhere(SimRequest& request, Random& random);
// The first thing that is wrong with what came, or empty.
std::string check(const SimRequest& request);

}  // namespace chatloop::sim
