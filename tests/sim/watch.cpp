#include "watch.hpp"

#include <cstring>
#include <utility>

namespace chatloop::sim {

void Ledger::sent(Incarnation router, const Route& route, const wire::DataFrame& frame) {
    for (const Incarnation worker : route.workers) {
        Given& given = given_[{worker, router}];
        for (const wire::Item& item : frame.items) {
            given.slots[item.slot] = item.admission;
            for (size_t i = 0; i < item.blocks.size(); ++i) {
                const bool is_prefix = (item.flags & wire::kItemFirst) != 0 &&
                                       i < item.position / kBlockRows;
                if (!is_prefix) given.blocks[item.blocks[i]] = item.admission;
            }
        }
    }
}

const Ledger::Given* Ledger::given(Incarnation worker, Incarnation router) const {
    const auto found = given_.find({worker, router});
    return found == given_.end() ? nullptr : &found->second;
}

void FrontWatch::said(const std::string& client, const wire::RouterBody& body) {
    if (const auto* accepted = std::get_if<wire::Accepted>(&body)) {
        running_[{client, accepted->request_id}].clear();
    } else if (const auto* piece = std::get_if<wire::Piece>(&body)) {
        const auto request = running_.find({client, piece->request_id});
        if (request == running_.end()) return verdict_.broken("a piece of what does not run");
        on_piece(request->second, *piece);
    } else if (const auto* end = std::get_if<wire::ChoiceDone>(&body)) {
        const auto request = running_.find({client, end->request_id});
        if (request == running_.end() || request->second[end->choice].ended)
            return verdict_.broken("the end of a choice that does not run");
        request->second[end->choice].ended = true;
    } else if (const auto* done = std::get_if<wire::Done>(&body)) {
        const bool ran = running_.erase({client, done->request_id}) > 0;
        if (!ran && done->finish_reason != "cancelled")  // which may come before ACCEPTED
            verdict_.broken("the end of a request that does not run");
    } else if (const auto* failure = std::get_if<wire::Failure>(&body)) {
        if (failure->request_id) running_.erase({client, *failure->request_id});
    }
}

void FrontWatch::on_piece(std::map<uint32_t, Answer>& answers, const wire::Piece& piece) {
    Answer& answer = answers[piece.choice];
    if (answer.ended) verdict_.broken("a piece behind the end of its choice");
    if (answer.next_index && *answer.next_index != piece.index)
        verdict_.broken("an index was committed twice, or one left out");
    if (answer.next_offset && *answer.next_offset != piece.text_offset)
        verdict_.broken("a piece of text is twice there, or missing");
    answer.next_index = piece.index + static_cast<uint32_t>(piece.token_ids.size());
    answer.next_offset = piece.text_offset + piece.text.size();
}

WatchedStage::WatchedStage(const StageConfig& config, HashStage& compute, Incarnation worker,
                           const Ledger& ledger, Verdict& verdict)
    : config_(config),
      stage_(config),
      compute_(compute),
      worker_(worker),
      ledger_(ledger),
      verdict_(verdict),
      lost_(config.shares, false) {
    compute.set_watch([this](uint32_t slot, uint32_t block) { on_write(slot, block); });
    stage_.set_compute(compute);
}

void WatchedStage::begin(size_t share, FrameInHand& in_hand) {
    if (lost_[share]) {
        lost_[share] = false;
        stage_.forget(share);
        compute_.scramble(worker_, static_cast<uint32_t>(share) * config_.share.blocks,
                          config_.share.blocks);
    }
    stage_.begin(share, in_hand);
    share_ = share;
    router_ = in_hand.frame.header.router;
    admissions_.clear();
    for (const wire::Item& item : in_hand.frame.items)
        if ((item.flags & wire::kItemRefused) == 0) admissions_[item.slot] = item.admission;
    if (poison_ != nullptr) taste(in_hand.frame);
}

void WatchedStage::set_poison(Poison& poison, uint32_t stage, std::function<void()> die) {
    poison_ = &poison;
    stage_index_ = stage;
    die_ = std::move(die);
}

// The first stage sees the ids.
void WatchedStage::taste(const wire::DataFrame& frame) {
    size_t row = 0;
    for (const wire::Item& item : frame.items) {
        const size_t first = std::exchange(row, row + item.rows);
        if (item.position != 0 || (item.flags & wire::kItemRefused) != 0) continue;
        const std::pair<Incarnation, Admission> name{frame.header.router, item.admission};
        uint32_t id = 0;
        if (stage_index_ == 0)
            std::memcpy(&id, frame.payload.data() + first * sizeof id, sizeof id);
        if (id == kPoisonId) poison_->admissions.insert(name);
        if (stage_index_ == poison_->stage && poison_->admissions.contains(name)) die_();
    }
}

void WatchedStage::on_write(Slot slot, BlockId pool_block) {
    const BlockId first = static_cast<BlockId>(share_) * config_.share.blocks;
    if (pool_block < first || pool_block >= first + config_.share.blocks)
        return verdict_.broken("a unit wrote a block of another router's share");
    const auto admission = admissions_.find(slot);
    const Ledger::Given* given = ledger_.given(worker_, router_);
    if (given == nullptr || admission == admissions_.end())
        return verdict_.broken("a unit wrote what no router gave");
    const auto slot_of = given->slots.find(slot);
    if (slot_of == given->slots.end() || slot_of->second != admission->second)
        verdict_.broken("a unit wrote a slot that was given to another sequence");
    const auto block_of = given->blocks.find(pool_block - first);
    if (block_of == given->blocks.end() || block_of->second != admission->second)
        verdict_.broken("a unit wrote a block that was given to another sequence");
}

}  // namespace chatloop::sim
