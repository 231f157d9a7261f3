//! The C ABI, declared in src/text/chatloop_text.h. Results and error messages are handed to sinks,
//! so no memory changes owner; a panic becomes an error.

use std::cell::RefCell;
use std::ffi::c_void;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::rc::Rc;

use crate::chat;
use crate::config;
use crate::error::{Code, Error, Result};
use crate::stream::Stream;
use crate::template::{Message, Template};
use crate::tokenizer::{Special, Tokenizer};

pub struct Engine {
    tokenizer: Rc<Tokenizer>,
    template: Option<RefCell<Template>>,
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
    unsafe fn utf8<'a>(&self, what: &str) -> Result<&'a str> {
        std::str::from_utf8(slice(self.data, self.bytes))
            .map_err(|_| Error::new(Code::NotUtf8, format!("{what} is not UTF-8")))
    }
}

impl TextSink {
    unsafe fn put(&self, text: &str) {
        (self.take)(self.context, text.as_ptr(), text.len());
    }
}

impl IdSink {
    unsafe fn put(&self, ids: &[u32]) {
        (self.take)(self.context, ids.as_ptr(), ids.len());
    }
}

unsafe fn slice<'a, T>(data: *const T, count: usize) -> &'a [T] {
    if count == 0 {
        return &[];
    }
    std::slice::from_raw_parts(data, count)
}

/// 0, or the error's code with its message in the sink.
unsafe fn guarded(error: TextSink, body: impl FnOnce() -> Result<()>) -> i32 {
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

unsafe fn chat_messages(messages: *const ChatMessage, count: usize) -> Result<Vec<Message>> {
    slice(messages, count)
        .iter()
        .map(|message| {
            let role = message.role.utf8("a message's role")?.to_owned();
            let content = message.content.utf8("a message's content")?.to_owned();
            Ok(Message { role, content })
        })
        .collect()
}

impl Engine {
    fn load(folder: &Path) -> Result<Self> {
        let template = Template::compile(&config::load(folder)?)?;
        let tokenizer = Rc::new(Tokenizer::load(folder)?);
        Ok(Self { tokenizer, template: template.map(RefCell::new) })
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
    messages: *const ChatMessage,
    count: usize,
    add_generation_prompt: bool,
    ids: IdSink,
    error: TextSink,
) -> i32 {
    guarded(error, || {
        let engine = &*engine;
        let messages = chat_messages(messages, count)?;
        let mut template = engine.template()?;
        ids.put(&chat::encode(&engine.tokenizer, &mut template, &messages, add_generation_prompt)?);
        Ok(())
    })
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn chatloop_text_render_chat(
    engine: *const Engine,
    messages: *const ChatMessage,
    count: usize,
    add_generation_prompt: bool,
    text: TextSink,
    error: TextSink,
) -> i32 {
    guarded(error, || {
        let messages = chat_messages(messages, count)?;
        let mut template = (*engine).template()?;
        text.put(&chat::render(&mut template, &messages, add_generation_prompt)?);
        Ok(())
    })
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
