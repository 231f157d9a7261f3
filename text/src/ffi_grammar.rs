//! The C ABI of constraints, declared in src/text/chatloop_text.h beside the rest (ffi.rs).

use crate::error::{Error, Result};
use crate::ffi::{guarded, slice, Engine, Text, TextSink};
use crate::grammar::{Kind, Matcher};

/// # Safety
/// Here and below: pointers as chatloop_text.h says, and one thread.
#[no_mangle]
pub unsafe extern "C" fn chatloop_text_matcher_new(
    engine: *const Engine,
    kind: u32,
    texts: *const Text,
    count: usize,
    out: *mut *mut Matcher,
    error: TextSink,
) -> i32 {
    guarded(error, || {
        let kind = Kind::from_code(kind).ok_or_else(|| Error::internal("no such constraint"))?;
        let texts = slice(texts, count)
            .iter()
            .map(|text| text.utf8("the constraint"))
            .collect::<Result<Vec<&str>>>()?;
        let vocabulary = (*engine).vocabulary.as_ref().ok_or_else(|| {
            Error::invalid_request("constraints are not served with this model's tokenizer")
        })?;
        let matcher = Matcher::compile(vocabulary, kind, &texts)?;
        *out = Box::into_raw(Box::new(matcher));
        Ok(())
    })
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn chatloop_text_matcher_commit(
    matcher: *mut Matcher,
    id: u32,
    error: TextSink,
) -> i32 {
    guarded(error, || (*matcher).commit(id))
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn chatloop_text_matcher_allowed(
    matcher: *mut Matcher,
    bits: TextSink,
    may_end: *mut bool,
    error: TextSink,
) -> i32 {
    guarded(error, || {
        let (mask, end) = (*matcher).allowed()?;
        bits.put_bytes(&mask);
        *may_end = end;
        Ok(())
    })
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn chatloop_text_matcher_fork(matcher: *const Matcher) -> *mut Matcher {
    Box::into_raw(Box::new((*matcher).fork()))
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn chatloop_text_matcher_free(matcher: *mut Matcher) {
    drop(Box::from_raw(matcher));
}
