// The Router: requests come in on the front, run as sequences over a route of workers, and are
// answered token by token. It owns text, KV blocks, schedule and commits; it computes nothing.
//
//     on_client -> text job -> waiting -> admit -> compose -> dispatch -> (route)
//     on_result -> credit -> commit -> stop rules -> text -> client
//
// One class over files by hop: router_ingress, router_requests, router_admission, router_frames,
// router_dispatch, router_egress, router_constraint, router_clients, router_trace, recovery (after
// a fault), router (the rest). It owns no socket and reads no clock.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "chatloop/bus/outbox.hpp"
#include "chatloop/core/clock.hpp"
#include "chatloop/core/histogram.hpp"
#include "chatloop/core/log_span.hpp"
#include "chatloop/core/quarantine.hpp"
#include "chatloop/router/admission_queue.hpp"
#include "chatloop/router/cluster.hpp"
#include "chatloop/router/cost_model.hpp"
#include "chatloop/router/metrics.hpp"
#include "chatloop/router/poison.hpp"
#include "chatloop/router/preemption.hpp"
#include "chatloop/router/sequence.hpp"
#include "chatloop/router/trace.hpp"
#include "chatloop/text/text.hpp"
#include "chatloop/wire/codec.hpp"

namespace chatloop {

struct RouterConfig {
    ClusterConfig cluster;
    std::string model_name;
    uint32_t context_length = 0;
    bool add_bos = false;
    uint32_t bos_id = 0;
    std::vector<uint32_t> stop_ids;
    uint64_t seed = 0;                 // of the seeds that are drawn for clients
    double trace_ratio = 0;            // of requests without a traceparent, to be exported
    uint32_t max_batch_size = 32;      // decode rows per frame
    uint32_t prefill_rows = 256;       // prefill rows per frame, whatever they cost
    TimeUs prefill_slice_us = 20 * kMillisecondUs;  // of a frame with prefill rows, on a stage
    TimeUs batching_window_us = 2 * kMillisecondUs;
    uint32_t frames_in_flight = 0;     // on a route; 0: by its stages (Router::frames_max)
    uint32_t max_sequences = 0;        // on a route; 0: 4 x max_batch_size
    uint32_t kv_headroom_tokens = 256; // that admission reserves behind the prompt
    bool prefix_cache = true;
    uint32_t max_queue_size = 512;     // requests that wait
    TimeUs queue_timeout_us = 0;       // of a request that was not admitted; 0: none
    TimeUs route_wait_us = 60 * kSecondUs;     // a request waits that long for a route
    TimeUs result_timeout_us = 120 * kSecondUs;  // at the most; less when times are learnt
    TimeUs client_silence_us = 30 * kSecondUs;
    TimeUs drain_timeout_us = 30 * kSecondUs;
};

struct RouterCounters {
    uint64_t requests = 0;
    uint64_t rejected = 0;           // not readable, or answered with ERROR before ACCEPTED
    uint64_t front_malformed = 0;    // bytes that are no message
    uint64_t front_quarantined = 0;  // of a client that had sent too many of these: not read
    uint64_t result_malformed = 0;   // bytes that are no header of a RESULT
    uint64_t clients_gone = 0;       // with running requests: silent, unreachable or not reading
    uint64_t frames_sent = 0;
    uint64_t results = 0;
    uint64_t results_stale = 0;      // of another generation, or a number that was answered
    uint64_t results_bad = 0;        // body or content
    uint64_t results_uncommitted = 0;  // of an ended sequence
    uint64_t tokens_committed = 0;
    uint64_t routes_up = 0;
    uint64_t routes_down = 0;          // of these, by a fault
    uint64_t installs_failed = 0;      // routes that a fault ended before they were up
    uint64_t tokens_prefilled = 0;     // prompt rows computed, replays too
    uint64_t prefix_tokens = 0;        // prompt rows found in the prefix cache
    uint64_t preemptions = 0;
    uint64_t recoveries = 0;           // sequences that a fault or a hand-over interrupted
    uint64_t replays = 0;              // of these, whose rows are computed again from the first
    std::map<std::string_view, uint64_t> errors;  // ERROR messages, by code
};

struct RouterHistograms {
    Histogram queue_ms{kLatencyBoundsMs};        // arrival to admission
    Histogram first_token_ms{kLatencyBoundsMs};  // arrival to first token
    Histogram token_ms{kLatencyBoundsMs};        // between tokens of a choice
    Histogram decode_rows{kRowsBounds};          // of frames with decode rows
};

class Router final : private Cluster::Events {
public:
    // A line for the log: level 'd', 'i' or 'w', the text, the request that it is about.
    using Log = std::function<void(char level, const std::string& text, const LogSpan& span)>;
    // The trace of a request that has ended and is to be exported.
    using TraceSink = std::function<void(const wire::Trace& trace, TimeUs arrived_at)>;

