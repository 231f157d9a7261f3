#include "log.hpp"

#include <fcntl.h>
#include <spdlog/details/null_mutex.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>

#include "chatloop/core/limits.hpp"

namespace chatloop::actors {

namespace {

std::string timestamp(int64_t unix_ms) {
    const std::time_t seconds = static_cast<std::time_t>(unix_ms / 1000);
    std::tm utc{};
    gmtime_r(&seconds, &utc);
    char text[40];
    const size_t n = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
    std::snprintf(text + n, sizeof text - n, ".%03dZ", static_cast<int>(unix_ms % 1000));
    return text;
}

// What `make` makes of the record, with a message that is cut until it fits.
template <class Make>
std::string fitted(LogRecord record, Make make) {
    std::string line = make(record);
    while (line.size() > kLogLineBytesMax) {
        const size_t over = line.size() - kLogLineBytesMax;
        const size_t least = record.message.size() / 2;
        const size_t kept = record.message.size() - std::min(record.message.size(), over + 8);
        record.message.resize(std::max(least, kept));
        record.message += "...";
        line = make(record);
        if (record.message.size() <= 8) break;  // what is left is bounded: id, trace, target
    }
    return line;
}

// As it may be shown on a terminal: no control character of ASCII or of C1 (U+0080 to U+009F).
std::string shown(std::string_view text) {
    const std::string valid = nlohmann::json(std::string(text))
                                  .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    std::string out;
    for (size_t i = 1; i + 1 < valid.size(); ++i) {  // without the quotes around it
        const auto byte = static_cast<unsigned char>(valid[i]);
        const auto next = static_cast<unsigned char>(valid[i + 1]);
        if (byte == 0x7f) {
            out += "\\u007f";
        } else if (byte == 0xc2 && next < 0xa0) {
            char escaped[8];
            std::snprintf(escaped, sizeof escaped, "\\u%04x", next);
            out += escaped;
            ++i;
        } else if (byte == '\\' && (next == '"' || next == '\\')) {
            out += valid[++i];
        } else {
            out += valid[i];
        }
    }
    return out;
}

// The parts of a record that spdlog does not carry.
struct Pending {
    const LogSpan* span = nullptr;
    const char* about = "";
};
Pending pending;

class LineSink final : public spdlog::sinks::base_sink<spdlog::details::null_mutex> {
public:
    explicit LineSink(LogFormat format) : writer_(STDERR_FILENO) {
        text_ = format == LogFormat::kText ||
                (format == LogFormat::kAuto && writer_.is_terminal());
    }
    uint64_t dropped() const { return writer_.dropped(); }

protected:
    void sink_it_(const spdlog::details::log_msg& record) override {
        const auto since_epoch = record.time.time_since_epoch();
        LogRecord line;
        line.unix_ms = std::chrono::duration_cast<std::chrono::milliseconds>(since_epoch).count();
        line.target.assign(record.logger_name.data(), record.logger_name.size());
        line.target += "::";
        line.target += pending.about;
        line.level = level_name(record.level);
        line.message.assign(record.payload.data(), record.payload.size());
        line.span = *pending.span;
        if (writer_.dropped() > told_) tell_drops(line.unix_ms, record.logger_name.data());
        writer_.write(format(line));
    }
    void flush_() override {}

private:
    static std::string_view level_name(spdlog::level::level_enum level) {
        switch (level) {
            case spdlog::level::debug: return "debug";
            case spdlog::level::info: return "info";
            case spdlog::level::warn: return "warn";
            default: return "error";
        }
    }
    std::string format(const LogRecord& record) const {
        return text_ ? text_line(record) : json_line(record);
    }
    void tell_drops(int64_t unix_ms, const std::string& actor) {
        const uint64_t dropped = writer_.dropped();
        const std::string text = std::to_string(dropped - told_) + " lines were dropped: the log "
                                 "was not read fast enough, or could not be written";
        if (writer_.write(format({unix_ms, "warn", actor + "::log", text, {}}))) told_ = dropped;
    }

