// Journals that are odd, and streams that nothing can be done for: none costs the process.
#include <doctest/doctest.h>

#include "chatloop/core/limits.hpp"
#include "journal_harness.hpp"

using namespace chatloop;
using namespace chatloop::http;

namespace {

constexpr char kAddress[] = "/v1/streams/abc";

wire::PromptPiece entries(uint32_t index, size_t count) {
    wire::PromptPiece piece{"", index, {}};
    for (size_t i = 0; i < count; ++i) {
        piece.entries.emplace_back(std::nullopt);
        if (index + i > 0) piece.entries.back() = wire::TokenEntry{2, -0.5f, {{2, -0.5f}}};
    }
    return piece;
}

// Of a prompt of `count` ids with log-probabilities, which come in pieces of `sizes` behind the
// first.
Answer long_prompt(size_t count, const std::vector<size_t>& sizes) {
    Answer answer = with_logprobs();
    answer.said.resize(1);
    std::get<wire::Accepted>(answer.said[0]).prompt_ids.assign(count, 2);
    answer.said.push_back(entries(0, 1));
    uint32_t index = 1;
    for (size_t i = 0; index < count; ++i) {
        const size_t size = std::min(sizes[i % sizes.size()], count - index);
        answer.said.push_back(entries(index, size));
        index += static_cast<uint32_t>(size);
    }
    wire::Piece one = piece(0, 0, 0, "wo");
    one.logprobs = {wire::TokenEntry{40, -0.5f, {{40, -0.5f}}}};
    answer.said.push_back(one);
    answer.said.push_back(wire::Done{"", "length", {}, 3, 0, 1, 0, 0, 0});
    return answer;
}

// A stream that has begun, of which `messages` were said; and the file.
struct Begun {
    FakeJournal journal;
    Process process{journal, 1000};
    std::string id;
    ExchangeId reader = 0;

    Begun(const Answer& answer, size_t messages) {
        process.ask("POST", answer.path, answer.body);
        reader = process.last;
        id = process.all<wire::Submit>().at(0).request_id;
        for (size_t i = 0; i < messages; ++i) say(answer.said.at(i));
    }
    void say(const wire::RouterBody& message) { process.api.on_router(with_id(message, id), 0); }
    void fail(const std::string& code) {
        wire::Failure failure;
        failure.code = code;
        failure.message = "so it is";
        say(failure);
    }
    wire::Bytes& file() { return journal.files.at("abc"); }
};

}  // namespace

TEST_CASE("the events of a prompt's log-probabilities end at fixed places, however they came") {
    for (const size_t count : {1u, 2u, 256u, 257u, 700u}) {
        CAPTURE(count);
        std::string first;
        for (const std::vector<size_t>& sizes :
             {std::vector<size_t>{1000}, {1}, {255}, {256}, {7, 300}}) {
            const Answer answer = long_prompt(count, sizes);
            Begun whole(answer, answer.said.size());
            const std::string stream = whole.process.responder.answers.at(whole.reader).body;
            if (first.empty()) first = stream;
            CHECK(stream == first);
        }
        // Cut amid the prompt, and taken up by a router that cuts otherwise.
        const Answer before = long_prompt(count, {100});
        const Answer after = long_prompt(count, {77});
        for (size_t heard = 1; heard < before.said.size(); ++heard) {
            Begun begun(before, heard);
            Process next(begun.journal, 2000);
            const wire::Bytes bytes = begun.file();
            REQUIRE(next.restore(bytes) == bytes.size());
            take_up(next, after, next.all<wire::Resume>().at(0));
            REQUIRE(next.ask("GET", kAddress, "") == 200);
            CHECK(next.body() == first);
        }
    }
}

TEST_CASE("messages that no router says end what is read of a journal") {
    const auto used = [](const Answer& answer, size_t good, const wire::RouterBody& odd) {
        Begun begun(answer, good);
        const size_t bytes = begun.file().size();
        const wire::Bytes record = journal_message(with_id(odd, begun.id));
        begun.file().insert(begun.file().end(), record.begin(), record.end());
        Process next(begun.journal, 2000);
        const wire::Bytes file = begun.file();
        CHECK(next.restore(file) == bytes);
        CHECK(next.api.running() == 1);
    };
    const Answer prompt = long_prompt(700, {100});
    used(two_choices(), 1, entries(0, 1));        // nobody asked for them
    used(prompt, 1, entries(0, 300));             // the first comes alone
    used(prompt, 2, entries(2, 1));               // a gap
    used(prompt, 2, entries(1, 700));             // more than the prompt has
    used(prompt, 2, entries(1, 0));
    used(two_choices(), 1, piece(2, 0, 0, "x"));  // of two choices
    used(two_choices(), 1, piece(0, 1, 0, "x"));
    used(two_choices(), 1, piece(0, 0, 1, "x"));
    used(executed(), 1, wire::ChoiceDone{"", 0, "stop", {}, 1});
    used(executed(), 1, accepted());
    used(executed(), 1, wire::Pong{1, 1, {}});
    used(executed(), 1, wire::StatusReply{});
}

TEST_CASE("an answer that ends its router again and again ends, and says so") {
    Begun begun(executed(), 2);
    for (uint32_t start = 0; start < kTakenUpMax; ++start) {
        Process next(begun.journal, 2000);
        const wire::Bytes bytes = begun.file();
        CHECK(next.restore(bytes) == bytes.size());
        CHECK(next.all<wire::Resume>().size() == 1);
    }
    {
        Process next(begun.journal, 2000);
        const wire::Bytes bytes = begun.file();
        next.api.restore(bytes);
        next.api.on_tick(0);
        CHECK(next.all<wire::Resume>().empty());
        CHECK(next.api.running() == 0);
        CHECK(next.ask("GET", kAddress, "", "1") == 200);
        CHECK(next.body().find("poison") != std::string::npos);
    }
    Process last(begun.journal, 2000);  // and stays so
    const wire::Bytes bytes = begun.file();
    CHECK(last.restore(bytes) == bytes.size());
    CHECK(last.all<wire::Resume>().empty());
    CHECK(last.ask("GET", kAddress, "", "1") == 200);
}

