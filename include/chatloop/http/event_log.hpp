// The events of a resumable stream, kept for a client that lost its connection (docs/http.md,
// "Resumable streams"). Pure.
//
// Each event belongs to a choice and has a place in it: how many tokens have come, and how many
// events have come since the last of them. The id of an event is the place that each choice has
// reached with it: "12", "12.1" (a further event of that token), "12,7.1,-" (of three choices; the
// third has not begun).
#pragma once

#include <compare>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace chatloop::http {

struct Place {
    static constexpr int64_t kNotBegun = -1;
    int64_t tokens = kNotBegun;
    uint32_t event = 0;
    auto operator<=>(const Place&) const = default;
};

std::string to_id(const std::vector<Place>& places);
// Nothing: no id of a stream of so many choices.
std::optional<std::vector<Place>> read_id(std::string_view id, size_t choices);

class EventLog {
public:
    // `all_bytes` is what all logs hold together; it outlives them.
    EventLog(size_t choices, size_t& all_bytes);
    ~EventLog();
    EventLog(const EventLog&) = delete;
    EventLog& operator=(const EventLog&) = delete;

    // `choice` has more tokens: its next event stands behind them.
    void add_tokens(uint32_t choice, uint64_t count) { tokens_.at(choice) += count; }
    // "data: ..." with its id before it, as it is sent. Beyond the bounds the oldest are dropped.
    std::string add(uint32_t choice, const std::string& event);

    // Whether a client that has seen so much can be given the rest; kDropped if not, also where it
    // is ahead in another choice.
    enum class Reach : uint8_t { kKept, kDropped, kAhead };
    Reach reach(const std::vector<Place>& seen) const;
    // All events behind `seen`, which is kKept.
    std::string behind(const std::vector<Place>& seen) const;
    std::vector<Place> beginning() const { return std::vector<Place>(places_.size()); }

private:
    struct Kept {
        uint32_t choice = 0;
        Place place;
        std::string bytes;
    };
    static size_t size_of(const Kept& kept) { return sizeof kept + kept.bytes.size(); }
    void drop_oldest();

    std::vector<int64_t> tokens_;   // by choice
    std::vector<Place> places_;     // of the latest event of each
    std::vector<Place> dropped_;    // of the latest one that is kept no more
    std::deque<Kept> kept_;
    size_t bytes_ = 0;
    size_t& all_bytes_;
};

}  // namespace chatloop::http
