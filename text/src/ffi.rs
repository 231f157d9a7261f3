//! The C ABI, declared in src/text/chatloop_text.h. Results and error messages are handed to sinks,
//! so no memory changes owner; a panic becomes an error.

use std::cell::RefCell;
use std::ffi::c_void;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::rc::Rc;

use crate::chat::{self, Chat};
use crate::config;
use crate::error::{Code, Error, Result};
use crate::grammar::Vocabulary;
use crate::messages::Message;
use crate::stream::Stream;
use crate::template::Template;
use crate::tokenizer::{Special, Tokenizer};

pub struct Engine {
    pub(crate) tokenizer: Rc<Tokenizer>,
    template: Option<RefCell<Template>>,
    pub(crate) vocabulary: Option<Vocabulary>, // None: no constraints with this tokenizer
}

/// Borrowed bytes, not yet known to be UTF-8. `data` may be null when `bytes` is 0.
#[repr(C)]
pub struct Text {
    data: *const u8,
    bytes: usize,
}

#[repr(C)]
pub struct ChatMessage {
    role: Text,
    content: Text,
    has_content: bool,
    tool_calls: Text,   // a JSON array, or empty
    tool_call_id: Text, // or empty
    name: Text,         // or empty
}

#[repr(C)]
pub struct ChatRequest {
    messages: *const ChatMessage,
    count: usize,
    tools: Text,     // a JSON array, or empty
    arguments: Text, // a JSON object, or empty
    add_generation_prompt: bool,
}

#[repr(C)]
pub struct TextSink {
    context: *mut c_void,
    take: unsafe extern "C" fn(*mut c_void, *const u8, usize),
}

#[repr(C)]
pub struct IdSink {
    context: *mut c_void,
    take: unsafe extern "C" fn(*mut c_void, *const u32, usize),
}

impl Text {
    pub(crate) unsafe fn utf8<'a>(&self, what: &str) -> Result<&'a str> {
        std::str::from_utf8(slice(self.data, self.bytes))
            .map_err(|_| Error::new(Code::NotUtf8, format!("{what} is not UTF-8")))
    }
}

impl TextSink {
    unsafe fn put(&self, text: &str) {
        self.put_bytes(text.as_bytes());
    }

    pub(crate) unsafe fn put_bytes(&self, bytes: &[u8]) {
        (self.take)(self.context, bytes.as_ptr(), bytes.len());
    }
}

impl IdSink {
    unsafe fn put(&self, ids: &[u32]) {
        (self.take)(self.context, ids.as_ptr(), ids.len());
    }
}

pub(crate) unsafe fn slice<'a, T>(data: *const T, count: usize) -> &'a [T] {
    if count == 0 {
        return &[];
    }
    std::slice::from_raw_parts(data, count)
}

/// 0, or the error's code with its message in the sink.
pub(crate) unsafe fn guarded(error: TextSink, body: impl FnOnce() -> Result<()>) -> i32 {
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
        Err(Error::internal(format!("text engine panicked: {said}")))
    });
    match outcome {
        Ok(()) => 0,
        Err(failure) => {
            error.put(&failure.message);
            failure.code as i32
        }
    }
}

impl ChatMessage {
    unsafe fn read(&self) -> Result<Message> {
        let content = self.content.utf8("a message's content")?;
        Message::new(
            self.role.utf8("a message's role")?,
            self.has_content.then_some(content),
            self.tool_calls.utf8("a message's tool_calls")?,
            self.tool_call_id.utf8("a message's tool_call_id")?,
            self.name.utf8("a message's name")?,
        )
    }
}

impl ChatRequest {
    unsafe fn read(&self) -> Result<Chat> {
        let messages = slice(self.messages, self.count)
            .iter()
            .map(|message| message.read())
            .collect::<Result<Vec<Message>>>()?;
        let tools = self.tools.utf8("tools")?;
        Chat::new(messages, tools, self.arguments.utf8("chat_template_kwargs")?)
    }
}

impl Engine {
    fn load(folder: &Path) -> Result<Self> {
        let template = Template::compile(&config::load(folder)?)?;
        let tokenizer = Rc::new(Tokenizer::load(folder)?);
        let vocabulary = Vocabulary::new(&tokenizer)?;
        Ok(Self { tokenizer, template: template.map(RefCell::new), vocabulary })
    }

    fn template(&self) -> Result<std::cell::RefMut<'_, Template>> {
        let template = self.template.as_ref();
        let template =
            template.ok_or_else(|| Error::invalid_request("the model has no chat template"))?;
        Ok(template.borrow_mut())
    }
}

/// # Safety
/// Here and below: pointers as chatloop_text.h says, and one thread.
#[no_mangle]
pub unsafe extern "C" fn chatloop_text_load(
    folder: Text,
    out: *mut *mut Engine,
    error: TextSink,
) -> i32 {
    guarded(error, || {
        let engine = Engine::load(Path::new(folder.utf8("the tokenizer's path")?))?;
        *out = Box::into_raw(Box::new(engine));
        Ok(())
    })
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn chatloop_text_free(engine: *mut Engine) {
    drop(Box::from_raw(engine));
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn chatloop_text_vocab_size(engine: *const Engine) -> usize {
    (*engine).tokenizer.vocab_size()
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn chatloop_text_encode_plain(
    engine: *const Engine,
    text: Text,
    ids: IdSink,
    error: TextSink,
) -> i32 {
    guarded(error, || {
        let text = text.utf8("the text")?;
        ids.put(&(*engine).tokenizer.encode(text, Special::AsText, true)?);
        Ok(())
    })
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn chatloop_text_encode_chat(
    engine: *const Engine,
    chat: *const ChatRequest,
    ids: IdSink,
    error: TextSink,
) -> i32 {
    guarded(error, || {
        let engine = &*engine;
        let request = (*chat).read()?;
        let mut template = engine.template()?;
        let add_prompt = (*chat).add_generation_prompt;
        ids.put(&chat::encode(&engine.tokenizer, &mut template, &request, add_prompt)?);
        Ok(())
    })
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn chatloop_text_render_chat(
    engine: *const Engine,
    chat: *const ChatRequest,
    text: TextSink,
    error: TextSink,
) -> i32 {
    guarded(error, || {
        let request = (*chat).read()?;
        let mut template = (*engine).template()?;
        text.put(&chat::render(&mut template, &request, (*chat).add_generation_prompt)?);
        Ok(())
    })
}

/// The source of the chat template; not called if there is none.
/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn chatloop_text_chat_template(engine: *const Engine, text: TextSink) {
    if let Some(template) = &(*engine).template {
        text.put(template.borrow().source());
    }
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn chatloop_text_decode(
    engine: *const Engine,
    ids: *const u32,
    count: usize,
    skip_special: bool,
    text: TextSink,
    error: TextSink,
) -> i32 {
    guarded(error, || {
        text.put(&(*engine).tokenizer.decode(slice(ids, count), skip_special)?);
        Ok(())
    })
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn chatloop_text_stream_new(
    engine: *const Engine,
    skip_special: bool,
) -> *mut Stream {
    Box::into_raw(Box::new(Stream::new((*engine).tokenizer.clone(), skip_special)))
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn chatloop_text_stream_push(
    stream: *mut Stream,
    id: u32,
    text: TextSink,
    error: TextSink,
) -> i32 {
    guarded(error, || {
        text.put(&(*stream).push(id)?);
        Ok(())
    })
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn chatloop_text_stream_finish(stream: *mut Stream, text: TextSink) {
    text.put(&(*stream).finish());
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn chatloop_text_stream_free(stream: *mut Stream) {
    drop(Box::from_raw(stream));
}
