// How often each fault and each branch of the recovery happened.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "chatloop/router/router.hpp"

namespace chatloop::sim {

class Coverage {
public:
    void note(const std::string& what, uint64_t times = 1) {
        if (times > 0) times_[what] += times;
    }
    void note_log(const std::string& line);  // a branch that a router's log tells of
    void add(const Coverage& other) {
        for (const auto& [what, times] : other.times_) times_[what] += times;
    }
    uint64_t times(const std::string& what) const {
        const auto found = times_.find(what);
        return found == times_.end() ? 0 : found->second;
    }
    const std::map<std::string, uint64_t>& all() const { return times_; }
    // What must happen in a thousand seeds and did not.
    std::vector<std::string> missing() const;

private:
    std::map<std::string, uint64_t> times_;
};

// What a process has counted until its end.
void note_router(const Router& router, Coverage& coverage);
void note_worker(const wire::WorkerCounters& counters, Coverage& coverage);

}  // namespace chatloop::sim
