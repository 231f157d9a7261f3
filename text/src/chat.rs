//! A chat to ids: the template's special tokens are tokens, the users' are text.
//!
//! 1. Render the chat, and render it with nonces for the contents (spans.rs): the spans of the
//!    rendered text that come from users are known.
//! 2. The special tokens between those spans are the template's own. If they are all that the
//!    tokenizer finds in the whole text, no user wrote or completed one: the whole text is encoded
//!    at once, which is what Hugging Face does, so the ids are the same by construction.
//! 3. Otherwise the text is cut at the template's special tokens and every section between them is
//!    encoded with special tokens as text. A special token always separates sections, in Hugging
//!    Face's encoding too, so the rest of the chat has the ids it has without the intrusion.
//!
//! Of the strings in tools and tool calls only the parts that spell a special token are marked: what
//! a template writes of them is JSON, or it compares them. Where a template looks into the contents
//! too, or changes more than their outer white space, the same holds for those. Should that not
//! match either, the chat is refused. (This marking cannot see a special token that the template
//! itself would assemble from two pieces of such texts.)
//!
//! Everything is linear in the bytes of the chat: three renderings at most, two searches, one encode.

use std::ops::Range;

use crate::error::{Error, Result};
pub use crate::messages::Chat;
use crate::messages::Place;
use crate::spans::{trimmed_whole, Marking};
use crate::template::Template;
use crate::tokenizer::{Match, Special, Tokenizer};

pub fn render(template: &mut Template, chat: &Chat, add_generation_prompt: bool) -> Result<String> {
    template.render(chat, &plain_texts(chat), add_generation_prompt)
}

pub fn encode(
    tokenizer: &Tokenizer,
    template: &mut Template,
    chat: &Chat,
    add_generation_prompt: bool,
) -> Result<Vec<u32>> {
    let text = render(template, chat, add_generation_prompt)?;
    let found = tokenizer.special_matches(&text);
    let spans = user_spans(tokenizer, template, chat, add_generation_prompt, &text)?;
    let own = template_matches(tokenizer, &text, &spans);
    if same_matches(&found, &own) {
        return tokenizer.encode(&text, Special::Recognized, false);
    }
    encode_sections(tokenizer, &text, &own)
}

fn plain_texts(chat: &Chat) -> Vec<&str> {
    chat.texts().into_iter().map(|(_, text)| text).collect()
}

fn user_spans(
    tokenizer: &Tokenizer,
    template: &mut Template,
    chat: &Chat,
    add_generation_prompt: bool,
    text: &str,
) -> Result<Vec<Range<usize>>> {
    let texts = plain_texts(chat);
    let places: Vec<Place> = chat.texts().into_iter().map(|(place, _)| place).collect();
    let source = template.source().to_owned();
    let special_parts = |_: usize, text: &str| -> Vec<Range<usize>> {
        tokenizer.special_matches(text).into_iter().map(|found| found.start..found.end).collect()
    };
    let whole = Marking::new(&texts, &[&source], |index, text| match places[index] {
        Place::Content => trimmed_whole(text),
        Place::Structured => special_parts(index, text),
    });
    // A template may well refuse a nonce, or loop on it until the fuel is used up.
    if let Ok(rendered) = template.render(chat, &whole.contents, add_generation_prompt) {
        if let Some(spans) = whole.spans(&rendered, text) {
            return Ok(spans);
        }
    }
    let special = Marking::new(&texts, &[&source], special_parts);
    if special.is_empty() {
        return Ok(Vec::new());
    }
    let refused = || {
        Error::invalid_request(
            "a message spells a special token where the chat template changes messages",
        )
    };
    let rendered = template
        .render(chat, &special.contents, add_generation_prompt)
        .map_err(|_| refused())?;
    special.spans(&rendered, text).ok_or_else(refused)
}

/// The special tokens in the text between the spans.
fn template_matches(tokenizer: &Tokenizer, text: &str, spans: &[Range<usize>]) -> Vec<Match> {
    let mut matches = Vec::new();
    let mut start = 0;
    for end_and_next in spans.iter().map(|span| (span.start, span.end)).chain([(text.len(), 0)]) {
        let (end, next) = end_and_next;
        for found in tokenizer.special_matches(&text[start..end]) {
            matches.push(Match { start: found.start + start, end: found.end + start, ..found });
        }
        start = next;
    }
    matches
}

/// A match in the whole text may be wider: its token may swallow white space of a content.
fn same_matches(whole: &[Match], own: &[Match]) -> bool {
    let covers = |(w, o): (&Match, &Match)| w.id == o.id && w.start <= o.start && o.end <= w.end;
    whole.len() == own.len() && whole.iter().zip(own).all(covers)
}

fn encode_sections(tokenizer: &Tokenizer, text: &str, own: &[Match]) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    let mut start = 0;
    let mut strip_start = false;
    for (index, next) in own.iter().map(Some).chain([None]).enumerate() {
        let (strip_end, strip_next) = next.map_or((false, false), |next| tokenizer.strips(next.id));
        let mut section = &text[start..next.map_or(text.len(), |next| next.start)];
        if strip_start {
            section = section.trim_start();
        }
        if strip_end {
            section = section.trim_end();
        }
        if !section.is_empty() {
            ids.extend(match index {
                0 => tokenizer.encode(section, Special::AsText, false)?,
                _ => tokenizer.encode_continuation(section, Special::AsText)?,
            });
        }
        if let Some(next) = next {
            ids.push(next.id);
            start = next.end;
            strip_start = strip_next;
        }
    }
    Ok(ids)
}