    LogWriter writer_;
    bool text_ = false;
    uint64_t told_ = 0;
};

std::shared_ptr<spdlog::logger> logger;
std::shared_ptr<LineSink> sink;

spdlog::level::level_enum level_of(char level) {
    switch (level) {
        case 'd': return spdlog::level::debug;
        case 'i': return spdlog::level::info;
        case 'w': return spdlog::level::warn;
        default: return spdlog::level::err;
    }
}

}  // namespace

LogFormat log_format(const std::string& name) {
    if (name == "json") return LogFormat::kJson;
    return name == "text" ? LogFormat::kText : LogFormat::kAuto;
}

// A file never blocks and is written at the place that others who share the descriptor move, so it
// is taken as it is. A pipe or a terminal is opened once more: O_NONBLOCK belongs to the opened
// file, which the shell and other processes share.
LogWriter::LogWriter(int fd) : fd_(fd), is_terminal_(isatty(fd) != 0) {
    struct stat status {};
    if (fstat(fd, &status) != 0 || S_ISREG(status.st_mode)) return;
    is_socket_ = S_ISSOCK(status.st_mode);
    if (is_socket_) return;
    const std::string path = "/proc/self/fd/" + std::to_string(fd);
    const int own = open(path.c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (own >= 0) {
        fd_ = own;
        owned_ = true;
        return;
    }
    const int flags = fcntl(fd, F_GETFL);  // another user's pipe cannot be opened
    if (flags >= 0 && !is_terminal_) fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

LogWriter::~LogWriter() {
    if (owned_) close(fd_);
}

// Whether all of it is written; a part may be.
bool LogWriter::put(std::string_view bytes) {
    ssize_t written = 0;
    do {
        written = is_socket_ ? send(fd_, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL)
                             : ::write(fd_, bytes.data(), bytes.size());
    } while (written < 0 && errno == EINTR);
    if (written == static_cast<ssize_t>(bytes.size())) {
        torn_ = false;
        return true;
    }
    torn_ = torn_ || written > 0;
    return false;
}

bool LogWriter::write(std::string_view line) {
    const bool whole = torn_ ? put("\n" + std::string(line)) : put(line);
    if (!whole) ++dropped_;
    return whole;
}

std::string json_line(const LogRecord& given) {
    return fitted(given, [](const LogRecord& record) {
        nlohmann::ordered_json line;
        line["timestamp"] = timestamp(record.unix_ms);
        line["level"] = record.level;
        line["target"] = record.target;
        line["message"] = record.message;
        if (!record.span.request_id.empty()) line["span"]["request_id"] = record.span.request_id;
        if (!record.span.trace_id.empty()) line["span"]["trace_id"] = record.span.trace_id;
        return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    });
}

std::string text_line(const LogRecord& given) {
    return fitted(given, [](const LogRecord& record) {
        std::string line = timestamp(record.unix_ms).substr(11, 12) + " ";
        line += std::string(record.level) + std::string(6 - record.level.size(), ' ');
        line += record.target + ": " + shown(record.message);
        if (!record.span.request_id.empty())
            line += "  request_id=" + shown(record.span.request_id);
        if (!record.span.trace_id.empty()) line += "  trace_id=" + record.span.trace_id;
        return line + "\n";
    });
}

void start_log(const std::string& actor, const std::string& level, LogFormat format) {
    std::string target = actor;
    std::replace(target.begin(), target.end(), '-', '_');
    sink = std::make_shared<LineSink>(format);
    logger = std::make_shared<spdlog::logger>(target, sink);
    set_log_level(level);
}

void set_log_level(const std::string& level) {
    if (logger != nullptr) logger->set_level(spdlog::level::from_str(level));
}

bool log_enabled(char level) { return logger != nullptr && logger->should_log(level_of(level)); }

void log_line(char level, const std::string& message, const LogSpan& span, const char* about) {
    if (!log_enabled(level)) return;
    pending = {&span, span.request_id.empty() ? about : "requests"};
    logger->log(level_of(level), spdlog::string_view_t(message.data(), message.size()));
    pending = {};
}

uint64_t log_lines_dropped() { return sink == nullptr ? 0 : sink->dropped(); }

}  // namespace chatloop::actors
