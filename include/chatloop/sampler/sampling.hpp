// From a row of logits to a token: rules 10 and 11 of docs/numerics.md, without state. Every sum is
// an exact integer, so a choice is a pure function of its arguments on every machine.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "chatloop/kernel/kernels.hpp"

namespace chatloop {

struct SamplingParams {
    float temperature = 0;  // 0: the largest logit, ties to the lowest id
    uint32_t top_k = 0;     // 0: off
    float top_p = 1;        // [0, 1], 1: off
    float min_p = 0;        // [0, 1], 0: off
    float typical_p = 1;    // [0, 1], 1: off
    uint64_t seed = 0;
    uint32_t choice = 0;  // index among the choices of one request
};

struct Candidate {
    float z;
    uint32_t id;
    uint64_t weight;      // rne(p * 2^40)
    double distance = 0;  // typical_p's |surprise - entropy|
};

// Reused from row to row; what it holds between calls has no meaning.
struct SamplingScratch {
    std::vector<float> p;
    std::vector<Candidate> candidates;
};

// The chosen id. logits (vocab): after softcap, mask, bias and penalties; finite, or -infinity for
// a masked id, at least one finite. token_index counts generated tokens from the original prompt.
uint32_t sample(const kernel::Kernels& kernels, std::span<const float> logits,
                const SamplingParams& params, uint32_t token_index, SamplingScratch& scratch);

// The 24 random bits of (seed, choice, token_index).
uint32_t draw_u24(uint64_t seed, uint32_t choice, uint32_t token_index);

// What log-probabilities of a row need: kernel::log_prob(z, zmax, log_sum).
struct RowStats {
    float zmax;
    double log_sum;
};
RowStats row_stats(const kernel::Kernels& kernels, std::span<const float> logits);

struct TokenLogprob {
    uint32_t id;
    float logprob;
};

// The `count` most probable ids (all of them if the vocabulary is smaller), by (logprob descending,
// id ascending).
void top_logprobs(std::span<const float> logits, const RowStats& stats, uint32_t count,
                  std::vector<TokenLogprob>& out);

}  // namespace chatloop
