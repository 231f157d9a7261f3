// The server's state, between its own functions (server.cpp) and libmicrohttpd's callbacks
// (server_callbacks.cpp).
#pragma once

#include <microhttpd.h>

#include <deque>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "chatloop/http/server.hpp"

namespace chatloop::http {

using ConnectionId = uint64_t;  // descriptors and pointers are used again

// Body -> waiting -> answered or streaming. A refused request has its response from the start.
struct Exchange {
    ExchangeId id = 0;
    ConnectionId connection = 0;
    MHD_Connection* handle = nullptr;
    Request request;
    size_t body_bytes = 0;        // that came, also those that were thrown away
    bool refused = false;
    bool handed_over = false;     // its owner knows it
    bool over = false;            // for its owner: answered, or told that the client is gone
    bool suspended = false;
    bool closes = false;          // without a response, or in the middle of it
    std::optional<Response> response;  // until libmicrohttpd has it
    bool streams = false;
    bool ended = false;           // nothing more is written to the stream
    std::string stream;           // or a large body; from `sent` on it waits for the client
    size_t sent = 0;
    TimeUs progress_at = 0;       // the client took something, or nothing waited
    size_t waiting() const { return stream.size() - sent; }
};

struct Connection {
    ConnectionId id = 0;
    int fd = -1;
    std::string peer;
    Exchange* exchange = nullptr;
    bool peer_closed = false;
    TimeUs since = 0;             // idle or sending a request
    std::list<ConnectionId>::iterator idle_at;  // when exchange is null
};

struct Server::Impl {
    ServerEvents events;
    MHD_Daemon* daemon = nullptr;
    int listen_fd = -1;
    int mhd_epoll_fd = -1;
    int side_epoll_fd = -1;       // connections whose peer closed, or has half closed
    std::string address;
    TimeUs now = 0;               // of the turn, for the callbacks
    TimeUs swept_at = 0;
    TimeUs mhd_timer_at = kNever;
    bool dirty = true;            // libmicrohttpd is to look at its connections
    uint64_t last_id = 0;
    std::unordered_map<ConnectionId, std::unique_ptr<Connection>> connections;
    std::unordered_map<ExchangeId, std::unique_ptr<Exchange>> exchanges;
    std::list<ConnectionId> idle;         // the longest idle first
    std::deque<ExchangeId> arrived;       // whole requests that wait for their turn
    std::vector<ExchangeId> gone;         // whose owners are to be told
    size_t bodies_bytes = 0;
    size_t streams_bytes = 0;
    ServerCounters counters;

    ~Impl();
    Exchange* find(ExchangeId id);
    void resume(Exchange& exchange);
    void suspend(Exchange& exchange);
    void lose(Exchange& exchange);        // its client is gone
    void abort_closed(Exchange& exchange);  // as soon as libmicrohttpd asks for more
    void close(Connection& connection);
    void drop_body(Exchange& exchange);

    void look_aside();
    void hand_over();
    void tell_gone();
    void sweep();
    void shed_streams();

    // libmicrohttpd's callbacks.
    void on_connection(MHD_Connection* handle, void** socket_context, bool started);
    MHD_Result on_access(MHD_Connection* handle, void** context, const char* method,
                         const char* path, const char* upload, size_t* upload_size);
    MHD_Result on_headers(MHD_Connection* handle, void** context, const char* method,
                          const char* path);
    MHD_Result on_body(Exchange& exchange, const char* upload, size_t size);
    MHD_Result on_whole(Exchange& exchange);
    std::optional<Response> refusal(const Request& request) const;
    void refuse(Exchange& exchange, Response response);
    MHD_Result queue_response(Exchange& exchange);
    ssize_t read_stream(Exchange& exchange, char* buffer, size_t size);
    void on_completed(void** context);
};

// Starts the daemon on impl.listen_fd, with the callbacks; null when it cannot.
MHD_Daemon* start_daemon(Server::Impl& impl);

}  // namespace chatloop::http
