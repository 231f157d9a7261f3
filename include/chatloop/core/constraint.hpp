// What an answer must look like, in the words of the request.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace chatloop {

enum class ConstraintKind : uint8_t {
    kJsonSchema = 1,
    kJsonObject = 2,  // any JSON object
    kRegex = 3,
    kGrammar = 4,     // Lark, as llguidance reads it
    kChoice = 5,      // one of several texts
};

struct Constraint {
    ConstraintKind kind = ConstraintKind::kJsonObject;
    std::vector<std::string> texts;  // the choices, or one text; none for a JSON object
    bool operator==(const Constraint&) const = default;

    size_t bytes() const {
        size_t sum = 0;
        for (const std::string& text : texts) sum += text.size();
        return sum;
    }
};

}  // namespace chatloop
