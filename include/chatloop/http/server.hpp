// The HTTP server of a process: libmicrohttpd in the process's one loop, no thread. It brings whole
// requests to its owner and carries whole or streamed responses back; what they mean is not its
// business.
//
// The owner watches fds(), calls turn() when one is readable, when has_work() says so and when
// next_timer() is due. A request that is not answered at once waits suspended; its client's end is
// seen all the same, by an epoll set beside libmicrohttpd's, and told once by on_gone. A client
// that half-closes its connection while its request waits or streams counts as gone.
//
// Bounds (limits.hpp): connections, in all and of one address; headers; bodies, of one request and
// of all together; the time a connection may be idle or take to send a request; what waits for a
// client that reads slowly, in bytes and in time.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "chatloop/core/clock.hpp"
#include "chatloop/core/result.hpp"
#include "chatloop/http/message.hpp"
#include "chatloop/http/responder.hpp"

namespace chatloop::http {

struct ServerEvents {
    // The headers are here, the body is not: a response refuses the request.
    std::function<std::optional<Response>(const Request&)> on_head;
    // Answered now or later, by respond or start_stream.
    std::function<void(ExchangeId, Request, TimeUs now)> on_request;
    // The client is gone before respond or end; the exchange is over.
    std::function<void(ExchangeId, TimeUs now)> on_gone;
    std::vector<std::pair<std::string, std::string>> headers;  // of every response
};

struct ServerCounters {
    uint64_t connections = 0;  // open now
    uint64_t connections_total = 0;
    uint64_t requests = 0;     // whole ones, refused ones too
    uint64_t refused = 0;      // by their headers, their size or their timing
    uint64_t clients_gone = 0; // while their request waited or streamed
    uint64_t slow_clients = 0; // of those: did not read for too long, or too much waited
};

class Server final : public Responder {
public:
    // Binds "ADDRESS:PORT", "[IPV6]:PORT"; port * or 0 is any free one. kInvalidRequest,
    // kPortInUse. `now` as of monotonic_now.
    static Result<std::unique_ptr<Server>> listen(const std::string& address, ServerEvents events,
                                                  TimeUs now);
    ~Server() override;
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    const std::string& address() const;  // as bound, with the port: "127.0.0.1:8080"
    std::array<int, 2> fds() const;

    void turn(TimeUs now);
    bool has_work() const;  // something waits for turn() that no descriptor tells
    TimeUs next_timer() const;

    void respond(ExchangeId id, Response response) override;
    void start_stream(ExchangeId id, Response head) override;
    void write(ExchangeId id, std::string_view bytes) override;
    void end(ExchangeId id) override;
    void abort(ExchangeId id) override;

    size_t waiting_bytes() const;  // of streams, for clients that have not read yet
    bool idle() const;             // no exchange is under way
    const ServerCounters& counters() const;

    struct Impl;

private:
    explicit Server(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

// Whether "ADDRESS:PORT" is one that listen takes.
Status check_address(const std::string& address);

}  // namespace chatloop::http
