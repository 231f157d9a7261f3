// The router's API: completions over HTTP as one more client of the router. A request becomes
// SUBMITs, what the router says becomes the answer; nothing is scheduled here. No socket, no clock.
//
//     POST -> read_chat ... -> SUBMIT -> router
//     ACCEPTED, PIECE, DONE -> reply -> Responder -> client
//
// To the router all requests from one address are one client, named kClientPrefix + address: so
// clients share it fairly, as those of the ZeroMQ front do.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "chatloop/core/clock.hpp"
#include "chatloop/http/ask.hpp"
#include "chatloop/http/event_log.hpp"
#include "chatloop/http/journal.hpp"
#include "chatloop/http/reply.hpp"
#include "chatloop/http/responder.hpp"
#include "chatloop/http/site.hpp"
#include "chatloop/text/text.hpp"
#include "chatloop/text/tool_calls.hpp"
#include "chatloop/wire/messages.hpp"

namespace chatloop::http {

// No client of the ZeroMQ front can have such a name: its first byte is 0, and it is longer than
// those that libzmq makes.
inline constexpr std::string_view kClientPrefix{"\0http:", 6};

using ToRouter =
    std::function<void(const std::string& client, const wire::ClientBody& message, TimeUs now)>;

struct ApiConfig {
    std::string model;
    uint32_t context_length = 0;
    std::string fingerprint;         // 16 hex digits
    uint64_t seed = 0;               // of the ids that answers get
    std::function<int64_t()> unix_time;
    // Names that nobody can guess, of resumable streams.
    std::function<std::string()> stream_key;
    TimeUs client_silence_us = 30 * kSecondUs;  // of the router; kNever: none
    Journal* journal = nullptr;  // of resumable streams; null: they end with the process
};

class Api {
public:
    Api(ApiConfig config, Responder& responder, const TextEngine& text, ToRouter to_router);

    // Adds its paths.
    void serve(Site& site);

    // Makes a stream of the process before this one again; what has not ended goes on with the
    // ticks. Nothing: the bytes are no journal.
    struct Restored {
        std::string key;        // empty: there is no room for it now
        size_t bytes = 0;       // that were of use: the rest is to be cut off
        bool has_ended = false;  // nothing will be appended
    };
    std::optional<Restored> restore(wire::ByteView journal);

    void on_router(const wire::RouterBody& message, TimeUs now);
    void on_gone(ExchangeId id, TimeUs now);
    void on_tick(TimeUs now);
    TimeUs next_timer() const;
    size_t running() const { return jobs_.size(); }
    size_t journaled() const;  // streams that a restarted router would know

private:
    // What has come of a choice: a router that takes up an answer may say some of it again.
    struct Heard {
        uint32_t tokens = 0;
        uint64_t text_bytes = 0;
        bool ended = false;
    };
    // One prompt of a request: a request of the router's.
    struct Part {
        std::string request_id;
        bool accepted = false;
        bool ended = false;
        size_t prompt_entries = 0;  // log-probabilities of the prompt that have come
        std::vector<Heard> heard;   // n
        std::vector<uint32_t> prompt_ids;
        uint64_t seed = 0;
        std::vector<Choice> choices;  // n; of a stream only what the next event needs
        std::vector<ToolCallParser> parsers;  // n where tools were given
        Usage usage;
    };
    static constexpr ExchangeId kNobody = 0;
    static constexpr ExchangeId kRestored = ExchangeId{1} << 63;  // more than a server ever had
    // A resumable one, from the acceptance of its request until nobody asked for it for a while.
    struct Stream {
        Stream(std::string name, size_t choices, size_t& all_bytes)
            : key(std::move(name)), log(choices, all_bytes) {}
        std::string key;
        EventLog log;
        std::string request_header;     // x-request-id
        ExchangeId job = kNobody;       // of jobs_, until the answer has ended
        ExchangeId exchange = kNobody;  // that reads it
        TimeUs until = kNever;          // it is kept without one
        bool has_file = false;          // in the journal
        bool kept = false;              // there, up to now
        bool restored = false;          // from there
        bool noted = false;             // there, that it is taken up
    };
    struct Job {
        ExchangeId exchange = 0;     // that asked
        std::string client;
        Ask ask;
        ReplyHead head;
        std::string request_header;  // x-request-id
        std::vector<Part> parts;
        bool streams = false;        // its head has been sent
        Stream* stream = nullptr;    // if it is resumable; of streams_
        std::unique_ptr<wire::Resume> resume;  // of a restored one, until the router accepts it
        uint32_t taken_up = 0;       // times, without a message since
        size_t held_bytes = 0;       // of an answer that is not streamed
        TimeUs wrote_at = 0;
    };

