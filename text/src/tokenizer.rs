//! One tokenizer.json, encoded with special tokens recognized or as plain text, and decoded.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;

use tokenizers::{OffsetReferential, OffsetType, Tokenizer as HfTokenizer};

use crate::error::{Error, Result};

/// Whether the text of a special token becomes that token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Special {
    Recognized,
    AsText,
}

/// A special token found in a text. The range includes the white space that an `lstrip` or
/// `rstrip` token swallows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    pub id: u32,
    pub start: usize, // bytes
    pub end: usize,
}

pub struct Tokenizer {
    hf: RefCell<HfTokenizer>, // mutated only to flip encode_special_tokens
    // For text that follows a special token: some pre-tokenizers treat only the start of the whole
    // text specially (Metaspace with prepend_scheme "first").
    continuation: Option<RefCell<HfTokenizer>>,
}

impl Tokenizer {
    pub fn load(folder: &Path) -> Result<Self> {
        tokenizers::utils::parallelism::set_parallelism(false);
        let path = folder.join("tokenizer.json");
        let json = std::fs::read_to_string(&path)
            .map_err(|cause| Error::bad_file(format!("{}: {cause}", path.display())))?;
        let hf = parse(&json)?;
        Ok(Self {
            hf: RefCell::new(hf),
            continuation: continuation_json(&json)
                .map(|json| parse(&json))
                .transpose()?
                .map(RefCell::new),
        })
    }

    pub fn vocab_size(&self) -> usize {
        // Ids may have gaps, so that the number of tokens is not the bound of the ids.
        let hf = self.hf.borrow();
        let added_end = hf.get_added_vocabulary().get_added_tokens_decoder().keys().max();
        hf.get_vocab_size(true).max(added_end.map_or(0, |&id| id as usize + 1))
    }

    /// Whether `skip_special` leaves the token out, as it does an id without a token.
    pub fn is_skipped(&self, id: u32, skip_special: bool) -> bool {
        let hf = self.hf.borrow();
        match hf.id_to_token(id) {
            Some(token) => skip_special && hf.get_added_vocabulary().is_special_token(&token),
            None => true,
        }
    }

    /// `add_bos`: let the post-processor add what it adds to every text (BOS, mostly).
    pub fn encode(&self, text: &str, special: Special, add_bos: bool) -> Result<Vec<u32>> {
        encode(&self.hf, text, special, add_bos)
    }

    /// As encode(), for text that comes after a special token.
    pub fn encode_continuation(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        encode(self.continuation.as_ref().unwrap_or(&self.hf), text, special, false)
    }

    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.hf.borrow().decode(ids, skip_special).map_err(Error::internal)
    }

    /// The bytes of the text of every id, in order; behind `special_marker` for what is no text (a
    /// special token, an id without a token). None if the tokenizer's decoder is not understood.
    pub fn token_bytes(&self, special_marker: u8) -> Option<Vec<Vec<u8>>> {
        let hf = self.hf.borrow();
        let spelling = Spelling::of(&serde_json::to_value(hf.get_decoder()?).ok()?)?;
        let added = hf.get_added_vocabulary().get_added_tokens_decoder();
        let marked = |name: &str| [&[special_marker], name.as_bytes()].concat();
        let bytes_of = |id: u32| {
            let Some(token) = hf.id_to_token(id) else { return marked(&format!("<[{id}]>")) };
            match added.get(&id) {
                Some(known) if known.special => marked(&token),
                Some(_) => token.into_bytes(),
                None => spelling.bytes(&token).unwrap_or_else(|| marked(&format!("<[{id}]>"))),
            }
        };
        Some((0..self.vocab_size() as u32).map(bytes_of).collect())
    }

    /// Every special token in the text, found by the tokenizer's own matcher.
    pub fn special_matches(&self, text: &str) -> Vec<Match> {
        let mut hf = self.hf.borrow_mut();
        hf.set_encode_special_tokens(false);
        let vocabulary = hf.get_added_vocabulary();
        let decoder = vocabulary.get_added_tokens_decoder();
        vocabulary
            .extract_and_normalize(hf.get_normalizer(), text)
            .get_splits(OffsetReferential::Original, OffsetType::Byte)
            .into_iter()
            .filter_map(|(_, (start, end), tokens)| {
                let id = tokens.as_ref()?.first()?.id;
                decoder.get(&id)?.special.then_some(Match { id, start, end })
            })
            .collect()
    }

    /// Whether the token swallows the white space before and after it.
    pub fn strips(&self, id: u32) -> (bool, bool) {
        let hf = self.hf.borrow();
        let decoder = hf.get_added_vocabulary().get_added_tokens_decoder();
        decoder.get(&id).map_or((false, false), |token| (token.lstrip, token.rstrip))
    }
}

