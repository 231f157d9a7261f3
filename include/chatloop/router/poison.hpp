// Poison: a request that kills the workers which compute it must not be replayed for ever. What a
// worker was computing when it died is the frame behind the last one that its next hop accepted;
// the items of that frame are suspects (docs/reliability.md).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "chatloop/core/clock.hpp"
#include "chatloop/router/cluster.hpp"

namespace chatloop {

// Rows of one sequence in a frame.
struct ItemRows {
    SequenceId sequence = 0;
    uint32_t row_first = 0;
    uint32_t row_end = 0;
    uint64_t group = 0;  // of its suspicion when the frame was composed; 0 none
};

struct FrameRows {
    FrameNumber number = 0;
    std::vector<ItemRows> items;
};

// A route that went down with frames on their way. Survivors say how far they had come as they
// fence it; who died becomes known sooner or later.
class Accident {
public:
    Accident(const Route& route, std::vector<FrameRows> frames, TimeUs now);

    Generation generation() const { return generation_; }
    void note_report(Incarnation worker, const wire::RouteReport& report);
    void note_death(Incarnation worker);
    // Whether nothing more can come of it.
    bool is_over(TimeUs now) const;
    // The items that the dead worker was at, none if it was idle; nullopt while that is not known.
    std::optional<std::vector<ItemRows>> verdict(TimeUs now) const;

private:
    struct Hop {
        Incarnation worker = 0;
        FrameNumber accepted = 0;
        FrameNumber forwarded = 0;
        bool is_final = false;  // said when it was fenced
        bool is_dead = false;
    };
    bool knows(const Hop& hop, TimeUs now) const;

    Generation generation_;
    TimeUs at_;
    FrameNumber sent_;
    FrameNumber answered_;
    std::vector<Hop> hops_;
    std::vector<FrameRows> frames_;
};

}  // namespace chatloop
