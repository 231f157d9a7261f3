#include "chatloop/http/journal.hpp"

#include <algorithm>

#include "chatloop/core/hex.hpp"
#include "chatloop/core/limits.hpp"
#include "chatloop/http/json.hpp"
#include "chatloop/wire/crc.hpp"

namespace chatloop::http {

namespace {

enum class Kind : uint8_t { kHead = 1, kSubmit = 2, kMessage = 3, kTakenUp = 4 };

constexpr size_t kLengthAt = 0;
constexpr size_t kCrcAt = 4;
constexpr size_t kKindAt = 8;
constexpr size_t kPayloadAt = 9;

void store_u32(uint8_t* at, uint32_t value) {
    for (int i = 0; i < 4; ++i) at[i] = static_cast<uint8_t>(value >> (8 * i));
}

uint32_t load_u32(const uint8_t* at) {
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i) value |= uint32_t{at[i]} << (8 * i);
    return value;
}

void add_record(wire::Bytes& out, Kind kind, wire::ByteView payload) {
    const size_t begin = out.size();
    out.resize(begin + kPayloadAt);
    out.insert(out.end(), payload.begin(), payload.end());
    uint8_t* record = out.data() + begin;
    record[kKindAt] = static_cast<uint8_t>(kind);
    store_u32(record + kLengthAt, static_cast<uint32_t>(payload.size()));
    store_u32(record + kCrcAt,
              wire::crc32c(wire::ByteView(record + kKindAt, payload.size() + 1)));
}

class Reader {
public:
    explicit Reader(wire::ByteView bytes) : bytes_(bytes) {}

    // The next record's payload; nothing at the end, and where another kind, a damaged or an
    // incomplete record stands.
    std::optional<wire::ByteView> next(Kind kind) {
        const wire::ByteView rest = bytes_.subspan(at_);
        if (rest.size() < kPayloadAt) return std::nullopt;
        const size_t length = load_u32(rest.data() + kLengthAt);
        if (length > rest.size() - kPayloadAt) return std::nullopt;
        if (rest[kKindAt] != static_cast<uint8_t>(kind)) return std::nullopt;
        if (wire::crc32c(rest.subspan(kKindAt, length + 1)) != load_u32(rest.data() + kCrcAt))
            return std::nullopt;
        at_ += kPayloadAt + length;
        return rest.subspan(kPayloadAt, length);
    }
    size_t at() const { return at_; }

private:
    wire::ByteView bytes_;
    size_t at_ = 0;
};

// As the server makes it of a socket address.
bool is_address(const std::string& text) {
    return text.find_first_not_of("0123456789abcdef.:") == text.npos && !text.empty();
}

std::optional<StreamHead> read_head(wire::ByteView payload) {
    const auto parsed = parse_object(
        std::string_view(reinterpret_cast<const char*>(payload.data()), payload.size()));
    const Json* json = std::get_if<Json>(&parsed);
    if (json == nullptr) return std::nullopt;
    std::optional<Problem> problem;
    Fields fields(*json, problem);
    StreamHead head;
    head.surface = static_cast<Surface>(
        fields.integer("surface", 0, static_cast<int64_t>(Surface::kExecute)).value_or(0));
    head.include_usage = fields.boolean("include_usage").value_or(false);
    head.has_tools = fields.boolean("has_tools").value_or(false);
    head.key = fields.text("key", kNameBytesMax);
    head.peer = fields.text("peer", kNameBytesMax);
    head.request_header = fields.text("request_header", kRequestIdBytesMax);
    head.id = fields.text("id", kRequestIdBytesMax);
    head.created = fields.integer("created", 0, INT64_MAX).value_or(0);
    const bool is_good = !fields.failed() && !head.key.empty() && is_hex(head.key) &&
                         is_address(head.peer) && is_plain_id(head.id) &&
                         is_plain_id(head.request_header);
    return is_good ? std::optional<StreamHead>(std::move(head)) : std::nullopt;
}

// What may follow what, so that whoever is told it need not doubt it.
class Conversation {
public:
    Conversation(const StreamHead& head, const wire::Accepted& accepted)
        : id_(head.id),
          prompt_entries_(head.parameters.prompt_logprobs ? accepted.prompt_ids.size() : 0),
          choices_(head.parameters.n) {}

