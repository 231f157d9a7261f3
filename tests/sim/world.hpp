// One simulated run: a cluster of actors on the in-process bus, virtual time, clients with random
// requests, and every choice (which link delivers, who computes, when) drawn from one seed.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "chatloop/host/local_cluster.hpp"
#include "fake_text.hpp"
#include "hash_model.hpp"

namespace chatloop::sim {

class Random {
public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t next() { return state_ = mix(state_, ++count_); }
    uint32_t below(uint32_t n) { return static_cast<uint32_t>(next() % n); }
    bool one_in(uint32_t n) { return below(n) == 0; }

private:
    uint64_t state_;
    uint64_t count_ = 0;
};

// A request, what is expected of it, and what was heard.
struct SimRequest {
    wire::Submit submit;
    std::optional<wire::Progress> resume;
    std::string client;
    TimeUs at = 0;
    TimeUs cancel_at = kNever;
    bool sent = false;
    bool cancel_sent = false;

    std::vector<uint32_t> expected;         // committed tokens, without an end token
    std::string expected_text;
    std::string expected_reason;

    bool accepted = false;
    std::vector<uint32_t> tokens;
    std::string text;
    std::vector<std::optional<wire::TokenEntry>> prompt;
    std::optional<wire::Done> done;
    std::optional<wire::Failure> failure;
};

// Fills in what is expected.
void expect(SimRequest& request, uint32_t stages);

class World {
public:
    explicit World(uint64_t seed, Mistake mistake = Mistake::kNone);

    // Runs until every request has ended, then drains. Throws nothing: asserts what must hold at
    // each message, and leaves the rest to check().
    void run();
    // The first thing that is wrong, or empty.
    std::string check() const;

    uint64_t steps() const { return steps_; }
    uint64_t evictions() const { return pools_.empty() ? 0 : pools_.front()->evictions(); }
    const std::vector<SimRequest>& requests() const { return requests_; }
    const Router& router() const { return cluster_->router(); }

private:
    void build(uint64_t seed);
    void add_requests();
    SimRequest make_request(uint32_t index);
    void hear(const std::string& client, const wire::RouterBody& body);
    void speak();
    bool all_ended() const;
    SimRequest* find(const std::string& client, const std::string& id);

    Mistake mistake_;
    Random random_;
    FakeText text_;
    uint32_t stages_ = 0;
    std::vector<std::unique_ptr<HashStage>> stage_computes_;
    HashHead head_;
    std::unique_ptr<LocalCluster> cluster_;
    std::vector<SimRequest> requests_;
    std::vector<std::shared_ptr<KvBlocks>> pools_;  // of the routes, before they were retired
    std::string broken_;  // what was heard that must not be
    TimeUs now_ = kSecondUs;
    uint64_t steps_ = 0;
};

}  // namespace chatloop::sim
