#include "chatloop/bus/egress.hpp"

#include <algorithm>
#include <utility>
#include <vector>

namespace chatloop {
namespace {

constexpr TimeUs kPauseMinUs = 5 * kMillisecondUs;
constexpr TimeUs kPauseMaxUs = 500 * kMillisecondUs;
constexpr int kFlushMax = 2 * kFrontSendMax;  // messages to one peer per turn

size_t cost(const Message& message) {
    return message.size() + kEgressMessageBytes;
}

}  // namespace

Egress::Egress(TrySend try_send, const EgressLimits& limits)
    : try_send_(std::move(try_send)), limits_(limits) {}

void Egress::send(const std::string& peer, Message message, TimeUs now) {
    if (gone_.contains(peer)) {
        ++messages_dropped_;
        return;
    }
    auto entry = backlogs_.find(peer);
    if (entry == backlogs_.end()) {
        const Io sent = try_send_(peer, message);
        if (sent == Io::kOk) return;
        if (sent == Io::kUnreachable) {
            ++messages_dropped_;
            gone_.insert(peer);
            return;
        }
        entry = backlogs_.emplace(peer, Backlog{}).first;
        entry->second.progress_at = now;
        entry->second.pause_us = kPauseMinUs;
        entry->second.retry_at = now + kPauseMinUs;
        retry_at_ = std::min(retry_at_, entry->second.retry_at);
    }
    Backlog& backlog = entry->second;
    backlog.bytes += cost(message);
    bytes_ += cost(message);
    // A copy takes just its size, where what was to be sent may have grown to twice that.
    const std::span<const uint8_t> bytes = message.bytes();
    backlog.messages.emplace_back(std::vector<uint8_t>(bytes.begin(), bytes.end()));
    if (backlog.bytes > limits_.peer_bytes) drop(entry);
    while (bytes_ > limits_.bytes) drop(most_stalled());
}

void Egress::on_timer(TimeUs now) {
    if (now < retry_at_) return;
    retry_at_ = kNever;
    for (auto entry = backlogs_.begin(); entry != backlogs_.end();) {
        if (now >= entry->second.retry_at) {
            entry = flush(entry, now);
        } else {
            retry_at_ = std::min(retry_at_, entry->second.retry_at);
            ++entry;
        }
    }
}

std::set<std::string> Egress::take_gone() {
    return std::exchange(gone_, {});
}

Egress::Backlogs::iterator Egress::flush(Backlogs::iterator entry, TimeUs now) {
    Backlog& backlog = entry->second;
    Io sent = Io::kOk;
    bool progress = false;
    for (int i = 0; i < kFlushMax && !backlog.messages.empty(); ++i) {
        const size_t freed = cost(backlog.messages.front());
        sent = try_send_(entry->first, backlog.messages.front());
        if (sent != Io::kOk) break;
        progress = true;
        backlog.messages.pop_front();
        backlog.bytes -= freed;
        bytes_ -= freed;
    }
    if (backlog.messages.empty()) return backlogs_.erase(entry);
    if (progress) backlog.progress_at = now;
    if (sent == Io::kUnreachable || now - backlog.progress_at >= limits_.stall_us)
        return drop(entry);
    backlog.pause_us = progress ? kPauseMinUs : std::min(2 * backlog.pause_us, kPauseMaxUs);
    backlog.retry_at = now + backlog.pause_us;
    retry_at_ = std::min(retry_at_, backlog.retry_at);
    return std::next(entry);
}

Egress::Backlogs::iterator Egress::drop(Backlogs::iterator entry) {
    ++peers_dropped_;
    messages_dropped_ += entry->second.messages.size();
    bytes_ -= entry->second.bytes;
    gone_.insert(entry->first);
    return backlogs_.erase(entry);
}

Egress::Backlogs::iterator Egress::most_stalled() {
    return std::min_element(backlogs_.begin(), backlogs_.end(), [](const auto& a, const auto& b) {
        return a.second.progress_at < b.second.progress_at;
    });
}

}  // namespace chatloop