    bool admits(const wire::RouterBody& message) {
        if (ended_) return false;
        if (const auto* piece = std::get_if<wire::Piece>(&message)) return admits_piece(*piece);
        if (const auto* prompt = std::get_if<wire::PromptPiece>(&message))
            return admits_prompt(*prompt);
        if (const auto* end = std::get_if<wire::ChoiceDone>(&message))
            return end->request_id == id_ && choices_.size() > 1 &&
                   end->choice < choices_.size();
        if (const auto* done = std::get_if<wire::Done>(&message))
            return ended_ = done->request_id == id_;
        if (const auto* failure = std::get_if<wire::Failure>(&message))
            return ended_ = failure->request_id == id_;
        return false;
    }

private:
    struct Said {
        uint32_t tokens = 0;
        uint64_t text_bytes = 0;
    };
    // The first token has no log-probability, and comes alone.
    bool admits_prompt(const wire::PromptPiece& piece) {
        const size_t end = piece.index + piece.entries.size();
        const bool is_first = piece.index == 0;
        if (piece.request_id != id_ || piece.entries.empty() || end > prompt_entries_ ||
            piece.index > entries_ || is_first != !piece.entries.front().has_value() ||
            (is_first && piece.entries.size() > 1))
            return false;
        entries_ = std::max(entries_, end);
        return true;
    }
    bool admits_piece(const wire::Piece& piece) {
        if (piece.request_id != id_ || piece.choice >= choices_.size()) return false;
        Said& said = choices_[piece.choice];
        if (piece.index > said.tokens || piece.text_offset > said.text_bytes) return false;
        said.tokens = std::max<uint32_t>(
            said.tokens, piece.index + static_cast<uint32_t>(piece.token_ids.size()));
        said.text_bytes = std::max(said.text_bytes, piece.text_offset + piece.text.size());
        return said.tokens <= kPromptIdsMax;
    }

    std::string id_;
    size_t prompt_entries_;  // that there may be
    size_t entries_ = 0;
    std::vector<Said> choices_;
    bool ended_ = false;
};

}  // namespace

wire::Bytes journal_begin(const StreamHead& head, const wire::Accepted& accepted) {
    const std::string text = to_text({{"surface", static_cast<int>(head.surface)},
                                      {"include_usage", head.include_usage},
                                      {"has_tools", head.has_tools},
                                      {"key", head.key},
                                      {"peer", head.peer},
                                      {"request_header", head.request_header},
                                      {"id", head.id},
                                      {"created", head.created}});
    wire::Bytes out;
    add_record(out, Kind::kHead,
               wire::ByteView(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
    add_record(out, Kind::kSubmit, wire::encode_client(wire::Submit{head.id, head.parameters}));
    add_record(out, Kind::kMessage, wire::encode_router(accepted));
    return out;
}

wire::Bytes journal_message(const wire::RouterBody& message) {
    wire::Bytes out;
    add_record(out, Kind::kMessage, wire::encode_router(message));
    return out;
}

wire::Bytes journal_taken_up() {
    wire::Bytes out;
    add_record(out, Kind::kTakenUp, {});
    return out;
}

std::optional<JournaledStream> read_journal(wire::ByteView bytes) {
    Reader reader(bytes);
    JournaledStream stream;
    const auto head_bytes = reader.next(Kind::kHead);
    std::optional<StreamHead> head = head_bytes ? read_head(*head_bytes) : std::nullopt;
    const auto submit_bytes = head ? reader.next(Kind::kSubmit) : std::nullopt;
    if (!submit_bytes) return std::nullopt;
    auto asked = wire::decode_client(*submit_bytes);
    auto* body = std::get_if<wire::ClientBody>(&asked);
    auto* submit = body == nullptr ? nullptr : std::get_if<wire::Submit>(body);
    if (submit == nullptr || submit->request_id != head->id) return std::nullopt;
    stream.head = std::move(*head);
    stream.head.parameters = std::move(submit->parameters);
    const auto message = [&]() -> std::optional<wire::RouterBody> {
        const auto payload = reader.next(Kind::kMessage);
        if (!payload) return std::nullopt;
        Result<wire::RouterBody> decoded = wire::decode_router(*payload);
        if (!decoded) return std::nullopt;
        return std::move(*decoded);
    };
    std::optional<wire::RouterBody> first = message();
    auto* accepted = first ? std::get_if<wire::Accepted>(&*first) : nullptr;
    if (accepted == nullptr || accepted->request_id != stream.head.id) return std::nullopt;
    stream.accepted = std::move(*accepted);
    Conversation conversation(stream.head, stream.accepted);
    stream.bytes = reader.at();
    while (true) {
        if (reader.next(Kind::kTakenUp)) {
            ++stream.taken_up;
        } else if (auto next = message(); next && conversation.admits(*next)) {
            stream.messages.push_back(std::move(*next));
            stream.taken_up = 0;
        } else {
            return stream;
        }
        stream.bytes = reader.at();
    }
}

}  // namespace chatloop::http