    Router(const RouterConfig& config, Outbox& outbox, const TextEngine& text, Log log);

    void on_control(const std::string& peer, wire::ByteView bytes, TimeUs now);
    void on_client(const std::string& client, wire::ByteView bytes, TimeUs now);
    void on_client_gone(const std::string& client, TimeUs now);
    void on_worker_gone(const std::string& peer, TimeUs now);  // its control cannot be reached
    void on_result(Message bytes, TimeUs now);
    void on_link(LinkId link, bool up, TimeUs now);
    void on_tick(TimeUs now);
    TimeUs next_timer() const;

    bool has_work() const { return !text_jobs_.empty(); }
    void run_unit(TimeUs now);  // one text job

    void drain(TimeUs now);
    bool finished() const { return finished_; }

    bool ready() const;
    size_t running() const { return by_admission_.size(); }
    size_t waiting() const { return queue_.size() + set_aside_.size() + text_jobs_.size(); }
    const RouterCounters& counters() const { return counters_; }
    const RouterHistograms& histograms() const { return histograms_; }
    const RouterMetrics& metrics() const { return metrics_; }
    wire::StatusReply status() const;
    void set_trace_sink(TraceSink sink) { trace_sink_ = std::move(sink); }
    void set_log_debug(bool on) { log_debug_ = on; }  // whether lines of level 'd' are made
    void note_sockets(const SocketCounters& sockets) { sockets_ = sockets; }
    const Cluster& cluster() const { return cluster_; }

private:
    // One item of a frame that is on its way.
    struct InFlightItem {
        Admission admission = 0;
        Slot slot = 0;
        uint32_t position = 0;
        uint32_t rows = 0;
        std::vector<uint32_t> outputs;         // rows within the item
        std::shared_ptr<Placement> placement;  // keeps slot and blocks until the RESULT
    };
    struct InFlight {
        FrameNumber number = 0;
        uint64_t bytes = 0;      // debited per worker
        TimeUs sent_at = 0;
        double predicted_us = 0;  // until its RESULT, if it waits nowhere
        bool has_suspects = false;  // alone on its route
        uint32_t decode_rows = 0;
        FrameShape shape;
        std::vector<InFlightItem> items;
    };
    static constexpr TimeUs kHasWaited = 0;  // of Lane::hold_until
    // What runs on one route.
    struct Lane {
        FrameNumber sent = 0;
        FrameNumber answered = 0;
        TimeUs answered_at = 0;
        TimeUs result_at = kNever;          // of the latest RESULT; kNever: none yet
        std::deque<InFlight> in_flight;
        std::vector<SequenceId> sequences;  // in order of admission
        RouteCost cost;
        TimeUs hold_until = kNever;         // a frame waits for company (waits_for_company)
        bool hands_over = false;            // no frames any more: others go on (hand_over)
        // For STATUS: the time with frames in flight, and by hop the time spent computing.
        TimeUs work_us = 0;
        TimeUs busy_since = 0;
        std::vector<uint64_t> busy_us;
        uint64_t wire_us = 0;
        uint64_t frames = 0;
        TimeUs noted_at = 0;               // until then its work is in `times`
        std::vector<WorkerTimes*> times;   // of the hops; null: too many workers came and went
    };
    struct Planned {
        Sequence* sequence = nullptr;
        uint32_t rows = 0;
    };
    // The sequences of a lane with rows that no frame has taken yet, in order of admission.
    struct Ready {
        std::vector<Sequence*> decode;  // one row each
        std::vector<Sequence*> prefill;
        uint32_t decoding = 0;  // beyond their prompts, in a frame or ready for one
        uint64_t decode_context = 0;  // their mean length
    };
    struct Client {
        TimeUs heard_at = 0;
        std::map<std::string, std::shared_ptr<Request>> requests;
    };

