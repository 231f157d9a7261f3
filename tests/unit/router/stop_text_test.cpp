#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "chatloop/router/stop_text.hpp"

using namespace chatloop;

namespace {

struct Run {
    std::string text;
    std::string stop;  // empty: none

    bool operator==(const Run&) const = default;
};

// Pushes the pieces one after another, and finishes if nothing matched.
Run run(const std::vector<std::string>& stops, const std::vector<std::string>& pieces) {
    StopText stop_text(stops);
    Run result;
    for (const std::string& piece : pieces) {
        const StopText::Step step = stop_text.push(piece);
        result.text += step.text;
        if (!step.match) continue;
        result.stop = *step.match;
        return result;
    }
    result.text += stop_text.finish();
    return result;
}

std::vector<std::string> bytes_of(const std::string& text) {
    std::vector<std::string> pieces;
    for (const char c : text) pieces.emplace_back(1, c);
    return pieces;
}

}  // namespace

TEST_CASE("without stop strings all text passes at once") {
    StopText stop_text;
    CHECK(stop_text.push("some text").text == "some text");
    CHECK(stop_text.finish().empty());
}

TEST_CASE("text before the match passes, the match and what follows do not") {
    CHECK(run({"END"}, {"some textENDmore"}) == Run{"some text", "END"});
    CHECK(run({"END"}, {"END"}) == Run{"", "END"});
    CHECK(run({"END"}, {"no match here"}) == Run{"no match here", ""});
}

TEST_CASE("a match across pieces is found, and nothing of it has passed before") {
    CHECK(run({"\n\nUser:"}, {"hello\n", "\nUs", "er", ": x"}) == Run{"hello", "\n\nUser:"});
    StopText stop_text({"\n\nUser:"});
    CHECK(stop_text.push("hello\n").text == "hello");
    CHECK(stop_text.push("\nUs").text.empty());
    CHECK(stop_text.push("ed").text == "\n\nUsed");  // no match after all
}

TEST_CASE("what was held back passes when the answer ends for another reason") {
    CHECK(run({"abcd"}, {"xxabc"}) == Run{"xxabc", ""});
    CHECK(run({"aab"}, {"a", "a", "a"}) == Run{"aaa", ""});
}

TEST_CASE("a stop string that overlaps itself is found") {
    CHECK(run({"aab"}, bytes_of("aaaab!")) == Run{"aa", "aab"});
    CHECK(run({"abab!"}, bytes_of("ababab!")) == Run{"ab", "abab!"});
}

TEST_CASE("of several stop strings the earliest wins, then the longest") {
    CHECK(run({"world", "lo w"}, {"hello world"}) == Run{"hel", "lo w"});
    CHECK(run({"ab", "abc"}, {"xxabc"}) == Run{"xx", "abc"});
    CHECK(run({"abc", "ab"}, {"xxab"}) == Run{"xx", "ab"});
}

TEST_CASE("the longest open prefix of all stop strings is held back") {
    StopText stop_text({"xyz1", "z2"});
    CHECK(stop_text.push("axyz").text == "a");
    const StopText::Step step = stop_text.push("2");
    CHECK(step.text == "xy");
    CHECK(step.match == "z2");
}

TEST_CASE("text stays whole UTF-8 around stop strings") {
    // U+00E9 U+20AC U+1F600, cut at characters as a TextStream gives them
    const std::string e = "\xc3\xa9", euro = "\xe2\x82\xac", smile = "\xf0\x9f\x98\x80";
    CHECK(run({euro + smile}, {e, euro, smile, e}) == Run{e, euro + smile});
    StopText stop_text({euro + smile});
    CHECK(stop_text.push(e + euro).text == e);
    CHECK(stop_text.push(euro + e).text == euro + euro + e);
    // A stop string whose first bytes are those of another character holds only whole characters.
    StopText shared({"\xe2\x82\xad"});  // U+20AD begins as U+20AC does
    CHECK(shared.push(euro).text == euro);
}

TEST_CASE("no cut into pieces changes what comes out when one stop string is given") {
    const std::string text = "aabaabcaabaabaabcaa";
    for (const std::string& stop :
         {std::string("aabc"), std::string("abaabaabc"), std::string("zz")}) {
        CAPTURE(stop);
        const Run whole = run({stop}, {text});
        for (size_t first = 0; first <= text.size(); ++first) {
            for (size_t second = first; second <= text.size(); ++second) {
                const Run cut =
                    run({stop}, {text.substr(0, first), text.substr(first, second - first),
                                 text.substr(second)});
                CHECK(cut == whole);
            }
        }
    }
}