TEST_CASE("whoever gets further begins to count anew") {
    const Answer answer = executed();
    Begun begun(answer, 1);
    for (int start = 0; start < 20; ++start) {
        Process next(begun.journal, 2000);
        const wire::Bytes bytes = begun.file();
        next.restore(bytes);
        REQUIRE(next.all<wire::Resume>().size() == 1);
        if (start % 4 == 3) next.api.on_router(with_id(answer.said[1], begun.id), 0);
    }
}

TEST_CASE("an answer too long for a RESUME ends with an error") {
    constexpr uint32_t kChoices = 16;
    constexpr uint32_t kPieces = 60;  // of 1024 ids of 5 bytes
    Answer answer = two_choices();
    answer.body.replace(answer.body.find("\"n\": 2"), 6, "\"n\": 16");
    Begun begun(answer, 1);
    for (uint32_t index = 0; index < kPieces; ++index) {
        for (uint32_t choice = 0; choice < kChoices; ++choice) {
            wire::Piece many = piece(choice, index * 1024, index, "x");
            many.token_ids.assign(1024, UINT32_MAX);
            begun.say(many);
        }
    }
    const wire::Bytes bytes = begun.file();
    Process next(begun.journal, 2000);
    REQUIRE(next.api.restore(bytes)->bytes == bytes.size());
    next.api.on_tick(0);
    CHECK(next.all<wire::Resume>().empty());
    CHECK(next.api.running() == 0);
    CHECK(next.ask("GET", kAddress, "") == 200);
    CHECK(next.body().find("too large to be taken up") != std::string::npos);
}

TEST_CASE("a suspended stream is there again soon, or deleted") {
    for (const bool is_deleted : {false, true}) {
        Begun begun(executed(), 2);
        begun.fail("draining");
        Process& process = begun.process;
        CHECK(process.ask("GET", kAddress, "", "1") == 503);
        CHECK(process.body().find("restarting") != std::string::npos);
        CHECK(begun.journal.files.size() == 1);
        if (is_deleted) {
            CHECK(process.ask("DELETE", kAddress, "") == 204);
            CHECK(begun.journal.files.empty());
            CHECK(process.ask("GET", kAddress, "", "1") == 404);
        }
        process.api.on_tick(2 * kHttpResumeUs);
        CHECK(begun.journal.files.size() == (is_deleted ? 0 : 1));
    }
}

TEST_CASE("a stream whose journal broke off is left to the next process, too") {
    Begun begun(executed(), 1);
    begun.journal.appends = false;
    begun.say(executed().said[1]);
    begun.fail("draining");
    CHECK(begun.process.responder.answers.at(begun.reader).ended);
    CHECK(begun.process.responder.answers.at(begun.reader).body.find("draining") ==
          std::string::npos);
    CHECK(begun.journal.files.size() == 1);
}

TEST_CASE("an answer that fails before it is where its client is says that it has ended") {
    const Answer answer = executed();
    Begun begun(answer, 1);  // of two tokens the journal knows none
    Process next(begun.journal, 2000);
    const wire::Bytes bytes = begun.file();
    next.restore(bytes);
    CHECK(next.ask("GET", kAddress, "", "2") == 503);
    wire::Failure failure;
    failure.request_id = begun.id;
    failure.code = "no_route";
    next.api.on_router(failure, 0);
    CHECK(next.ask("GET", kAddress, "", "2") == 410);
    CHECK(next.ask("GET", kAddress, "") == 200);
    CHECK(next.body().find("no_route") != std::string::npos);
    CHECK(next.ask("GET", kAddress, "", "x") == 400);
}

TEST_CASE("an answer keeps the model and the fingerprint that it was computed under") {
    Answer answer = two_choices();
    auto& told = std::get<wire::Accepted>(answer.said[0]);
    told.fingerprint = "ffffffffffffffff";
    told.model = "other";
    Begun begun(answer, answer.said.size());
    const std::string stream = begun.process.responder.answers.at(begun.reader).body;
    Process next(begun.journal, 2000);
    const wire::Bytes bytes = begun.file();
    next.restore(bytes);
    CHECK(next.ask("GET", kAddress, "") == 200);
    CHECK(next.body().find("fp_ffffffffffffffff") != std::string::npos);
    CHECK(next.body().find("\"model\":\"other\"") != std::string::npos);
    CHECK(begun.journal.closed == std::vector<std::string>{"abc"});
}

TEST_CASE("the time of restored streams begins when the process is up") {
    constexpr TimeUs kStart = 500 * kSecondUs;  // it took that long to read the journal
    for (const size_t messages : {size_t{2}, executed().said.size()}) {
        Begun begun(executed(), messages);
        Process next(begun.journal, 2000);
        const wire::Bytes bytes = begun.file();
        REQUIRE(next.api.restore(bytes).has_value());
        next.api.on_tick(kStart);
        next.api.on_tick(kStart + kHttpResumeUs - kSecondUs);
        CHECK(begun.journal.files.size() == 1);
        next.api.on_tick(kStart + kHttpResumeUs + kSecondUs);
        CHECK(begun.journal.files.empty());
    }
}
