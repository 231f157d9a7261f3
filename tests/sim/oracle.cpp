// The tokens that must come, straight from the definition: logits by the chain of hashes, adjusted
// over the whole vocabulary as docs/numerics.md says, then the draw.
#include <algorithm>
#include <cmath>

#include "chatloop/kernel/kernels.hpp"
#include "chatloop/sampler/sampling.hpp"
#include "fake_text.hpp"
#include "request.hpp"

namespace chatloop::sim {

namespace {

bool contains(const std::vector<uint32_t>& ids, uint32_t id) {
    return std::find(ids.begin(), ids.end(), id) != ids.end();
}

// Rule 11 up to the temperature.
void adjust(const wire::Parameters& p, const std::vector<uint32_t>& prompt,
            const std::vector<uint32_t>& output, std::vector<float>& z) {
    const bool may_not_end = output.size() < p.min_tokens;
    for (uint32_t id = 0; id < kVocab; ++id) {
        const bool masked = (id == 0 && (p.ignore_eos || may_not_end)) ||
                            (may_not_end && contains(p.stop_token_ids, id));
        if (masked) z[id] = -INFINITY;
        for (const wire::LogitBias& bias : p.logit_bias)
            if (bias.token == id) z[id] = z[id] + bias.bias;
        if (contains(prompt, id) || contains(output, id))
            z[id] = z[id] > 0 ? z[id] / p.repetition_penalty : z[id] * p.repetition_penalty;
        const auto count = static_cast<float>(std::count(output.begin(), output.end(), id));
        const float frequency = count * p.frequency_penalty;
        z[id] = z[id] - frequency;
        if (count > 0) z[id] = z[id] - p.presence_penalty;
    }
}

// What is not allowed is masked; stop ids are allowed where the constraint may end. False: it must.
bool constrain(const wire::Parameters& p, const std::vector<uint32_t>& output,
               std::vector<float>& z) {
    if (!p.constraint) return true;
    const AllowedTokens next = fake_allowed(p.constraint->texts[0], output);
    bool any = false;
    for (uint32_t id = 0; id < kVocab; ++id) {
        const bool ends = id == 0 || contains(p.stop_token_ids, id);
        const bool listed = (static_cast<uint8_t>(next.bits[id / 8]) >> id % 8 & 1) != 0;
        any = any || (listed && !ends);
        if (!(ends ? next.may_end : listed)) z[id] = -INFINITY;
    }
    return any;
}

// `choice` of a request, token by token.
void expect_choice(const wire::Parameters& p, uint32_t stages, uint32_t number,
                   SimChoice& choice) {
    const auto* kernels = kernel::find_kernels("reference", kernel::cpu_features());
    const std::vector<uint32_t> prompt = std::get<std::vector<uint32_t>>(p.prompt);
    std::vector<uint32_t> ids = prompt;
    std::vector<uint32_t>& output = choice.expected;
    SamplingParams sampling;
    sampling.temperature = p.temperature;
    sampling.top_k = p.top_k;
    sampling.top_p = p.top_p;
    sampling.min_p = p.min_p;
    sampling.seed = *p.seed;
    sampling.choice = number;
    SamplingScratch scratch;
    choice.expected_reason = "length";
    for (uint32_t index = 0; index <= p.max_tokens && p.max_tokens > 0; ++index) {
        std::vector<float> logits(kVocab);
        hash_logits(hash_oracle(stages, ids).back(), logits.data());
        if (!constrain(p, output, logits)) {
            choice.expected_reason = "stop";
            return;
        }
        if (index == p.max_tokens) return;
        adjust(p, prompt, output, logits);
        const uint32_t token = sample(*kernels, logits, sampling, index, scratch);
        if (token == 0 || contains(p.stop_token_ids, token)) {
            choice.expected_reason = "stop";
            return;
        }
        ids.push_back(token);
        output.push_back(token);
        const auto character = static_cast<char>(32 + token);
        const bool may_end = output.size() >= p.min_tokens;
        if (may_end && !p.stop.empty() && p.stop[0][0] == character) {
            choice.expected_reason = "stop";
            return;
        }
        choice.expected_text += character;
    }
}

}  // namespace

void expect(SimRequest& request, uint32_t stages) {
    const wire::Parameters& p = request.submit.parameters;
    request.choices.resize(p.n);
    for (uint32_t number = 0; number < p.n; ++number)
        expect_choice(p, stages, number, request.choices[number]);
}

}  // namespace chatloop::sim
