// The settings of a process (docs/configuration.md): a table of keys, and what a YAML file, the
// environment and the command line say of them. The command line goes before the environment, the
// environment before the file, the file before the default.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "chatloop/core/clock.hpp"
#include "chatloop/core/result.hpp"

namespace chatloop {

enum RoleBit : uint8_t {
    kRouterRole = 1,
    kStageRole = 2,
    kSamplerRole = 4,
    kWorkerRoles = kStageRole | kSamplerRole,
    kAllRoles = kRouterRole | kWorkerRoles,
};

enum class SettingKind : uint8_t { kText, kTexts, kChoice, kInteger, kNumber, kSwitch };

// One key. `path` is its place in the file, e.g. "performance.kv_cache_mb".
struct Setting {
    const char* path;
    const char* flag;      // on the command line; empty: none
    uint8_t roles;         // which actors have it
    SettingKind kind;
    double min;            // of an integer or a number
    double max;
    const char* choices;   // of kChoice, "a|b"
    const char* fallback;  // the default as text; empty: none
    const char* help;
};

std::span<const Setting> all_settings();
const Setting& setting_of(std::string_view path);  // asserts that there is one

// E.g. CHATLOOP_PERFORMANCE_KV_CACHE_MB; the sections `worker` and `router` are left out.
std::string environment_name(const Setting& setting);

// What one source says of one key.
struct RawSetting {
    const Setting* setting = nullptr;
    std::vector<std::string> texts;  // one, except for kTexts
    std::string origin;              // "stage.yaml:12", "CHATLOOP_MODEL_PATH", "--model"
};

// Reads a YAML document. `source` names it in errors, which give file, line, key and, for an
// unknown key, the nearest known one. kBadFile.
Result<std::vector<RawSetting>> parse_config(std::string_view yaml, const std::string& source,
                                             RoleBit role);
Result<std::vector<RawSetting>> read_config(const std::string& path, RoleBit role);

// The values of all keys of a role, each within its bounds.
class Settings {
public:
    using Environment = std::function<const char*(const char* name)>;

    // kInvalidRequest: a value that is none of its kind or out of range, with its origin.
    static Result<Settings> resolve(RoleBit role, const std::vector<RawSetting>& file,
                                    const Environment& environment,
                                    const std::vector<RawSetting>& flags);

    // Whether a source or a default gives it.
    bool has(std::string_view path) const { return values_.contains(path); }
    // Whether a source gives it.
    bool given(std::string_view path) const;
    // Where its value comes from, and the key: "stage.yaml:12: model.path". For errors.
    std::string origin(std::string_view path) const;

    const std::string& text(std::string_view path) const;
    const std::vector<std::string>& texts(std::string_view path) const;
    int64_t integer(std::string_view path) const;
    double number(std::string_view path) const;
    TimeUs seconds(std::string_view path) const;  // a number of seconds, as time
    bool flag(std::string_view path) const;

    // The value, or an error that tells the three ways to give one.
    Result<std::string> required(std::string_view path) const;

private:
    struct Value {
        std::vector<std::string> texts;
        std::string origin;  // empty: the default
    };
    const Value& value(std::string_view path) const;

    std::map<std::string, Value, std::less<>> values_;
};

}  // namespace chatloop
