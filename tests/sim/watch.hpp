// What no unit may ever do, checked as it does it: write a slot or block that the router has given
// to another sequence, or one of another router's share.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "chatloop/router/cluster.hpp"
#include "chatloop/stage/stage_worker.hpp"
#include "hash_model.hpp"

namespace chatloop::sim {

// The first thing that went wrong in a run.
class Verdict {
public:
    void broken(const std::string& what) {
        if (what_.empty()) what_ = what;
    }
    bool ok() const { return what_.empty(); }
    const std::string& what() const { return what_; }

private:
    std::string what_;
};

// Who may write what on each worker: as the routers' frames have said so far.
class Ledger {
public:
    struct Given {
        std::map<Slot, Admission> slots;
        std::map<BlockId, Admission> blocks;  // those that its sequence writes
    };

    // A frame leaves its router for these workers.
    void sent(Incarnation router, const Route& route, const wire::DataFrame& frame);
    const Given* given(Incarnation worker, Incarnation router) const;

private:
    std::map<std::pair<Incarnation, Incarnation>, Given> given_;
};

// What a router says to its clients, before any of it can get lost: between ACCEPTED and the one
// end each token index comes once, in order, and the text behind the text before.
class FrontWatch {
public:
    explicit FrontWatch(Verdict& verdict) : verdict_(verdict) {}
    void said(const std::string& client, const wire::RouterBody& body);

private:
    struct Answer {
        std::optional<uint32_t> next_index;
        std::optional<uint64_t> next_offset;
        bool ended = false;
    };
    using Name = std::pair<std::string, std::string>;  // client, request
    void on_piece(std::map<uint32_t, Answer>& answers, const wire::Piece& piece);

    Verdict& verdict_;
    std::map<Name, std::map<uint32_t, Answer>> running_;
};

// A request that kills one stage whenever its first row is computed there. What marks it is the
// first id of its prompt, which no other prompt begins with.
inline constexpr uint32_t kPoisonId = kVocab - 1;

struct Poison {
    uint32_t stage = 0;
    uint32_t deaths = 0;
    std::set<std::pair<Incarnation, Admission>> admissions;  // of each router
};

// A stage worker whose writes are compared with the ledger.
class WatchedStage final : public FrameExecutor {
public:
    WatchedStage(const StageConfig& config, HashStage& compute, Incarnation worker,
                 const Ledger& ledger, Verdict& verdict);

    void begin(size_t share, FrameInHand& in_hand) override;
    bool run_unit() override { return stage_.run_unit(); }
    void finish(const wire::FrameHeader& header, std::span<const wire::HopTiming> timings,
                wire::Bytes& bytes) override {
        stage_.finish(header, timings, bytes);
    }
    void abandon() override { stage_.abandon(); }
    void forget(size_t share) override { stage_.forget(share); }

    uint64_t items_refused() const { return stage_.items_refused(); }
    // Before its next frame it forgets what it holds, and its memory is another.
    void lose_tables() { lost_.assign(config_.shares, true); }
    void set_poison(Poison& poison, uint32_t stage, std::function<void()> die);

private:
    void on_write(Slot slot, BlockId pool_block);
    void taste(const wire::DataFrame& frame);

    StageConfig config_;
    StageWorker stage_;
    HashStage& compute_;
    Incarnation worker_;
    const Ledger& ledger_;
    Verdict& verdict_;
    size_t share_ = 0;
    Incarnation router_ = 0;
    std::map<Slot, Admission> admissions_;  // of the frame in hand
    std::vector<bool> lost_;                // by share
    Poison* poison_ = nullptr;
    uint32_t stage_index_ = 0;
    std::function<void()> die_;
};

}  // namespace chatloop::sim
