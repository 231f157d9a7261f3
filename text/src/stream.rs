//! Incremental decoding. What push() returned and finish() returns is together the decoding of all
//! ids, and every piece is whole characters.
//!
//! Only a short window of ids is decoded again for each new one: the ids since the chunk before
//! last, because decoders look at what stands before a token (a leading space is dropped only at
//! the start of a text).

use std::rc::Rc;

use crate::error::Result;
use crate::tokenizer::Tokenizer;

const WINDOW_IDS_MAX: usize = 64; // reached only by a run of ids that never complete a character
const WINDOW_IDS_KEPT: usize = 8; // more than a character has bytes
const HELD_CHARS_MAX: usize = 3; // a character of four bytes misses its last at most

pub struct Stream {
    tokenizer: Rc<Tokenizer>,
    skip_special: bool,
    ids: Vec<u32>,
    chunk_start: usize,   // index in ids of what came after the last complete text
    emitted_bytes: usize, // of the decoded window
    decoded: String,      // the decoded window
}

impl Stream {
    pub fn new(tokenizer: Rc<Tokenizer>, skip_special: bool) -> Self {
        Self {
            tokenizer,
            skip_special,
            ids: Vec::new(),
            chunk_start: 0,
            emitted_bytes: 0,
            decoded: String::new(),
        }
    }

    /// The text that became complete, often none in the middle of a character.
    pub fn push(&mut self, id: u32) -> Result<String> {
        if self.tokenizer.is_skipped(id, self.skip_special) {
            return Ok(String::new());
        }
        self.ids.push(id);
        self.decoded = self.tokenizer.decode(&self.ids, self.skip_special)?;
        let text = self.take(self.complete_bytes());
        if self.emitted_bytes == self.decoded.len() && !text.is_empty() {
            self.forget(self.chunk_start)?;
            self.chunk_start = self.ids.len();
        } else if self.ids.len() >= WINDOW_IDS_MAX {
            self.forget(self.ids.len() - WINDOW_IDS_KEPT)?;
            self.chunk_start = 0;
        }
        Ok(text)
    }

    /// What was held back: the bytes of an incomplete character as U+FFFD. The stream starts anew.
    pub fn finish(&mut self) -> String {
        let text = self.take(self.decoded.len());
        *self = Self::new(self.tokenizer.clone(), self.skip_special);
        text
    }

    /// The bytes of the window's text that no later id can change. An incomplete character is one
    /// U+FFFD of a byte-level decoder and up to three of a byte-fallback one; the ones before
    /// those are bytes that are no text, and final.
    fn complete_bytes(&self) -> usize {
        let mut end = self.decoded.len();
        for _ in 0..HELD_CHARS_MAX {
            match self.decoded[..end].strip_suffix(char::REPLACEMENT_CHARACTER) {
                Some(rest) => end = rest.len(),
                None => break,
            }
        }
        end
    }

    fn take(&mut self, end: usize) -> String {
        // A byte-fallback decoder may turn a whole run of bytes into U+FFFD when a bad one joins
        // it. What was sent cannot be taken back, so go on at the next whole character.
        let mut start = self.emitted_bytes.min(self.decoded.len());
        while !self.decoded.is_char_boundary(start) {
            start += 1;
        }
        if end <= start {
            return String::new();
        }
        self.emitted_bytes = end;
        self.decoded[start..end].to_owned()
    }

    /// Drops the first `count` ids; what is held back stays held back.
    fn forget(&mut self, count: usize) -> Result<()> {
        let held_bytes = self.decoded.len() - self.emitted_bytes.min(self.decoded.len());
        self.ids.drain(..count);
        self.decoded = self.tokenizer.decode(&self.ids, self.skip_special)?;
        self.emitted_bytes = self.decoded.len().saturating_sub(held_bytes);
        Ok(())
    }
}