    // Ingress.
    Status admissible(const std::string& client, const wire::Parameters& parameters,
                      const std::optional<wire::Resume>& resume) const;
    void on_submit(const std::string& client, const std::string& request_id,
                   wire::Parameters parameters, std::optional<wire::Resume> resume, TimeUs now);
    Result<std::vector<uint32_t>> encode_prompt(const wire::Parameters& parameters) const;
    Status check_prompt_bytes(const wire::Parameters& parameters) const;
    Status prepare(Sequence& sequence);
    Status check_sampling(const Sequence& sequence) const;
    Status cut_to_history(Sequence& sequence) const;
    Status in_vocabulary(uint32_t id) const;
    Status accept(Sequence& sequence);
    Status compile_constraint(Sequence& sequence) const;
    Result<bool> constrain(Sequence& sequence) const;
    Result<bool> advance(Sequence& sequence, uint32_t token) const;
    uint64_t draw_seed();

    // Admission.
    void schedule(TimeUs now);
    void admit(TimeUs now);
    uint64_t largest_pool() const;
    bool waits_for_larger(const Sequence& sequence) const;
    void bring_back(TimeUs now);
    const Route* choose_route(const Sequence& sequence) const;
    double queued_us(const Route& route, const Lane& lane, const Sequence& sequence) const;
    uint32_t sequences_max(const Route& route) const;
    Status fit_to_route(Sequence& sequence, const Route& route) const;
    std::vector<BlockId> prefix_of(const Route& route, const Sequence& sequence) const;
    std::vector<Running> running_on(const Lane& lane) const;
    bool somebody_gives_way(const Lane& lane) const;
    bool admit_one(Sequence& sequence, const Route& route, TimeUs now);
    void enqueue(Sequence& sequence, TimeUs now);
    void make_room(TimeUs now);
    void settle_claim(SequenceId id);
    void grow_blocks(Lane& lane, TimeUs now);
    void give_way(Sequence& sequence, TimeUs now);
    void preempt(Sequence& sequence, TimeUs now);
    void preempt_idle(Generation generation, TimeUs now);
    void expire(TimeUs now);
    void set_timeout(Sequence& sequence);
    TimeUs queue_end(const Sequence& sequence) const;
    TimeUs route_wait_end(const Sequence& sequence) const;
    void note_rate(TimeUs now);
    uint32_t retry_after_ms() const;

    // Recovery.
    void roll_back(Sequence& sequence);
    void adopt(const Route& route, Lane& lane);
    void requeue(Sequence& sequence, TimeUs now);
    void on_refused(Sequence& sequence, TimeUs now);
    bool is_waiting(const Sequence& sequence) const;  // for a place, or for its route to be back
    TimeUs overdue_at(const Route& route, const Lane& lane) const;
    void check_overdue(TimeUs now);
    void hand_over(TimeUs now);
    bool fits_elsewhere(const Lane& lane) const;
    void note_accident(const Route& route, const Lane& lane, TimeUs now);
    void judge(TimeUs now);
    void suspect(const std::vector<ItemRows>& items);
    void suspect_alone(Sequence& sequence, const ItemRows& item);

