// Reading untrusted JSON: a strict parse, and an object reader whose first error stands. No
// nlohmann exception can escape from here.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>

#include "chatloop/core/result.hpp"

namespace chatloop {

// `text` for an error line: in quotes, control characters and all beyond 80 bytes cut away.
std::string in_quotes(std::string_view text);

// RFC 8259, at most `depth_max` nested containers, no duplicate keys. kBadFile, naming `source`.
Result<nlohmann::json> parse_json(std::string_view text, const std::string& source, int depth_max);

// Takes typed, range-checked fields out of one JSON object. After a failure every call returns an
// empty value and the first error is kept.
class FieldReader {
public:
    // `where` names the object in errors: "partition_metadata.json", "x.json: partitions[1]".
    FieldReader(const nlohmann::json& object, std::string where);

    bool has(const char* name) const;
    std::string text(const char* name, size_t bytes_max = 256);
    std::string hex(const char* name, size_t digits);
    std::string file_name(const char* name);  // no directory part
    bool flag(const char* name);
    int64_t integer(const char* name, int64_t min, int64_t max);
    // A finite number, rounded once to f32 before it is compared.
    float real(const char* name, float min, float max);
    // nullptr after an error.
    const nlohmann::json* array(const char* name, size_t count_min, size_t count_max);
    const nlohmann::json* object(const char* name);

    void fail(const char* name, const std::string& what);
    Status status() const;  // the first error
    Status finish();        // that, or a field that nobody asked for

private:
    const nlohmann::json* take(const char* name);

    const nlohmann::json& object_;
    std::string where_;
    std::set<std::string, std::less<>> taken_;
    std::string error_;  // empty: none yet
};

}  // namespace chatloop
