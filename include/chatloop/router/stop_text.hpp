// Stop strings over a stream of text: passes on what can no longer become part of a stop string and
// holds back the rest. Everything is whole UTF-8: a stop string starts at a character.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace chatloop {

class StopText {
public:
    StopText() = default;
    explicit StopText(std::vector<std::string> stops) : stops_(std::move(stops)) {}

    struct Step {
        std::string text;                  // may be passed on now
        std::optional<std::string> match;  // the stop string that ended the answer
    };
    // The earliest match wins, then the longest. After a match nothing more may be pushed.
    Step push(std::string_view text);
    // The answer ended for another reason: what was held back.
    std::string finish();

private:
    std::vector<std::string> stops_;
    std::string held_;
};

}  // namespace chatloop
