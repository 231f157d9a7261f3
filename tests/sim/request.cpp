#include "request.hpp"

#include <algorithm>

namespace chatloop::sim {

namespace {

void draw_sampling(Random& random, wire::Parameters& p) {
    if (random.one_in(2)) {
        p.temperature = 0.25f * static_cast<float>(1 + random.below(8));
        if (random.one_in(2)) p.top_k = 1 + random.below(20);
        if (random.one_in(2)) p.top_p = 0.9f;
        if (random.one_in(3)) p.min_p = 0.05f;
    }
    if (random.one_in(3)) {
        p.repetition_penalty = 0.5f + 0.25f * static_cast<float>(random.below(5));
        p.presence_penalty = 0.5f * static_cast<float>(random.below(5)) - 1.0f;
        p.frequency_penalty = 0.25f * static_cast<float>(random.below(5)) - 0.25f;
    }
    if (random.one_in(3)) {
        for (uint32_t id = random.below(20); id < kVocab; id += 1 + random.below(30))
            p.logit_bias.push_back({id, static_cast<float>(random.below(9)) - 4.0f});
    }
}

std::string check_choice(const SimRequest& r, const SimChoice& choice) {
    const bool cancelled = r.done->finish_reason == "cancelled";
    const bool prefix = choice.tokens.size() <= choice.expected.size() &&
                        std::equal(choice.tokens.begin(), choice.tokens.end(),
                                   choice.expected.begin());
    if (!prefix || (!cancelled && choice.tokens != choice.expected)) return " has other tokens";
    if (!cancelled && !r.resume && choice.text != choice.expected_text)
        return " has another text";
    if (!cancelled && choice.done.has_value() != (r.choices.size() > 1)) return " has no end";
    if (!choice.done) return {};
    if (choice.done->finish_reason != choice.expected_reason) return " ended for another reason";
    if (choice.done->completion_tokens != choice.expected.size()) return " counts other tokens";
    return {};
}

}  // namespace

SimRequest make_request(Random& random, uint32_t index, TimeUs at) {
    SimRequest request;
    request.submit.request_id = "r" + std::to_string(index);
    wire::Parameters& p = request.submit.parameters;
    std::vector<uint32_t> prompt(1 + random.below(random.one_in(2) ? 180 : 30));
    for (uint32_t& id : prompt) id = 1 + random.below(kVocab - 2);
    if (random.one_in(2)) {  // prompts that begin alike, up to somewhere
        const size_t alike = std::min<size_t>(prompt.size(), 60 + random.below(120));
        for (uint32_t i = 0; i < alike; ++i) prompt[i] = 1 + i % 50;
    }
    p.priority = static_cast<int32_t>(random.below(3)) - 1;
    p.prompt = prompt;
    p.max_tokens = random.one_in(8) ? 0 : 1 + random.below(40);
    p.seed = random.next();
    draw_sampling(random, p);
    if (random.one_in(3)) p.stop = {std::string(1, static_cast<char>(33 + random.below(90)))};
    if (random.one_in(3)) p.logprobs = random.below(4);
    if (random.one_in(3) || p.max_tokens == 0) p.prompt_logprobs = random.below(3);
    p.ignore_eos = random.one_in(4);
    if (random.one_in(3)) p.stop_token_ids = {random.below(kVocab), random.below(kVocab)};
    if (random.one_in(4))
        p.constraint = Constraint{ConstraintKind::kRegex, {std::to_string(random.below(1000))}};
    if (random.one_in(4)) p.n = 2 + random.below(3);
    if (random.one_in(3)) p.min_tokens = random.below(p.max_tokens + 1);
    request.at = at;
    request.fingerprint = kSimFingerprint;
    if (random.one_in(6)) request.cancel_at = request.at + random.below(300'000);
    return request;
}

void begin_elsewhere(SimRequest& request, Random& random) {
    wire::Progress progress;
    progress.prompt_ids = request.prompt_ids();
    for (SimChoice& choice : request.choices) {
        const auto count = static_cast<uint32_t>(choice.expected.size());
        choice.tokens.assign(choice.expected.begin(),
                             choice.expected.begin() + random.below(count + 1));
        progress.choices.push_back(choice.tokens);
    }
    progress.seed = *request.submit.parameters.seed;
    if (random.one_in(8)) request.fingerprint = "00000000000000ff";
    progress.fingerprint = request.fingerprint;
    request.resume = std::move(progress);
}

std::string check(const SimRequest& r) {
    const std::string& id = r.submit.request_id;
    if (r.abandoned) return {};
    const bool is_foreign = r.fingerprint != kSimFingerprint;
    if (r.poison || is_foreign) {
        const char* code = r.poison ? "poison" : "fingerprint_mismatch";
        if (r.failure && r.failure->code == code) return {};
        const bool is_cancelled = r.done && r.done->finish_reason == "cancelled" && r.cancel_sent;
        return is_cancelled ? std::string() : id + " did not end as " + code;
    }
    if (r.failure) return id + " failed: " + r.failure->code + ": " + r.failure->message;
    if (!r.done) return id + " has no end";
    const bool cancelled = r.done->finish_reason == "cancelled";
    if (cancelled && !r.cancel_sent) return id + " was cancelled by nobody";
    uint32_t completion_tokens = 0;
    for (const SimChoice& choice : r.choices) {
        if (const std::string wrong = check_choice(r, choice); !wrong.empty())
            return id + ": choice " + std::to_string(&choice - r.choices.data()) + wrong;
        completion_tokens += static_cast<uint32_t>(choice.expected.size());
    }
    if (cancelled) return {};
    if (r.done->finish_reason != r.choices[0].expected_reason)
        return id + " ended for another reason";
    if (r.done->completion_tokens != completion_tokens) return id + " counts other tokens";
    // Whoever has the whole answer has had these before.
    const bool had_all = r.resume && r.resume->choices[0] == r.choices[0].expected;
    const bool wants_prompt = r.submit.parameters.prompt_logprobs.has_value();
    if (wants_prompt && !had_all && !r.was_cut && r.prompt.size() != r.prompt_ids().size())
        return id + " misses prompt log-probabilities";
    return {};
}

}  // namespace chatloop::sim
