#include "relay.hpp"

#include <algorithm>
#include <utility>

#include "chatloop/core/limits.hpp"
#include "chatloop/wire/codec.hpp"

namespace chatloop {

Relay::Relay(RelayConfig config, Outbox& outbox, Report report)
    : config_(std::move(config)), outbox_(outbox), report_(std::move(report)) {
    CL_ASSERT(config_.next != 0);  // a bug of whoever wired it; what comes from a peer is checked
    outbox_.open_link(link_, config_.next_endpoint);
}

void Relay::on_data(Message frame, TimeUs) {
    if (!wire::decode_header(frame.bytes())) {
        ++counters_.frames_malformed;
        return;
    }
    if (queue_.size() >= kShareFramesMax) {
        ++counters_.frames_beyond_queue;
        return;
    }
    queue_.push_back(std::move(frame));
}

void Relay::on_link(LinkId link, bool up, TimeUs) {
    if (link == link_) link_up_ = up;
}

void Relay::on_tick(TimeUs now) {
    if (now >= report_at_) {
        report_(counters_);
        report_at_ = now + config_.report_interval_us;
    }
    const bool draining = drain_until_ != kNever;
    finished_ = finished_ || (draining && (queue_.empty() || now >= drain_until_));
}

TimeUs Relay::next_timer() const { return finished_ ? 0 : std::min(report_at_, drain_until_); }

// One frame: a bounded piece of work, after which the loop looks at its sockets again.
void Relay::run_unit(TimeUs) {
    CL_ASSERT(has_work());
    Message frame = std::move(queue_.front());
    queue_.pop_front();
    wire::FrameHeader header = *wire::decode_header(frame.bytes());
    header.hop = static_cast<uint8_t>(header.hop + 1);
    header.destination = config_.next;
    wire::patch_header(frame.data(), header);  // in place: the payload is not copied
    outbox_.send_data(link_, std::move(frame));
    ++counters_.frames_forwarded;
}

void Relay::drain(TimeUs now) {
    if (drain_until_ != kNever) finished_ = true;
    drain_until_ = now + config_.drain_timeout_us;
}

}  // namespace chatloop