/// How a decoder makes bytes of a token.
enum Spelling {
    ByteLevel(HashMap<char, u8>),
    // <0xNN> is a byte if `byte_fallback`; `space` stands for a space.
    Plain { byte_fallback: bool, space: Option<String> },
}

impl Spelling {
    /// `decoder`: as tokenizer.json has it.
    fn of(decoder: &serde_json::Value) -> Option<Self> {
        let mut types = Vec::new();
        collect_decoders(decoder, &mut types);
        let find = |name: &str| types.iter().find(|one| one["type"] == name);
        if find("ByteLevel").is_some() {
            return Some(Self::ByteLevel(byte_level_alphabet()));
        }
        let replaced = types.iter().find(|one| one["type"] == "Replace" && one["content"] == " ");
        let space = replaced.and_then(|one| one["pattern"]["String"].as_str());
        let space = space.or_else(|| find("Metaspace")?["replacement"].as_str());
        let byte_fallback = find("ByteFallback").is_some();
        (byte_fallback || space.is_some())
            .then(|| Self::Plain { byte_fallback, space: space.map(str::to_owned) })
    }

    fn bytes(&self, token: &str) -> Option<Vec<u8>> {
        match self {
            Self::ByteLevel(alphabet) => {
                token.chars().map(|one| alphabet.get(&one).copied()).collect()
            }
            Self::Plain { byte_fallback, space } => {
                let hex = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                let byte = hex.filter(|hex| *byte_fallback && hex.len() == 2);
                if let Some(byte) = byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                    return Some(vec![byte]);
                }
                let text = match space {
                    Some(space) => token.replace(space.as_str(), " "),
                    None => token.to_owned(),
                };
                Some(text.into_bytes())
            }
        }
    }
}

fn collect_decoders<'a>(decoder: &'a serde_json::Value, out: &mut Vec<&'a serde_json::Value>) {
    match decoder["decoders"].as_array() {
        Some(members) => members.iter().for_each(|member| collect_decoders(member, out)),
        None => out.push(decoder),
    }
}

/// The printable characters that byte-level BPE (GPT-2) writes for the 256 bytes: themselves where
/// they are visible, else the next of those from U+0100 on.
fn byte_level_alphabet() -> HashMap<char, u8> {
    let mut others = 0x100u32..;
    let visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let spell = |byte: u8| if visible(byte) { Some(byte.into()) } else { others.next() };
    (0..=255u8).map(spell).filter_map(|code| char::from_u32(code?)).zip(0..=255u8).collect()
}

fn parse(json: &str) -> Result<HfTokenizer> {
    let bad_file = |cause| Error::bad_file(format!("tokenizer.json: {cause}"));
    let mut hf = HfTokenizer::from_bytes(json).map_err(bad_file)?;
    // As `transformers` does: a file may have been saved with the settings of its training.
    hf.with_truncation(None).map_err(bad_file)?;
    hf.with_padding(None);
    Ok(hf)
}

fn encode(
    hf: &RefCell<HfTokenizer>,
    text: &str,
    special: Special,
    add_bos: bool,
) -> Result<Vec<u32>> {
    let mut hf = hf.borrow_mut();
    hf.set_encode_special_tokens(special == Special::AsText);
    let encoding = hf
        .encode_fast(text, add_bos)
        .map_err(|cause| Error::invalid_request(format!("text cannot be tokenized: {cause}")))?;
    Ok(encoding.get_ids().to_vec())
}

fn continuation_json(json: &str) -> Option<String> {
    let mut value: serde_json::Value = serde_json::from_str(json).ok()?;
    let mut changed = false;
    mark_not_first(value.get_mut("pre_tokenizer")?, &mut changed);
    changed.then(|| value.to_string())
}

fn mark_not_first(value: &mut serde_json::Value, changed: &mut bool) {
    if let Some(scheme) = value.get_mut("prepend_scheme").filter(|scheme| *scheme == "first") {
        *scheme = "never".into();
        *changed = true;
    }
    if let Some(members) = value.get_mut("pretokenizers").and_then(|list| list.as_array_mut()) {
        members.iter_mut().for_each(|member| mark_not_first(member, changed));
    }
}
