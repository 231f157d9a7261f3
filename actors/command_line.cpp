#include "command_line.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iterator>

#include "chatloop/bus/system.hpp"
#include "chatloop/core/cpu_list.hpp"
#include "chatloop/core/printable.hpp"
#include "common.hpp"

namespace chatloop::actors {

namespace {

std::string help_of(const Setting& setting) {
    std::string help = setting.help;
    if (setting.kind == SettingKind::kChoice) help += std::string(", ") + setting.choices;
    if (setting.fallback[0] != '\0') help += std::string(" (default ") + setting.fallback + ")";
    return help;
}

constexpr double kSilenceWarnedSecs = 10.0;

constexpr char kNoMetrics[] = "off";

const char* from_environment(const char* name) { return std::getenv(name); }

}  // namespace

CommandLine::CommandLine(CLI::App& app, RoleBit role) : app_(app), role_(role) {
    app.add_option("--config", config_, "YAML file with these settings (docs/configuration.md)");
    app.add_flag("--check", check_, "only check settings and model files; 0 when all is well");
    for (const Setting& setting : all_settings()) {
        if ((setting.roles & role) == 0 || setting.flag[0] == '\0') continue;
        Entry& entry = entries_.emplace_back(Entry{&setting, nullptr, {}});
        if (setting.kind == SettingKind::kSwitch) {
            entry.option = app.add_flag(setting.flag);
        } else {
            entry.option = app.add_option(setting.flag, entry.texts);
            entry.option->allow_extra_args(false)->type_name("");
        }
        entry.option->description(help_of(setting));
    }
}

Result<Settings> CommandLine::resolve() const {
    std::vector<RawSetting> file;
    if (!config_.empty()) {
        Result<std::vector<RawSetting>> read = read_config(config_, role_);
        if (!read) return read.error();
        file = std::move(*read);
    }
    std::vector<RawSetting> flags;
    for (const Entry& entry : entries_) {
        if (entry.option->count() == 0) continue;
        const SettingKind kind = entry.setting->kind;
        const std::string flag = entry.setting->flag;
        if (kind != SettingKind::kTexts && entry.option->count() > 1)
            return Error{ErrorCode::kInvalidRequest, flag + ": given twice"};
        const bool is_switch = kind == SettingKind::kSwitch;
        flags.push_back({entry.setting,
                         is_switch ? std::vector<std::string>{"true"} : entry.texts, flag});
    }
    return Settings::resolve(role_, file, from_environment, flags);
}

Status check_directory(const std::string& origin, const std::string& path) {
    std::error_code error;
    if (std::filesystem::is_directory(path, error)) return Ok{};
    const std::string what = error ? error.message() : std::string("is no directory");
    return Error{ErrorCode::kBadFile, origin + ": " + printable(path) + ": " + what +
                                          "; is this a directory written by split_model.py?"};
}

Result<std::string> model_path(const Settings& settings) {
    const Result<std::string> path = settings.required("model.path");
    if (!path) return path;
    const Status there = check_directory(settings.origin("model.path"), *path);
    return there.ok() ? path : there.error();
}

Result<Settings> hosted_router_settings(const Settings& stage, const std::string& model) {
    const std::string& path = stage.text("worker.with_router");
    std::error_code missing;
    if (!std::filesystem::exists(path, missing))
        return Error{ErrorCode::kBadFile, stage.origin("worker.with_router") + ": " +
                                              printable(path) + ": there is no such file"};
    Result<std::vector<RawSetting>> file = read_config(path, kRouterRole);
    if (!file) return file.error();
    const auto inherit = [&](const char* path, const std::string& text) {
        file->insert(file->begin(), {&setting_of(path), {text}, "the stage"});
    };
    inherit("model.path", model);
    inherit("performance.kv_cache_dtype", stage.text("performance.kv_cache_dtype"));
    inherit("metrics.bind", kNoMetrics);
    return Settings::resolve(kRouterRole, *file, from_environment, {});
}

Settings CommandLine::parse_or_exit(const std::string& actor, int argc, char** argv) {
    actors::parse_or_exit(app_, actor, argc, argv);
    return value_or_die(actor, resolve());
}

namespace {

Error placement_error(const std::string& origin, const std::string& what) {
    return {ErrorCode::kInvalidRequest, origin + ": " + what};
}

// The CPUs that `key` lists, each of them one of `allowed`; empty when not given.
Result<std::vector<int>> listed_cpus(const Settings& settings, const char* key,
                                     const std::vector<int>& allowed) {
    if (!settings.has(key)) return std::vector<int>();
    const std::string origin = settings.origin(key);
    Result<std::vector<int>> cpus = parse_cpu_list(settings.text(key));
    if (!cpus) return placement_error(origin, cpus.error().message);
    for (const int cpu : *cpus) {
        if (std::binary_search(allowed.begin(), allowed.end(), cpu)) continue;
        return placement_error(origin, "there is no CPU " + std::to_string(cpu) +
                                           " for this process; it may run on " +
                                           cpu_list_text(allowed));
    }
    return cpus;
}

// Binds the memory to worker.numa_node. Its CPUs of `allowed`; all when it is not given, or has
// memory only.
Result<std::vector<int>> numa_node(const Settings& settings, const std::vector<int>& allowed) {
    if (!settings.has("worker.numa_node")) return allowed;
    const std::string origin = settings.origin("worker.numa_node");
    const auto node = static_cast<int>(settings.integer("worker.numa_node"));
    const Result<std::vector<int>> of_node = numa_cpus(node);
    if (!of_node) return placement_error(origin, of_node.error().message);
    if (const Status bound = bind_memory(node); !bound)
        return placement_error(origin, bound.error().message);
    std::vector<int> cpus;
    std::set_intersection(of_node->begin(), of_node->end(), allowed.begin(), allowed.end(),
                          std::back_inserter(cpus));
    if (of_node->empty()) return allowed;
    if (!cpus.empty()) return cpus;
    return placement_error(origin, "the process may run on " + cpu_list_text(allowed) +
                                       " only, node " + std::to_string(node) + " has " +
                                       cpu_list_text(*of_node));
}

}  // namespace

Result<std::vector<int>> place_process(const Settings& settings) {
    const std::vector<int> allowed = allowed_cpus();
    const Result<std::vector<int>> cores = listed_cpus(settings, "worker.cpu_cores", allowed);
    if (!cores) return cores;
    const Result<std::vector<int>> io = listed_cpus(settings, "worker.io_cpu_cores", allowed);
    if (!io) return io;
    const Result<std::vector<int>> near = numa_node(settings, allowed);
    if (!near) return near;
    const bool pinned = settings.flag("worker.enable_cpu_pinning");
    if (pinned && cores->empty())
        return placement_error(settings.origin("worker.enable_cpu_pinning"),
                               "give worker.cpu_cores, too");
    const std::vector<int>& cpus = pinned ? *cores : *near;
    if (cpus != allowed) {
        if (const Status placed = pin_to_cpus(cpus); !placed) return placed.error();
    }
    std::vector<int> others = *io;
    if (!others.empty() || !pinned) return others;
    for (const std::vector<int>& from : {*near, allowed}) {
        std::set_difference(from.begin(), from.end(), cpus.begin(), cpus.end(),
                            std::back_inserter(others));
        if (!others.empty()) break;
    }
    return others;
}

void reload_log_level(const CommandLine& command_line) {
    const Result<Settings> settings = command_line.resolve();
    if (!settings) return log_line('w', "SIGHUP: nothing changed: " + settings.error().message);
    const std::string level = settings->text("observability.log_level");
    set_log_level(level);
    log_line('w', "SIGHUP: the log's level is " + level);
}

std::string metrics_address(const Settings& settings) {
    const std::string& address = settings.text("metrics.bind");
    return address == kNoMetrics ? "" : address;
}

std::vector<std::string> setting_warnings(const Settings& settings) {
    std::vector<std::string> warnings;
    constexpr char kEndpoint[] = "observability.otel_endpoint";
    if (settings.given(kEndpoint) && !settings.has("observability.exporter"))
        warnings.push_back(settings.origin(kEndpoint) +
                           " has no effect here: traces come from the router");
    if (settings.has("failure_threshold")) {
        const double silence = settings.number("health_check_interval_secs") *
                               static_cast<double>(settings.integer("failure_threshold"));
        if (silence > kSilenceWarnedSecs)
            warnings.push_back("a worker that hangs is noticed after " +
                               std::to_string(static_cast<int>(silence)) +
                               " s only: health_check_interval_secs times failure_threshold");
    }
    return warnings;
}

void print_warnings(const std::string& actor, const std::vector<std::string>& warnings) {
    for (const std::string& warning : warnings)
        std::fprintf(stderr, "%s: %s\n", actor.c_str(), warning.c_str());
}

}  // namespace chatloop::actors
