//! Which bytes of a rendered chat come from its users.
//!
//! The contents are rendered as nonces; putting the contents back must give the real rendering,
//! byte for byte. Then the places of the nonces are the users' spans. It does not when the template
//! looks into a content or changes it; then the caller tries another marking.

use std::collections::HashSet;
use std::ops::Range;

const NONCE_WORD: &str = "chatloop-nonce-";

/// Texts with their marked parts taken out and nonces put in.
pub struct Marking {
    prefix: String,        // starts every nonce of this marking, and occurs in no text
    replaced: Vec<String>, // by nonce number
    pub contents: Vec<String>,
}

impl Marking {
    /// Marks parts(index, content) of every content: ascending ranges. `others` are the texts beside
    /// the contents that may reach the rendering.
    pub fn new<'a>(
        contents: &[&'a str],
        others: &[&str],
        parts: impl Fn(usize, &'a str) -> Vec<Range<usize>>,
    ) -> Self {
        let prefix = unused_prefix(contents.iter().chain(others).copied());
        let mut marking = Self { prefix, replaced: Vec::new(), contents: Vec::new() };
        for (index, content) in contents.iter().enumerate() {
            let mut marked = String::with_capacity(content.len());
            let mut at = 0;
            for part in parts(index, content) {
                marked.push_str(&content[at..part.start]);
                marked.push_str(&format!("{}{}.", marking.prefix, marking.replaced.len()));
                at = part.end;
                marking.replaced.push(content[part].to_owned());
            }
            marked.push_str(&content[at..]);
            marking.contents.push(marked);
        }
        marking
    }

    pub fn is_empty(&self) -> bool {
        self.replaced.is_empty()
    }

    /// The spans of `real` that the marked parts fill, if `rendered` (made from the marked
    /// contents) with the parts put back is `real`.
    pub fn spans(&self, rendered: &str, real: &str) -> Option<Vec<Range<usize>>> {
        let mut spans = Vec::new();
        let mut real_at = 0;
        let mut pieces = rendered.split(self.prefix.as_str());
        let mut literal = pieces.next()?;
        loop {
            if !real[real_at..].starts_with(literal) {
                return None;
            }
            real_at += literal.len();
            let Some(piece) = pieces.next() else { break };
            let (number, rest) = piece.split_once('.')?;
            let part = self.replaced.get(number.parse::<usize>().ok()?)?;
            if !real[real_at..].starts_with(part.as_str()) {
                return None;
            }
            spans.push(real_at..real_at + part.len());
            real_at += part.len();
            literal = rest;
        }
        (real_at == real.len()).then_some(spans)
    }
}

/// A prefix with the smallest number that no text uses: one pass, whatever the texts contain.
fn unused_prefix<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut used = HashSet::new();
    for text in texts {
        for (at, word) in text.match_indices(NONCE_WORD) {
            let digits = text[at + word.len()..].bytes().take(9).take_while(u8::is_ascii_digit);
            used.insert(digits.fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0')));
        }
    }
    let number = (0..).find(|number| !used.contains(number)).unwrap_or_default();
    format!("{NONCE_WORD}{number}-")
}

/// Content without its outer white space: templates trim, and a nonce between the same white space
/// is trimmed just so.
pub fn trimmed_whole(content: &str) -> Vec<Range<usize>> {
    let core = content.trim();
    if core.is_empty() {
        return Vec::new();
    }
    let start = content.len() - content.trim_start().len();
    vec![start..start + core.len()]
}
