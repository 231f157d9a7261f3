#include "sampler/filters.hpp"

#include <algorithm>
#include <cmath>

#include "chatloop/core/assert.hpp"

namespace chatloop {

namespace {

// (the type has no standard name, and -Wpedantic knows)
__extension__ using Uint128 = unsigned __int128;

// A share of 1 in units of 2^-24.
uint64_t share_u24(float share) {
    CL_ASSERT(share >= 0.0f && share <= 1.0f);
    return static_cast<uint64_t>(std::nearbyint(static_cast<double>(share) * 0x1p24));
}

// part >= share * whole
bool reaches(uint64_t part, uint64_t share, uint64_t whole) {
    return Uint128{part} << 24 >= Uint128{share} * whole;
}

bool more_likely(const Candidate& a, const Candidate& b) {
    return a.z != b.z ? a.z > b.z : a.id < b.id;
}

bool more_typical(const Candidate& a, const Candidate& b) {
    return a.distance != b.distance ? a.distance < b.distance : a.id < b.id;
}

// Keeps the shortest prefix by `before` whose weight reaches the share of the total. A heap instead
// of a sort: the prefix is mostly a small part.
template <class Before>
void keep_prefix(std::vector<Candidate>& candidates, float share, Before before) {
    CL_ASSERT(!candidates.empty());
    const uint64_t wanted = share_u24(share);
    const uint64_t total = total_weight(candidates);
    const auto after = [&](const Candidate& a, const Candidate& b) { return before(b, a); };
    std::make_heap(candidates.begin(), candidates.end(), after);
    auto rest = candidates.end();
    uint64_t sum = 0;
    do {
        std::pop_heap(candidates.begin(), rest, after);
        --rest;
        sum += rest->weight;
    } while (rest != candidates.begin() && !reaches(sum, wanted, total));
    candidates.erase(candidates.begin(), rest);
}

}  // namespace

uint64_t total_weight(const std::vector<Candidate>& candidates) {
    uint64_t total = 0;
    for (const Candidate& candidate : candidates) {
        total += candidate.weight;
    }
    return total;
}

void keep_top_k(std::vector<Candidate>& candidates, uint32_t k) {
    CL_ASSERT(k > 0);
    if (k < candidates.size()) {
        std::nth_element(candidates.begin(), candidates.begin() + k, candidates.end(), more_likely);
        candidates.resize(k);
    }
}

void keep_typical_p(std::vector<Candidate>& candidates, float typical_p) {
    const double total = static_cast<double>(total_weight(candidates));
    const double log_total = kernel::log_f64(total);
    double entropy = 0.0;
    for (Candidate& candidate : candidates) {
        const double weight = static_cast<double>(candidate.weight);
        candidate.distance = log_total - kernel::log_f64(weight);
        entropy += (weight / total) * candidate.distance;
    }
    for (Candidate& candidate : candidates) {
        candidate.distance = std::abs(candidate.distance - entropy);
    }
    keep_prefix(candidates, typical_p, more_typical);
}

void keep_top_p(std::vector<Candidate>& candidates, float top_p) {
    keep_prefix(candidates, top_p, more_likely);
}

void keep_min_p(std::vector<Candidate>& candidates, float min_p) {
    CL_ASSERT(!candidates.empty());
    const uint64_t share = share_u24(min_p);
    uint64_t weight_max = 0;
    for (const Candidate& candidate : candidates) {
        weight_max = std::max(weight_max, candidate.weight);
    }
    std::erase_if(candidates, [&](const Candidate& candidate) {
        return !reaches(candidate.weight, share, weight_max);
    });
}

}  // namespace chatloop