    // Frames.
    void fill_route(const Route& route, Lane& lane, TimeUs now);
    bool suspects_in_flight(const Lane& lane) const;
    Ready ready_rows(const Lane& lane) const;
    std::vector<Sequence*> runnable(const Lane& lane) const;
    static void replays_first(std::vector<Sequence*>& prefill);
    uint32_t micro_batches(const Route& route, const Lane& lane, const Ready& ready) const;
    uint32_t frames_max(const Route& route, const Lane& lane, const Ready& ready) const;
    uint32_t decode_share(const Route& route, const Lane& lane, const Ready& ready) const;
    bool waits_for_company(const Route& route, Lane& lane, const Ready& ready, TimeUs now);
    uint32_t frame_rows_max() const;
    std::vector<Planned> compose(const Route& route, const Lane& lane, Ready ready) const;
    double slice_us(const Route& route, const Lane& lane, const Ready& ready) const;
    void add_prefill(const Lane& lane, Ready& ready, FrameShape shape, uint32_t rows_free,
                     double slice, std::vector<Planned>& plan) const;
    uint32_t rows_within(const Lane& lane, const Sequence& sequence, const FrameShape& base,
                         uint32_t rows_free, double slice) const;

    // Dispatch.
    bool dispatch(const Route& route, Lane& lane, std::span<const Planned> plan, TimeUs now);
    std::vector<wire::Item> make_items(std::span<const Planned> plan) const;
    wire::Item make_item(const Sequence& sequence, uint32_t rows) const;
    std::string make_sample(const Sequence& sequence, uint32_t position, uint32_t rows,
                            std::vector<uint32_t>& outputs) const;
    std::vector<uint32_t> masked_ids(const Sequence& sequence, uint32_t index) const;

    // Egress.
    void note_times(Lane& lane, const InFlight& sent, std::span<const wire::HopTiming> timings,
                    TimeUs now);
    void note_token(Sequence& sequence, TimeUs now);
    void apply(const InFlightItem& sent, const wire::ResultItem& item, TimeUs now);
    bool wants_target(const Sequence& sequence, uint32_t position) const;
    void publish(Sequence& sequence, uint32_t rows_confirmed);
    bool answers(const Sequence& sequence, const InFlightItem& sent,
                 const wire::ResultItem& item) const;
    void commit(Sequence& sequence, const wire::Output& output, TimeUs now);
    std::optional<wire::Done> stop_rule(const Sequence& sequence, uint32_t token) const;
    StopText::Step push_text(Sequence& sequence, std::string text) const;
    void send_piece(Sequence& sequence, const wire::Output& output, std::string text);
    void send_rest(Sequence& sequence);

    // Requests.
    void begin(Sequence& sequence, TimeUs now);
    void begin_others(const std::shared_ptr<Request>& request, TimeUs now);
    Result<std::optional<wire::Done>> replay_text(Sequence& sequence,
                                                  const std::vector<uint32_t>& tokens) const;
    void finish(Sequence& sequence, wire::Done done, TimeUs now);
    void finish(Request& request, TimeUs now);
    void fail(Sequence& sequence, const Error& error);
    uint32_t committed(const Request& request) const;
    void forget(Request& request);
    void forget(Sequence& sequence);

    // Clients.
    void send(const std::string& client, const wire::RouterBody& body);
    void reply_error(const std::string& client, std::optional<std::string> request_id,
                     const Error& error, uint32_t committed = 0);
    std::optional<std::vector<wire::RunningRequest>> requests_of(const std::string& client) const;
    std::shared_ptr<Request> find_request(const std::string& client,
                                          const std::string& request_id) const;
    void on_cancel(const std::string& client, const std::string& request_id, TimeUs now);

