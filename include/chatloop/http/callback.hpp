// A small HTTP client: one POST of a JSON body, tried again until a server takes it (2xx). Nothing
// blocks: the host is resolved when it is made, before any loop; then the owner watches fd() and
// calls turn().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "chatloop/core/clock.hpp"
#include "chatloop/core/result.hpp"

namespace chatloop::http {

class Callback {
public:
    // `body` gets this host's address as the server at `url` sees it.
    using Body = std::function<std::string(const std::string& own_address)>;
    using Log = std::function<void(char level, const std::string& text)>;

    // kInvalidRequest: not http://HOST[:PORT][/PATH], or a host that has no address.
    static Result<std::unique_ptr<Callback>> create(const std::string& url, Body body, Log log);
    ~Callback();
    Callback(const Callback&) = delete;
    Callback& operator=(const Callback&) = delete;

    int fd() const;  // readable when there is something to do
    void turn(TimeUs now);
    TimeUs next_timer() const;
    bool done() const;  // it was taken

private:
    struct Impl;
    explicit Callback(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace chatloop::http
