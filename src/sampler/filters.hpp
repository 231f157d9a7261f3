// Rule 11's filters, each on what the one before left. A weight is rne(p * 2^40), at most 2^40, and
// a vocabulary has fewer than 2^23 ids: sums fit 64 bits, their products with 2^24 fit 128.
#pragma once

#include "chatloop/sampler/sampling.hpp"

namespace chatloop {

uint64_t total_weight(const std::vector<Candidate>& candidates);

// Keeps the k first by (z descending, id ascending). The order of what is kept is not stated.
void keep_top_k(std::vector<Candidate>& candidates, uint32_t k);

// These expect weights above zero, and at least one candidate; they keep at least one.
void keep_typical_p(std::vector<Candidate>& candidates, float typical_p);  // ids ascending
void keep_top_p(std::vector<Candidate>& candidates, float top_p);
void keep_min_p(std::vector<Candidate>& candidates, float min_p);  // keeps the order

}  // namespace chatloop
