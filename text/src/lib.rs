//! The text side of ChatLoop: Hugging Face `tokenizers` and `minijinja` behind a C ABI (ffi.rs).
//! One thread only: nothing here uses the batch functions, the only ones that would start rayon.

mod chat;
mod config;
mod error;
mod ffi;
mod ffi_grammar;
mod grammar;
mod messages;
mod spans;
mod stream;
mod template;
mod tokenizer;
