// chatloop-cpud: the whole of ChatLoop in one process and one thread, over the in-process bus.
// Reads a prompt or a file of requests, runs them strictly one after another (or together), prints
// the answers. With --port it is a worker instead, over HTTP (cpud_server.hpp).
#include <CLI/CLI.hpp>
#include <cstdio>
#include <deque>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

#include "chatloop/bus/system.hpp"
#include "common.hpp"
#include "cpud_server.hpp"
#include "local_model.hpp"

namespace chatloop {

namespace {

using nlohmann::json;

constexpr char kActor[] = "chatloop-cpud";
constexpr char kClient[] = "command-line";

struct Options {
    actors::LocalOptions local;
    actors::CpudOptions server;
    std::string prompt;
    bool chat = false;
    std::string requests_file;
    bool concurrent = false;
    bool as_json = false;
    json parameters = json::object();
};

// One request and what came of it so far.
struct Answer {
    json parameters;
    json result = json::object();
    std::string text;
    bool ended = false;
    bool failed = false;
};

json entry_json(const wire::TokenEntry& entry) {
    json top = json::array();
    for (const wire::TopLogprob& t : entry.top) top.push_back({t.token, t.logprob});
    return {{"token_id", entry.token}, {"logprob", entry.logprob}, {"top", top}};
}

// Adds a piece to the answer, or to one of its further choices, which has the same fields.
void add_piece(json& choice, const wire::Piece& piece, double ms) {
    for (const uint32_t id : piece.token_ids) {
        choice["token_ids"].push_back(id);
        choice["token_ms"].push_back(ms);
    }
    if (!piece.logprobs) return;
    for (const wire::TokenEntry& e : *piece.logprobs) choice["logprobs"].push_back(entry_json(e));
}

json empty_choice() {
    return {{"token_ids", json::array()}, {"token_ms", json::array()},
            {"logprobs", json::array()}};
}

class Cpud {
public:
    explicit Cpud(const Options& options);
    int run();

private:
    void load();
    void read_requests();
    void submit(size_t index);
    void hear(const wire::RouterBody& body, TimeUs now);
    static json& other_choice(Answer& answer, uint32_t choice);
    void print(const Answer& answer) const;

