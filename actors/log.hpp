// The log of a process: one line a record on stderr, as JSON or as text for people
// (docs/observability.md, "Logs"). Never blocks: what the descriptor does not take is dropped and
// counted, and the next line that it takes is preceded by one that says so.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "chatloop/core/log_span.hpp"

namespace chatloop::actors {

enum class LogFormat : uint8_t { kAuto, kJson, kText };  // kAuto: text on a terminal
LogFormat log_format(const std::string& name);           // of observability.log_format

// Lines on a descriptor.
class LogWriter {
public:
    // Writes to `fd` without ever blocking, and without changing how others who share it write.
    explicit LogWriter(int fd);
    ~LogWriter();
    LogWriter(const LogWriter&) = delete;
    LogWriter& operator=(const LogWriter&) = delete;

    bool is_terminal() const { return is_terminal_; }
    // `line` ends in a newline. False when it was dropped, whole or in part.
    bool write(std::string_view line);
    uint64_t dropped() const { return dropped_; }

private:
    bool put(std::string_view bytes);

    int fd_;
    bool owned_ = false;      // reopened for us
    bool is_socket_ = false;
    bool is_terminal_ = false;
    bool torn_ = false;       // the last line ends in its middle
    uint64_t dropped_ = 0;
};

// A record as a line of at most kLogLineBytesMax bytes; the message is cut where it is longer.
// Control characters, quotes and what is not UTF-8 are escaped or replaced.
struct LogRecord {
    int64_t unix_ms = 0;
    std::string_view level;
    std::string target;
    std::string message;
    LogSpan span;
};
std::string json_line(const LogRecord& record);
std::string text_line(const LogRecord& record);

void start_log(const std::string& actor, const std::string& level,
               LogFormat format = LogFormat::kAuto);
void set_log_level(const std::string& level);  // debug, info, warn, error
bool log_enabled(char level);

// `level`: d, i, w or e. The target is the actor's name, and behind :: what it is about: requests
// when the line has one, else `about`.
void log_line(char level, const std::string& message, const LogSpan& span = {},
              const char* about = "process");
uint64_t log_lines_dropped();

}  // namespace chatloop::actors
