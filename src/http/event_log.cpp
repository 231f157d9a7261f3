#include "chatloop/http/event_log.hpp"

#include <charconv>

#include "chatloop/core/assert.hpp"
#include "chatloop/core/limits.hpp"

namespace chatloop::http {

namespace {

// All of `text` is digits of a T, as to_id writes it.
template <class T>
bool read_number(std::string_view text, T& value) {
    if (text.empty() || text.front() < '0' || text.front() > '9') return false;
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    return error == std::errc() && stop == end;
}

std::optional<Place> read_place(std::string_view text) {
    Place place;
    if (text == "-") return place;
    const size_t dot = text.find('.');
    if (!read_number(text.substr(0, dot), place.tokens)) return std::nullopt;
    if (dot != text.npos && !read_number(text.substr(dot + 1), place.event)) return std::nullopt;
    return place;
}

}  // namespace

std::string to_id(const std::vector<Place>& places) {
    std::string id;
    for (const Place& place : places) {
        if (!id.empty()) id += ',';
        id += place.tokens == Place::kNotBegun ? "-" : std::to_string(place.tokens);
        if (place.event > 0) id += '.' + std::to_string(place.event);
    }
    return id;
}

std::optional<std::vector<Place>> read_id(std::string_view id, size_t choices) {
    std::vector<Place> places;
    for (size_t at = 0; at <= id.size();) {
        const size_t end = std::min(id.find(',', at), id.size());
        const std::optional<Place> place = read_place(id.substr(at, end - at));
        if (!place || places.size() == choices) return std::nullopt;
        places.push_back(*place);
        at = end + 1;
    }
    if (places.size() != choices) return std::nullopt;
    return places;
}

EventLog::EventLog(size_t choices, size_t& all_bytes)
    : tokens_(choices), places_(choices), dropped_(choices), all_bytes_(all_bytes) {
    CL_ASSERT(choices > 0 && choices <= kChoicesMax);
}

EventLog::~EventLog() { all_bytes_ -= bytes_; }

std::string EventLog::add(uint32_t choice, const std::string& event) {
    Place& place = places_.at(choice);
    const int64_t tokens = tokens_.at(choice);
    place = place.tokens == tokens ? Place{tokens, place.event + 1} : Place{tokens, 0};
    std::string bytes = "id: " + to_id(places_) + "\n" + event;
    kept_.push_back({choice, place, bytes});
    bytes_ += size_of(kept_.back());
    all_bytes_ += size_of(kept_.back());
    while (!kept_.empty() && (bytes_ > kHttpKeptBytesMax || all_bytes_ > kHttpKeptAllBytesMax))
        drop_oldest();
    return bytes;
}

void EventLog::drop_oldest() {
    const Kept& oldest = kept_.front();
    dropped_.at(oldest.choice) = oldest.place;
    bytes_ -= size_of(oldest);
    all_bytes_ -= size_of(oldest);
    kept_.pop_front();
}

EventLog::Reach EventLog::reach(const std::vector<Place>& seen) const {
    CL_ASSERT(seen.size() == places_.size());
    Reach reach = Reach::kKept;
    for (size_t choice = 0; choice < seen.size(); ++choice) {
        if (seen[choice] < dropped_[choice]) return Reach::kDropped;
        if (seen[choice] > places_[choice]) reach = Reach::kAhead;
    }
    return reach;
}

std::string EventLog::behind(const std::vector<Place>& seen) const {
    std::string bytes;
    for (const Kept& kept : kept_)
        if (kept.place > seen.at(kept.choice)) bytes += kept.bytes;
    return bytes;
}

}  // namespace chatloop::http
