// Who keeps sending bytes that are no message is not read for a while, so that decoding them and
// answering costs nobody else anything. Peers are told apart by the routing id that libzmq gives:
// a peer that connects again begins anew.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "chatloop/core/clock.hpp"

namespace chatloop {

class Quarantine {
public:
    // Is `peer` shut out? To be asked before a message is decoded.
    bool holds(const std::string& peer, TimeUs now) const;
    // A malformed message of `peer`, which is not shut out. True when it is from now on: this was
    // the last of kMalformedMax within kMalformedWindowUs.
    bool note(const std::string& peer, TimeUs now);

    size_t size() const { return peers_.size(); }  // peers that are remembered

private:
    struct Offender {
        TimeUs window_from = 0;
        uint32_t malformed = 0;  // in this window
        TimeUs until = 0;        // shut out; 0: not
    };

    static bool forgotten(const Offender& offender, TimeUs now);
    void make_room(TimeUs now);

    std::unordered_map<std::string, Offender> peers_;  // at most kOffendersMax
};

}  // namespace chatloop