    Options options_;
    std::unique_ptr<actors::LocalModel> model_;
    std::deque<Answer> answers_;
    size_t ended_ = 0;
    TimeUs started_at_ = 0;  // of the first request
};

Cpud::Cpud(const Options& options) : options_(options) {
    report_lost_pages(kActor, actors::kConfig);
    read_requests();
    load();
}

void Cpud::read_requests() {
    if (options_.requests_file.empty()) {
        json parameters = options_.parameters;
        if (options_.chat) {
            parameters["messages"] = {{{"role", "user"}, {"content", options_.prompt}}};
        } else {
            parameters["prompt"] = options_.prompt;
        }
        answers_.push_back({parameters, {}, {}, false, false});
        return;
    }
    std::ifstream in(options_.requests_file);
    std::string line;
    while (std::getline(in, line)) {
        if (line.empty()) continue;
        json parameters = json::parse(line, nullptr, false);
        if (!parameters.is_object())
            actors::die(kActor, {ErrorCode::kInvalidRequest,
                                 options_.requests_file + ": line " +
                                     std::to_string(answers_.size() + 1) +
                                     " is not a JSON object"});
        answers_.push_back({std::move(parameters), {}, {}, false, false});
    }
    if (in.bad() || answers_.empty())
        actors::die(kActor, {ErrorCode::kBadFile, options_.requests_file + " holds no requests"});
}

void Cpud::load() {
    actors::LocalOptions local = options_.local;
    local.max_queue_size =
        std::max(local.max_queue_size, static_cast<uint32_t>(answers_.size()));
    model_ = std::make_unique<actors::LocalModel>(
        kActor, local, [](char, const std::string&, const std::string&) {});
    model_->cluster().attach_client(
        kClient, [this](const wire::RouterBody& body, TimeUs now) { hear(body, now); });
}

void Cpud::submit(size_t index) {
    const json message = {1, 1, std::to_string(index), answers_[index].parameters};
    model_->cluster().send_bytes(kClient, json::to_msgpack(message));
}

void Cpud::hear(const wire::RouterBody& body, TimeUs now) {
    const auto answer_of = [this](const std::string& id) -> Answer& {
        return answers_.at(std::stoul(id));
    };
    if (const auto* accepted = std::get_if<wire::Accepted>(&body)) {
        Answer& answer = answer_of(accepted->request_id);
        answer.result = empty_choice();
        answer.result.update({{"prompt_ids", accepted->prompt_ids}, {"seed", accepted->seed},
                              {"fingerprint", accepted->fingerprint},
                              {"prompt_logprobs", json::array()}, {"others", json::array()}});
        if (accepted->prompt_text) answer.text = *accepted->prompt_text;
        if (!options_.as_json && accepted->prompt_text) std::cout << *accepted->prompt_text;
    } else if (const auto* piece = std::get_if<wire::Piece>(&body)) {
        Answer& answer = answer_of(piece->request_id);
        const double ms = static_cast<double>(now - started_at_) / 1000.0;
        if (piece->choice == 0) {
            add_piece(answer.result, *piece, ms);
            answer.text += piece->text;
            if (!options_.as_json) std::cout << piece->text << std::flush;
            return;
        }
        json& other = other_choice(answer, piece->choice);
        add_piece(other, *piece, ms);
        other["text"] = other.value("text", "") + piece->text;
    } else if (const auto* end = std::get_if<wire::ChoiceDone>(&body)) {
        if (end->choice == 0) return;  // DONE says the same
        other_choice(answer_of(end->request_id), end->choice)["finish_reason"] = end->finish_reason;
    } else if (const auto* prompt = std::get_if<wire::PromptPiece>(&body)) {
        for (const auto& e : prompt->entries)
            answer_of(prompt->request_id)
                .result["prompt_logprobs"]
                .push_back(e ? entry_json(*e) : json());
    } else if (const auto* done = std::get_if<wire::Done>(&body)) {
        Answer& answer = answer_of(done->request_id);
        answer.result["finish_reason"] = done->finish_reason;
        answer.result["prompt_tokens"] = done->prompt_tokens;
        answer.result["completion_tokens"] = done->completion_tokens;
        answer.result["prefill_ms"] = done->prefill_ms;
        answer.result["decode_ms"] = done->decode_ms;
        answer.ended = true;
        ++ended_;
    } else if (const auto* failure = std::get_if<wire::Failure>(&body)) {
        Answer& answer = answer_of(failure->request_id.value_or("0"));
        answer.result = {{"error", {{"code", failure->code}, {"message", failure->message}}}};
        answer.ended = answer.failed = true;
        ++ended_;
    }
}

// Choices 1 and up are in "others".
json& Cpud::other_choice(Answer& answer, uint32_t choice) {
    json& others = answer.result["others"];
    while (others.size() < choice) others.push_back(empty_choice());
    return others[choice - 1];
}

void Cpud::print(const Answer& answer) const {
    if (options_.as_json) {
        json line = answer.result;
        if (!answer.failed) line["text"] = answer.text;
        std::cout << line.dump() << std::endl;
        return;
    }
    if (answer.failed) {
        std::cerr << kActor << ": " << answer.result["error"]["message"].get<std::string>() << "\n";
        return;
    }
    for (const json& other : answer.result["others"])
        std::cout << "\n--- another choice\n" << other.value("text", "");
    const double tokens = answer.result["completion_tokens"].get<double>();
    const double decode_s = answer.result["decode_ms"].get<double>() / 1000.0;
    std::cout << std::endl;
    std::fprintf(stderr, "%.0f tokens, first after %.0f ms, then %.1f tokens/s; %s\n", tokens,
                 answer.result["prefill_ms"].get<double>(),
                 decode_s > 0.0 ? (tokens - 1.0) / decode_s : 0.0, model_->weights().c_str());
}

int Cpud::run() {
    size_t submitted = 0;
    size_t printed = 0;
    bool failed = false;
    started_at_ = monotonic_now();
    const auto oldest = [](size_t) { return size_t{0}; };
    while (printed < answers_.size()) {
        const bool next_may_start = options_.concurrent || submitted == ended_;
        if (submitted < answers_.size() && next_may_start) submit(submitted++);
        model_->cluster().tick(monotonic_now());
        // Deliveries come first, then text, then the first stage's work: nothing waits or blocks.
        for (int i = 0; i < 16 && model_->cluster().step(oldest, monotonic_now); ++i) {
        }
        for (; printed < answers_.size() && answers_[printed].ended; ++printed) {
            print(answers_[printed]);
            failed = failed || answers_[printed].failed;
        }
    }
    return failed ? 1 : 0;
}

void add_options(CLI::App& app, Options& options) {
    app.add_option("--model", options.local.model, "model directory, or a GGUF file")->required();
    actors::add_cpud_options(app, options.server);
    auto* prompt = app.add_option("--prompt", options.prompt, "the text to continue");
    app.add_option("--requests", options.requests_file,
                   "JSON lines of request parameters (docs/protocol.md) instead of --prompt")
        ->excludes(prompt);
    app.add_flag("--chat", options.chat, "the prompt is a user's message in a chat");
    app.add_flag("--concurrent", options.concurrent, "all requests at once, not one by one");
    app.add_flag("--json", options.as_json, "one JSON object an answer");
    app.add_option("--stages", options.local.stages, "stage workers in this process");
    app.add_flag("--with-sampler", options.local.hosted_sampler,
                 "the last stage hosts the sampler");
    app.add_option("--kernels", options.local.kernels,
                   "auto, avx512vnni, avx512, avx2 or reference");
    options.local.memory.kv_cache_mb = 512;
    app.add_option("--kv-cache-mb", options.local.memory.kv_cache_mb,
                   "KV cache of the whole model, MiB");
    app.add_option("--weights", options.local.weights,
                   "mmap: from the files; huge: a copy in 2-MiB pages")
        ->check(CLI::IsMember({"mmap", "huge"}));
    app.add_option("--kv-cache-dtype", options.local.kv_cache_dtype,
                   "of keys and values in the KV cache")
        ->check(CLI::IsMember({"f16", "fp16", "int8"}));
    app.add_flag("--poison-kv", options.local.poison_kv, "fill unwritten KV with NaN (for tests)");
    app.add_flag("--allow-paging", options.local.memory.allow_paging,
                 "start although the weights do not fit into memory");
    app.add_option("--prefill-rows", options.local.prefill_rows, "prompt rows per frame")
        ->check(CLI::Range(1u, kFrameRowsMax - 32));
    app.add_flag("--prefix-cache,!--no-prefix-cache", options.local.prefix_cache,
                 "keep KV blocks for prompts that begin alike (on)");
    app.add_option("--max-batch-size", options.local.max_batch_size, "decode rows per frame")
        ->check(CLI::Range(1u, 32u));
}

// Request parameters as options; only those given enter the request.
void add_parameters(CLI::App& app, Options& options) {
    const auto number = [&](const char* flag, const char* key, const char* help) {
        app.add_option_function<double>(
            flag, [&options, key](const double& value) { options.parameters[key] = value; }, help);
    };
    const auto integer = [&](const char* flag, const char* key, const char* help) {
        app.add_option_function<uint64_t>(
            flag, [&options, key](const uint64_t& value) { options.parameters[key] = value; },
            help);
    };
    integer("--max-tokens", "max_tokens", "tokens at most");
    number("--temperature", "temperature", "0 is greedy");
    number("--top-p", "top_p", "nucleus");
    integer("--top-k", "top_k", "0 is off");
    number("--min-p", "min_p", "relative to the likeliest");
    integer("--seed", "seed", "of the sampling");
    integer("--logprobs", "logprobs", "log-probabilities and the K likeliest");
    app.add_option_function<std::vector<std::string>>(
        "--stop",
        [&options](const std::vector<std::string>& value) { options.parameters["stop"] = value; },
        "stop strings");
    app.add_flag_callback(
        "--echo", [&options] { options.parameters["echo"] = true; }, "begin with the prompt");
}

}  // namespace

}  // namespace chatloop

int main(int argc, char** argv) {
    chatloop::Options options;
    CLI::App app("ChatLoop in one process and one thread", chatloop::kActor);
    chatloop::add_options(app, options);
    chatloop::add_parameters(app, options);
    chatloop::actors::parse_or_exit(app, chatloop::kActor, argc, argv);
    options.local.model =
        chatloop::actors::value_or_die(chatloop::kActor, chatloop::actors::model_directory(
                                                             options.local.model));
    if (options.server.port)
        return chatloop::actors::run_cpud(chatloop::kActor, options.server, options.local);
    return chatloop::Cpud(options).run();
}
