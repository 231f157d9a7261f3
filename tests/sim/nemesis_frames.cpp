// The faults of single frames: one that is lost, comes twice, or has a bit that flips.
#include <algorithm>

#include "fuzz/frames.hpp"
#include "nemesis.hpp"

namespace chatloop::sim {

void Nemesis::harm_frame() {
    static constexpr std::pair<Harm, const char*> kHarms[] = {
        {Harm::kLose, "a frame is lost"},
        {Harm::kLoseFiller, "the frame that fills a block is lost"},
        {Harm::kLoseResult, "a RESULT is lost"},
        {Harm::kLoseLastResult, "the last RESULT is lost"},
        {Harm::kFlipHeader, "a bit of a header flips"},
        {Harm::kFlipBody, "a bit of a body flips"},
        {Harm::kDouble, "a frame comes twice"},
    };
    const auto& [harm, what] = kHarms[random_.below(std::size(kHarms))];
    setting_.say("nemesis", std::string(what) + ", soon");
    harm_ = harm;
    pass_before_harm_ = random_.below(10);
}

bool Nemesis::matches(const Message& frame) const {
    const Result<wire::FrameHeader> header = wire::decode_header(frame.bytes());
    if (!header) return false;
    const bool is_result = header->type == wire::kFrameResult;
    if (harm_ == Harm::kLoseResult) return is_result;
    if (harm_ == Harm::kLoseLastResult) {
        for (const RouterProcess* process : victims_.routers)
            if (process->alive() && process->frames_in_flight(header->router) == 1)
                return is_result;
        return false;
    }
    if (harm_ != Harm::kLoseFiller) return true;
    if (is_result) return false;
    const auto decoded = wire::decode_frame(*header, frame.bytes());
    const auto* data = std::get_if<wire::DataFrame>(&decoded);
    if (data == nullptr) return false;
    return std::any_of(data->items.begin(), data->items.end(), [](const wire::Item& item) {
        return (item.position + item.rows) / kBlockRows > item.position / kBlockRows;
    });
}

void Nemesis::flip(Message& frame, size_t from, size_t to) {
    const size_t at = from + random_.below(static_cast<uint32_t>(to - from));
    frame.data()[at] ^= static_cast<uint8_t>(1u << random_.below(8));
    if (setting_.mistake != Mistake::kCrc) return;
    wire::Bytes resealed(frame.bytes().begin(), frame.bytes().end());
    fuzz::reseal(resealed);
    frame = Message(std::move(resealed));
}

Fate Nemesis::on_frame(const Passing&, Message& frame) {
    if (harm_ == Harm::kNone || !matches(frame)) return Fate::kPass;
    if (pass_before_harm_ > 0) {
        --pass_before_harm_;
        return Fate::kPass;
    }
    const Harm harm = std::exchange(harm_, Harm::kNone);
    lasts_until(timeline_.now());
    switch (harm) {
        case Harm::kNone: break;
        case Harm::kLose: note("a frame is lost"); return Fate::kLose;
        case Harm::kLoseFiller: note("the frame that fills a block is lost"); return Fate::kLose;
        case Harm::kLoseResult: note("a RESULT is lost"); return Fate::kLose;
        case Harm::kLoseLastResult: note("the last RESULT is lost"); return Fate::kLose;
        case Harm::kDouble: note("a frame comes twice"); return Fate::kDouble;
        case Harm::kFlipHeader:
            note("a bit of a header flips");
            flip(frame, 0, wire::kHeaderBytes);
            break;
        case Harm::kFlipBody:
            note("a bit of a body flips");
            flip(frame, wire::kHeaderBytes, frame.size());
            break;
    }
    return Fate::kPass;
}

}  // namespace chatloop::sim
