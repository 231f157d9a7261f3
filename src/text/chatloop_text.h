/* The C ABI of the crate text/ (its ffi.rs). One thread. A call returns 0, or one of the codes
 * below after it gave one line of UTF-8 to the error sink; a result sink is called at most once. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum ChatloopTextCode {
    CHATLOOP_TEXT_OK = 0,
    CHATLOOP_TEXT_NOT_UTF8 = 1,
    CHATLOOP_TEXT_INVALID_REQUEST = 2,
    CHATLOOP_TEXT_BAD_FILE = 3,
    CHATLOOP_TEXT_INTERNAL = 4,
};

typedef struct ChatloopTextEngine ChatloopTextEngine;
typedef struct ChatloopTextStream ChatloopTextStream; /* may outlive its engine */
typedef struct ChatloopTextMatcher ChatloopTextMatcher; /* this too */

typedef struct ChatloopText {
    const uint8_t* data; /* borrowed for the call; any bytes */
    size_t bytes;
} ChatloopText;

typedef struct ChatloopTextMessage {
    ChatloopText role;
    ChatloopText content;
    bool has_content;
    ChatloopText tool_calls;   /* a JSON array, or empty */
    ChatloopText tool_call_id; /* or empty */
    ChatloopText name;         /* or empty */
} ChatloopTextMessage;

typedef struct ChatloopTextChat {
    const ChatloopTextMessage* messages;
    size_t count;
    ChatloopText tools;     /* a JSON array, or empty */
    ChatloopText arguments; /* of the template: a JSON object, or empty */
    bool add_generation_prompt;
} ChatloopTextChat;

typedef struct ChatloopTextSink {
    void* context;
    void (*take)(void* context, const uint8_t* data, size_t bytes); /* UTF-8, valid for the call */
} ChatloopTextSink;

typedef struct ChatloopTextIdSink {
    void* context;
    void (*take)(void* context, const uint32_t* ids, size_t count);
} ChatloopTextIdSink;

int32_t chatloop_text_load(ChatloopText folder, ChatloopTextEngine** out, ChatloopTextSink error);
void chatloop_text_free(ChatloopTextEngine* engine);
size_t chatloop_text_vocab_size(const ChatloopTextEngine* engine);
int32_t chatloop_text_encode_plain(const ChatloopTextEngine* engine, ChatloopText text,
                                   ChatloopTextIdSink ids, ChatloopTextSink error);
int32_t chatloop_text_encode_chat(const ChatloopTextEngine* engine,
                                  const ChatloopTextChat* chat, ChatloopTextIdSink ids,
                                  ChatloopTextSink error);
int32_t chatloop_text_render_chat(const ChatloopTextEngine* engine,
                                  const ChatloopTextChat* chat, ChatloopTextSink text,
                                  ChatloopTextSink error);
/* Not called if there is no template. */
void chatloop_text_chat_template(const ChatloopTextEngine* engine, ChatloopTextSink text);
int32_t chatloop_text_decode(const ChatloopTextEngine* engine, const uint32_t* ids, size_t count,
                             bool skip_special, ChatloopTextSink text, ChatloopTextSink error);

ChatloopTextStream* chatloop_text_stream_new(const ChatloopTextEngine* engine, bool skip_special);
int32_t chatloop_text_stream_push(ChatloopTextStream* stream, uint32_t id, ChatloopTextSink text,
                                  ChatloopTextSink error);
void chatloop_text_stream_finish(ChatloopTextStream* stream, ChatloopTextSink text);
void chatloop_text_stream_free(ChatloopTextStream* stream);

/* kind: ConstraintKind of core/constraint.hpp. */
int32_t chatloop_text_matcher_new(const ChatloopTextEngine* engine, uint32_t kind,
                                  const ChatloopText* texts, size_t count,
                                  ChatloopTextMatcher** out, ChatloopTextSink error);
int32_t chatloop_text_matcher_commit(ChatloopTextMatcher* matcher, uint32_t id,
                                     ChatloopTextSink error);
/* bits: bytes, not text; id i is bit i % 8 of byte i / 8. */
int32_t chatloop_text_matcher_allowed(ChatloopTextMatcher* matcher, ChatloopTextSink bits,
                                      bool* may_end, ChatloopTextSink error);
ChatloopTextMatcher* chatloop_text_matcher_fork(const ChatloopTextMatcher* matcher);
void chatloop_text_matcher_free(ChatloopTextMatcher* matcher);

#ifdef __cplusplus
}
#endif
