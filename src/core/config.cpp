// Values: which source wins, and whether it is within bounds.
#include "chatloop/core/config.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "chatloop/core/limits.hpp"
#include "chatloop/core/printable.hpp"

namespace chatloop {

namespace {

std::vector<std::string> split(std::string_view text, char separator) {
    std::vector<std::string> parts;
    for (size_t at = 0; at <= text.size();) {
        const size_t end = std::min(text.find(separator, at), text.size());
        parts.emplace_back(text.substr(at, end - at));
        at = end + 1;
    }
    return parts;
}

template <class T>
bool parse_number(const std::string& text, T& value) {
    const char* end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data(), end, value);
    return error == std::errc() && rest == end;
}

// A bound as a person writes it.
std::string plain(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.15g", value);
    return text;
}

bool is_plain(const std::string& text) {
    return !text.empty() && text.size() <= kPathBytesMax &&
           std::all_of(text.begin(), text.end(),
                       [](char c) { return static_cast<unsigned char>(c) >= 0x20; });
}

// What `text` should have been; empty when it is that.
std::string expected(const Setting& setting, const std::string& text) {
    const std::string range = " from " + plain(setting.min) + " to " + plain(setting.max);
    switch (setting.kind) {
        case SettingKind::kText:
        case SettingKind::kTexts: return is_plain(text) ? "" : "a text of one line, not empty";
        case SettingKind::kChoice: {
            const std::vector<std::string> choices = split(setting.choices, '|');
            if (std::find(choices.begin(), choices.end(), text) != choices.end()) return "";
            return std::string("one of ") + setting.choices;
        }
        case SettingKind::kInteger: {
            int64_t value = 0;
            const bool good = parse_number(text, value) &&
                              static_cast<double>(value) >= setting.min &&
                              static_cast<double>(value) <= setting.max;
            return good ? "" : "an integer" + range;
        }
        case SettingKind::kNumber: {
            double value = 0;
            const bool good = parse_number(text, value) && std::isfinite(value) &&
                              value >= setting.min && value <= setting.max;
            return good ? "" : "a number" + range;
        }
        case SettingKind::kSwitch:
            return text == "true" || text == "false" ? "" : "true or false";
    }
    return "";
}

// "stage.yaml:12: model.path", but "--model" and "CHATLOOP_MODEL_PATH" alone: they name the key.
std::string with_key(const std::string& origin, std::string_view path) {
    const bool is_line = origin.find(':') != std::string::npos;
    return is_line ? origin + ": " + std::string(path) : origin;
}

Status check(const RawSetting& raw) {
    for (const std::string& text : raw.texts) {
        const std::string wanted = expected(*raw.setting, text);
        if (wanted.empty()) continue;
        return Error{ErrorCode::kInvalidRequest, with_key(raw.origin, raw.setting->path) + ": '" +
                                                     printable(text) + "' is not " + wanted};
    }
    for (size_t i = 1; i < raw.texts.size(); ++i) {
        const auto end = raw.texts.begin() + static_cast<std::ptrdiff_t>(i);
        if (std::find(raw.texts.begin(), end, *end) == end) continue;
        return Error{ErrorCode::kInvalidRequest, with_key(raw.origin, raw.setting->path) + ": '" +
                                                     printable(*end) + "' is given twice"};
    }
    if (raw.texts.size() > kRoutersMax)
        return Error{ErrorCode::kInvalidRequest,
                     with_key(raw.origin, raw.setting->path) + ": too many values"};
    return Ok{};
}

}  // namespace

Result<Settings> Settings::resolve(RoleBit role, const std::vector<RawSetting>& file,
                                   const Environment& environment,
                                   const std::vector<RawSetting>& flags) {
    std::vector<RawSetting> all;  // the later wins
    for (const Setting& setting : all_settings()) {
        if ((setting.roles & role) != 0 && setting.fallback[0] != '\0')
            all.push_back({&setting, {setting.fallback}, ""});
    }
    all.insert(all.end(), file.begin(), file.end());
    for (const Setting& setting : all_settings()) {
        if ((setting.roles & role) == 0) continue;
        const std::string name = environment_name(setting);
        const char* text = environment(name.c_str());
        if (text == nullptr) continue;
        const bool many = setting.kind == SettingKind::kTexts;
        all.push_back({&setting, many ? split(text, ',') : std::vector<std::string>{text}, name});
    }
    all.insert(all.end(), flags.begin(), flags.end());

    Settings settings;
    for (RawSetting& raw : all) {
        CL_ASSERT(raw.setting != nullptr && (raw.setting->roles & role) != 0);
        if (const Status good = check(raw); !good) return good.error();
        settings.values_[raw.setting->path] = {std::move(raw.texts), std::move(raw.origin)};
    }
    return settings;
}

const Settings::Value& Settings::value(std::string_view path) const {
    const auto found = values_.find(path);
    CL_ASSERT(found != values_.end());
    return found->second;
}

bool Settings::given(std::string_view path) const {
    return has(path) && !value(path).origin.empty();
}

std::string Settings::origin(std::string_view path) const {
    return given(path) ? with_key(value(path).origin, path) : std::string(path);
}

const std::string& Settings::text(std::string_view path) const { return value(path).texts[0]; }

const std::vector<std::string>& Settings::texts(std::string_view path) const {
    return value(path).texts;
}

int64_t Settings::integer(std::string_view path) const {
    int64_t number = 0;
    CL_ASSERT(parse_number(text(path), number));
    return number;
}

double Settings::number(std::string_view path) const {
    double number = 0;
    CL_ASSERT(parse_number(text(path), number));
    return number;
}

TimeUs Settings::seconds(std::string_view path) const {
    return static_cast<TimeUs>(std::llround(number(path) * static_cast<double>(kSecondUs)));
}

bool Settings::flag(std::string_view path) const { return text(path) == "true"; }

Result<std::string> Settings::required(std::string_view path) const {
    if (has(path)) return text(path);
    const Setting& setting = setting_of(path);
    const std::string flag = setting.flag[0] == '\0' ? "" : std::string(" or with ") + setting.flag;
    return Error{ErrorCode::kInvalidRequest,
                 std::string(path) + " is not set: give it in the configuration file, as " +
                     environment_name(setting) + flag};
}

}  // namespace chatloop