    using Reader = AskOrProblem (*)(const Json&);
    std::optional<Response> on_post(ExchangeId id, Request& request, Reader read, TimeUs now);
    Response models(const Request& request) const;
    Response model(const Request& request) const;
    Response tokenize(const Request& request) const;
    Response detokenize(const Request& request) const;
    Response apply_template(const Request& request) const;
    Json model_card() const;
    Chat read_bounded_chat(Fields& fields) const;

    std::string make_id(Surface surface);
    std::optional<Problem> refuse(Ask& ask) const;
    Status constrain_calls(Ask& ask) const;
    void submit(Job& job, TimeUs now);
    void make_part(Job& job, size_t index, bool has_tools);
    Job* find(const std::string& request_id, Part** part);
    void on_accepted(const wire::Accepted& accepted, TimeUs now);
    void on_prompt_piece(const wire::PromptPiece& piece, TimeUs now);
    void on_piece(const wire::Piece& piece, TimeUs now);
    void on_end(Job& job, Part& part, uint32_t choice, const std::string& reason, wire::Stop stop,
                TimeUs now);
    void on_done(const wire::Done& done, TimeUs now);
    void on_failure(const wire::Failure& failure, TimeUs now);
    void on_text(Job& job, Choice& choice, TimeUs now);
    void on_tool_events(Job& job, Part& part, Choice& choice,
                        const std::vector<ToolEvent>& events, TimeUs now);
    bool hold(Job& job, size_t bytes, TimeUs now);
    void send(Job& job, uint32_t choice, const Json& data, TimeUs now);
    void send_text(Job& job, uint32_t choice, std::string_view json, TimeUs now);
    void complete(Job& job, TimeUs now);
    void fail(Job& job, const Problem& problem, TimeUs now);
    void cancel(const Job& job, TimeUs now);
    void forget(Job& job);

    void serve_streams(Site& site);
    bool start_stream(Job& job, const wire::Accepted& accepted, TimeUs now);
    Stream& open_stream(Job& job, const std::string& key);
    void write(Job& job, std::string_view bytes, TimeUs now);
    void send_event(Job& job, uint32_t choice, const std::string& event, TimeUs now);
    void end_stream(Job& job, TimeUs now);
    void detach(Stream& stream, TimeUs now);
    void cut_off(Stream& stream);
    Response not_here(const Request& request) const;
    Stream* find_stream(const Request& request);
    std::optional<Response> on_reconnect(ExchangeId id, const Request& request, TimeUs now);
    Response on_delete(const Request& request, TimeUs now);
    void drop(Stream& stream, TimeUs now);
    void expire_streams(TimeUs now);

    Status begin_journal(const Job& job, const std::string& key, const wire::Accepted& accepted);
    void keep(const std::string& request_id, const wire::RouterBody& message);
    bool puts_off(const wire::Failure& failure, TimeUs now);
    void suspend(Job& job);
    void settle_restored(TimeUs now);
    void resume_one(Job& job, TimeUs now);
    void say(const wire::RouterBody& message, TimeUs now);
    void resume_put_off(TimeUs now);

    ApiConfig config_;
    Responder& responder_;
    const TextEngine& text_;
    ToRouter to_router_;
    TokenTexts token_texts_;
    ToolFormat tool_format_;
    uint64_t id_state_;
    int64_t started_at_;
    std::map<ExchangeId, std::unique_ptr<Job>> jobs_;
    std::map<std::string, std::pair<ExchangeId, size_t>> by_request_;  // job and part
    std::map<std::string, size_t> clients_;  // with how many jobs
    size_t held_bytes_ = 0;  // of all jobs
    size_t kept_bytes_ = 0;  // of all streams' logs
    std::map<std::string, Stream> streams_;
    std::map<ExchangeId, std::string> attached_;  // exchanges that read a stream, and which
    ExchangeId last_restored_ = kRestored;  // stands for the exchange that began a restored job
    std::deque<ExchangeId> put_off_;        // restored jobs that the router is to hear of
    TimeUs resume_at_ = 0;                  // not before
    bool has_settled_ = false;              // restored streams have the time of their expiry
    std::set<std::string> suspended_;       // streams that are left to the next process
    TimeUs pinged_at_ = 0;
    TimeUs looked_at_ = 0;
};

// The first bytes of every path's handlers: the JSON object of a body, or the answer to a bad one.
std::variant<Json, Response> body_of(const Request& request);

}  // namespace chatloop::http
