#include "json_fields.hpp"

#include <cmath>
#include <vector>

namespace chatloop {
namespace {

using nlohmann::json;

// The DOM parser keeps the last of two equal keys and nests without bound; this pass refuses both.
class StrictSax final : public nlohmann::json_sax<json> {
public:
    explicit StrictSax(int depth_max) : depth_max_(depth_max) {}

    const std::string& problem() const { return problem_; }

    bool null() override { return true; }
    bool boolean(bool) override { return true; }
    bool number_integer(number_integer_t) override { return true; }
    bool number_unsigned(number_unsigned_t) override { return true; }
    bool number_float(number_float_t, const string_t&) override { return true; }
    bool string(string_t&) override { return true; }
    bool binary(binary_t&) override { return true; }
    bool start_object(std::size_t) override { return open(); }
    bool end_object() override { return close(); }
    bool start_array(std::size_t) override { return open(); }
    bool end_array() override { return close(); }

    bool key(string_t& name) override {
        if (keys_.back().insert(name).second) return true;
        problem_ = "duplicate key " + in_quotes(name);
        return false;
    }
    bool parse_error(std::size_t position, const std::string&,
                     const nlohmann::detail::exception&) override {
        problem_ = "not valid JSON at byte " + std::to_string(position);
        return false;
    }

private:
    bool open() {
        keys_.emplace_back();
        if (static_cast<int>(keys_.size()) <= depth_max_) return true;
        problem_ = "nested deeper than " + std::to_string(depth_max_);
        return false;
    }
    bool close() {
        keys_.pop_back();
        return true;
    }

    int depth_max_;
    std::vector<std::set<std::string>> keys_;  // of every open container
    std::string problem_;
};

bool all_hex(std::string_view text) {
    return text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

}  // namespace

std::string in_quotes(std::string_view text) {
    constexpr size_t kShownMax = 80;
    std::string out = "\"";
    for (char c : text.substr(0, kShownMax)) {
        const bool plain = c >= 0x20 && c < 0x7f;
        out += plain ? c : '?';
    }
    return out + (text.size() > kShownMax ? "...\"" : "\"");
}

Result<json> parse_json(std::string_view text, const std::string& source, int depth_max) {
    StrictSax strict(depth_max);
    if (!json::sax_parse(text, &strict)) {
        return Error{ErrorCode::kBadFile, source + ": " + strict.problem()};
    }
    json parsed = json::parse(text, nullptr, /*allow_exceptions=*/false);
    CL_ASSERT(!parsed.is_discarded());
    return parsed;
}

FieldReader::FieldReader(const json& object, std::string where)
    : object_(object), where_(std::move(where)) {
    if (!object_.is_object()) error_ = where_ + ": is not an object";
}

bool FieldReader::has(const char* name) const {
    return object_.is_object() && object_.contains(name);
}

const json* FieldReader::take(const char* name) {
    if (!error_.empty()) return nullptr;
    taken_.insert(name);
    const auto found = object_.find(name);
    if (found == object_.end()) {
        fail(name, "is missing");
        return nullptr;
    }
    return &*found;
}

std::string FieldReader::text(const char* name, size_t bytes_max) {
    const json* value = take(name);
    if (value == nullptr) return {};
    if (!value->is_string()) {
        fail(name, "is not a string");
        return {};
    }
    const std::string& text = value->get_ref<const std::string&>();
    if (text.empty() || text.size() > bytes_max) {
        fail(name, "is not between 1 and " + std::to_string(bytes_max) + " bytes long");
        return {};
    }
    return text;
}

std::string FieldReader::hex(const char* name, size_t digits) {
    const std::string digits_text = text(name);
    if (error_.empty() && (digits_text.size() != digits || !all_hex(digits_text))) {
        fail(name, "is not " + std::to_string(digits) + " lower-case hex digits");
    }
    return digits_text;
}

std::string FieldReader::file_name(const char* name) {
    const std::string file = text(name);
    const bool plain = file.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos &&
                       file != "." && file != "..";
    if (error_.empty() && !plain) fail(name, "is not a plain file name: " + in_quotes(file));
    return file;
}

bool FieldReader::flag(const char* name) {
    const json* value = take(name);
    if (value == nullptr) return false;
    if (!value->is_boolean()) {
        fail(name, "is not true or false");
        return false;
    }
    return value->get<bool>();
}

int64_t FieldReader::integer(const char* name, int64_t min, int64_t max) {
    const json* value = take(name);
    if (value == nullptr) return min;
    if (!value->is_number_integer()) {
        fail(name, "is not an integer");
        return min;
    }
    // An unsigned value above INT64_MAX would turn negative.
    const bool fits = !value->is_number_unsigned() || value->get<uint64_t>() <= INT64_MAX;
    const int64_t number = fits ? value->get<int64_t>() : INT64_MAX;
    if (!fits || number < min || number > max) {
        fail(name, "is " + value->dump() + ", not in " + std::to_string(min) + ".." +
                       std::to_string(max));
        return min;
    }
    return number;
}

float FieldReader::real(const char* name, float min, float max) {
    const json* value = take(name);
    if (value == nullptr) return min;
    if (!value->is_number()) {
        fail(name, "is not a number");
        return min;
    }
    const float number = static_cast<float>(value->get<double>());
    if (!std::isfinite(number) || number < min || number > max) {
        const std::string range = json(min).dump() + ".." + json(max).dump();
        fail(name, "is " + value->dump() + ", not in " + range);
        return min;
    }
    return number;
}

const json* FieldReader::array(const char* name, size_t count_min, size_t count_max) {
    const json* value = take(name);
    if (value == nullptr) return nullptr;
    if (!value->is_array() || value->size() < count_min || value->size() > count_max) {
        fail(name, "is not an array of " + std::to_string(count_min) + " to " +
                       std::to_string(count_max) + " elements");
        return nullptr;
    }
    return value;
}

const json* FieldReader::object(const char* name) {
    const json* value = take(name);
    if (value == nullptr) return nullptr;
    if (!value->is_object()) {
        fail(name, "is not an object");
        return nullptr;
    }
    return value;
}

void FieldReader::fail(const char* name, const std::string& what) {
    if (error_.empty()) error_ = where_ + ": " + in_quotes(name) + " " + what;
}

Status FieldReader::status() const {
    if (!error_.empty()) return Error{ErrorCode::kBadFile, error_};
    return Ok{};
}

Status FieldReader::finish() {
    if (!error_.empty()) return status();
    for (const auto& item : object_.items()) {
        if (taken_.count(item.key()) != 0) continue;
        error_ = where_ + ": unknown field " + in_quotes(item.key()) +
                 "; split the model with the splitter of this version";
        break;
    }
    return status();
}

}  // namespace chatloop