    // Observation.
    void note_ended(Request& request, const std::string& reason, TimeUs at);
    void note_frame(const InFlight& sent, std::span<const wire::HopTiming> timings, TimeUs now);
    void note_event(bool warning, std::string text);
    void send_trace(const std::string& client, const std::string& request_id);
    RequestTrace trace_of(const Request& request, TimeUs at) const;
    TraceContext trace_context(const std::string& traceparent);
    LogSpan span_of(const Request& request) const { return {request.id, request.trace.trace_id}; }
    WorkerTimes* times_of(const std::string& worker, uint8_t role);
    wire::WorkerStatus worker_status(const WorkerPeer& worker) const;
    std::vector<wire::RequestStatus> request_status() const;
    wire::RouteStatus route_status(const Route& route) const;
    std::vector<wire::Counter> all_counters() const;

    // Cluster::Events.
    void on_route_up(const Route& route) override;
    void on_route_down(const Route& route, const std::string& why, TimeUs now) override;
    void on_kv_lost(Generation generation, const std::string& why, TimeUs now) override;
    void on_quarantine(const std::string& peer) override;
    void on_worker_event(const WorkerPeer& worker, const std::string& what) override;
    void on_worker_refused(const RefusedWorker& worker) override;
    void on_worker_died(Incarnation worker, TimeUs now) override;
    void on_last_report(Incarnation worker, const wire::RouteReport& report) override;

    RouterConfig config_;
    Outbox& outbox_;
    const TextEngine& text_;
    Log log_;
    Cluster cluster_;
    std::string fingerprint_;  // 16 hex digits
    uint64_t seed_state_;

    std::map<SequenceId, std::unique_ptr<Sequence>> sequences_;
    std::map<std::string, Client> clients_;
    std::deque<SequenceId> text_jobs_;
    AdmissionQueue queue_;
    std::deque<SequenceId> set_aside_;  // begun, and longer than any pool that is there now
    std::optional<Claim> claim_;  // somebody gives way for it
    std::set<std::pair<TimeUs, SequenceId>> timeouts_;  // deadlines, and ends of waiting
    size_t constraint_bytes_ = 0;  // of the texts of all running requests' constraints
    std::map<Admission, SequenceId> by_admission_;
    std::map<Generation, Lane> lanes_;
    std::map<Generation, Lane> parked_;  // of routes that are down, for a successor (Remains)
    std::deque<Accident> accidents_;     // whose dead are not known yet
    uint64_t last_group_ = 0;            // of suspects
    SequenceId last_sequence_ = 0;
    Admission last_admission_ = 0;

    TimeUs ticked_at_ = 0;
    bool draining_ = false;
    TimeUs drain_until_ = kNever;
    TimeUs peopled_at_ = 0;  // the last time that a worker was there
    bool finished_ = false;
    TimeUs without_route_since_ = 0;  // or later: the last time that a timeout saw one
    NoRouteNotice no_route_notice_;
    RouterCounters counters_;
    Quarantine quarantine_;  // of clients
    RouterHistograms histograms_;
    // Tokens computed per second, prompt and answer, over the last seconds.
    double tokens_per_s_ = 0;
    uint64_t tokens_rated_ = 0;
    TimeUs rated_at_ = 0;
    SocketCounters sockets_;
    RouterMetrics metrics_;
    uint64_t generated_rated_ = 0;
    bool log_debug_ = false;
    uint64_t trace_state_;
    TraceSink trace_sink_;
    struct EndedTrace {
        std::string request_id;
        wire::Trace trace;
    };
    std::deque<EndedTrace> traces_;  // the latest kTracesKept
    struct Event {
        uint64_t number = 0;
        TimeUs at = 0;
        bool warning = false;
        std::string text;
    };
    std::deque<Event> events_;  // the latest kStatusEventsMax
    uint64_t last_event_ = 0;
    TimeUs started_at_ = 0;     // the first tick
};

}  // namespace chatloop
