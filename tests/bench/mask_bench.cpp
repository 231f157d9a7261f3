// What a constraint costs the router: compiling it, and per token the commit and the mask.
//   mask_bench MODEL/tokenizer [--walks 50]
// Each constraint is walked at random, token by token among the allowed ones, which is harder than
// what a model writes; half of the walks follow the likelier road of short tokens.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "chatloop/text/text.hpp"

namespace {

using namespace chatloop;
using Clock = std::chrono::steady_clock;

constexpr int kTokensMax = 200;

struct Case {
    const char* name;
    Constraint constraint;
};

std::vector<Case> cases() {
    const auto one = [](ConstraintKind kind, std::string text) {
        return Constraint{kind, {std::move(text)}};
    };
    std::string properties, names;
    for (int i = 0; i < 200; ++i) {
        const std::string name = "\"field_" + std::to_string(i) + "\"";
        properties += (i > 0 ? ", " : "") + name +
                      R"(: {"type": "object", "properties": {"a": {"type": "string"},
                          "b": {"type": "array", "items": {"type": "integer"}}}})";
        names += (i > 0 ? ", " : "") + name;
    }
    std::vector<std::string> choices;
    for (int i = 0; i < 1000; ++i) choices.push_back("choice number " + std::to_string(i * 7919));
    return {
        {"json_object", {ConstraintKind::kJsonObject, {}}},
        {"schema, small", one(ConstraintKind::kJsonSchema,
                              R"({"type": "object", "properties": {"name": {"type": "string",
                                 "maxLength": 30}, "age": {"type": "integer", "minimum": 0,
                                 "maximum": 150}, "tags": {"type": "array", "items":
                                 {"enum": ["red", "green", "blue"]}}},
                                 "required": ["name", "age", "tags"]})")},
        {"schema, 200 objects", one(ConstraintKind::kJsonSchema,
                                    "{\"type\": \"object\", \"properties\": {" + properties +
                                        "}, \"required\": [" + names + "]}")},
        {"regex, date", one(ConstraintKind::kRegex, "[0-9]{4}-[0-9]{2}-[0-9]{2}( [a-z]+){1,20}")},
        {"regex, any text", one(ConstraintKind::kRegex, "(.|\n){1,2000}")},
        {"choice of 1000", {ConstraintKind::kChoice, choices}},
        {"grammar, sums", one(ConstraintKind::kGrammar,
                              "start: term (/[-+*]/ term)*\nterm: /[0-9]+/ | \"(\" start \")\"\n")},
    };
}

double us_since(Clock::time_point start) {
    return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

double resident_mib() {
    std::ifstream file("/proc/self/statm");
    size_t all = 0, resident = 0;
    file >> all >> resident;
    return double(resident) * double(sysconf(_SC_PAGESIZE)) / (1 << 20);
}

struct Times {
    std::vector<double> us;
    double at(double share) {
        if (us.empty()) return 0;
        std::sort(us.begin(), us.end());
        return us[std::min(us.size() - 1, static_cast<size_t>(share * double(us.size())))];
    }
};

void run(const TextEngine& engine, const Case& one, int walks) {
    Times compile, fork, commit, mask;
    std::vector<std::unique_ptr<Matcher>> held;  // after their walks, for what they keep
    const double before_mib = resident_mib();
    std::mt19937 random(1);
    size_t tokens = 0;
    for (int walk = 0; walk < walks; ++walk) {
        Clock::time_point start = Clock::now();
        Result<std::unique_ptr<Matcher>> compiled = engine.match(one.constraint);
        compile.us.push_back(us_since(start));
        if (!compiled) {
            std::printf("%-20s refused: %s\n", one.name, compiled.error().message.c_str());
            return;
        }
        start = Clock::now();
        held.push_back((*compiled)->fork());
        const std::unique_ptr<Matcher>& matcher = held.back();
        fork.us.push_back(us_since(start));
        for (int i = 0; i < kTokensMax; ++i) {
            start = Clock::now();
            const Result<AllowedTokens> next = matcher->allowed();
            mask.us.push_back(us_since(start));
            if (!next) {
                std::printf("%-20s stops: %s\n", one.name, next.error().message.c_str());
                break;
            }
            std::vector<uint32_t> ids;
            for (uint32_t id = 0; id < 8 * next->bits.size(); ++id)
                if (static_cast<uint8_t>(next->bits[id / 8]) >> id % 8 & 1) ids.push_back(id);
            if (ids.empty()) break;
            const size_t among = walk % 2 == 0 ? ids.size() : std::min<size_t>(ids.size(), 300);
            start = Clock::now();
            if (!matcher->commit(ids[random() % among])) break;
            commit.us.push_back(us_since(start));
            ++tokens;
        }
    }
    std::printf("%-20s %8.1f %8.1f %8.1f | %7.0f %7.0f %7.0f %7.0f | %7.0f %7.0f  %6zu  %.2f\n",
                one.name, compile.at(0.5) / 1000, compile.at(1) / 1000, fork.at(0.5) / 1000,
                mask.at(0.5), mask.at(0.9), mask.at(0.99), mask.at(1), commit.at(0.5),
                commit.at(0.99), tokens, (resident_mib() - before_mib) / walks);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2 && !(argc == 4 && std::strcmp(argv[2], "--walks") == 0)) {
        std::fprintf(stderr, "usage: mask_bench MODEL/tokenizer [--walks 50]\n");
        return 64;
    }
    const int walks = argc == 4 ? std::atoi(argv[3]) : 50;
    Clock::time_point start = Clock::now();
    const Result<std::unique_ptr<TextEngine>> engine = load_text_engine(argv[1]);
    if (!engine) {
        std::fprintf(stderr, "%s\n", engine.error().message.c_str());
        return 64;
    }
    std::printf("tokenizer %.1f ms", us_since(start) / 1000);
    start = Clock::now();
    const auto first = (*engine)->match({ConstraintKind::kRegex, {"a"}});
    std::printf(", the first constraint (the trie) %.1f ms; vocabulary %d\n",
                us_since(start) / 1000, (*engine)->vocab_size());
    if (!first) return 70;
    std::printf("%-20s %8s %8s %8s | %7s %7s %7s %7s | %7s %7s  tokens  MiB kept\n",
                "ms, then us", "compile", "most", "fork", "mask", "p90", "p99", "most", "commit",
                "p99");
    for (const Case& one : cases()) run(**engine, one, walks);
    return 0;
}
