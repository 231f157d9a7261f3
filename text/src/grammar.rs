//! Constrained decoding: which tokens may come next, by llguidance over this tokenizer.
//!
//! The mask is a pure function of the constraint and the tokens committed so far: a matcher that is
//! rebuilt from those tokens gives the same masks. Work is bounded when a constraint is compiled and
//! again for every mask (LIMITS); what exceeds a bound is the request's error.

use std::sync::Arc;

use llguidance::api::{ParserLimits, StopReason, TopLevelGrammar};
use llguidance::toktrie::{
    ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId,
};
use llguidance::{ParserFactory, TokenParser};
use serde_json::{json, Value};

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// ChatloopTextConstraint of chatloop_text.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    JsonSchema,
    JsonObject,
    Regex,
    Lark,
    Choice,
}

impl Kind {
    pub fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::JsonSchema),
            2 => Some(Self::JsonObject),
            3 => Some(Self::Regex),
            4 => Some(Self::Lark),
            5 => Some(Self::Choice),
            _ => None,
        }
    }
}

/// Brackets within brackets: the grammars' parsers are recursive, and a stack has an end.
const NESTING_MAX: usize = 100;

/// Fuel is about 50,000 a millisecond at compile time and 14,000 in a mask.
const LIMITS: ParserLimits = ParserLimits {
    max_items_in_row: 2_000,
    initial_lexer_fuel: 1_000_000,
    step_lexer_fuel: 200_000,
    step_max_items: 50_000,
    max_lexer_states: 16_000, // of 1 to 2 KiB, in each matcher
    max_grammar_size: 100_000,
    precompute_large_lexemes: false,
    verbose_errors: false,
};

/// The tokens as a trie of bytes: made once for a tokenizer, before the loop runs, since it takes
/// longer than a unit of work may (0.1 s for 49152 tokens).
pub struct Vocabulary {
    factory: ParserFactory,
    ids: usize,
}

impl Vocabulary {
    /// None if it is not known what bytes the tokens are.
    pub fn new(tokenizer: &Tokenizer) -> Result<Option<Self>> {
        let marker = TokTrie::SPECIAL_TOKEN_MARKER;
        let Some(mut words) = tokenizer.token_bytes(marker) else { return Ok(None) };
        let ids = words.len();
        // The end of the text is a token of its own, behind the others: its bit in a mask is
        // "may end here", whatever the model's stop ids are.
        words.push([&[marker], "<chatloop-end>".as_bytes()].concat());
        let info = TokRxInfo::new(words.len() as u32, ids as TokenId);
        let trie = TokTrie::from(&info, &words);
        // Any tokenization of the text is allowed: the model chooses.
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = llguidance::earley::SlicedBiasComputer::json_slices();
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(Error::internal)?;
        factory.quiet();
        *factory.limits_mut() = LIMITS;
        Ok(Some(Self { factory, ids }))
    }
}

pub struct Matcher {
    parser: TokenParser,
    ids: usize,
}

impl Matcher {
    /// `texts`: the choices, or the one text of the other kinds; none for a JSON object.
    pub fn compile(vocabulary: &Vocabulary, kind: Kind, texts: &[&str]) -> Result<Self> {
        let grammar = grammar(kind, texts)?;
        let mut parser = vocabulary.factory.create_parser(grammar).map_err(refused)?;
        parser.start_without_prompt();
        parser.check_stop().map_err(refused)?;
        Ok(Self { parser, ids: vocabulary.ids })
    }

    /// The token that comes next; one that is not allowed is an error, after which nothing goes on.
    pub fn commit(&mut self, id: u32) -> Result<()> {
        let not_allowed = || Error::invalid_request(format!("the constraint forbids token {id}"));
        if id as usize >= self.ids || self.parser.stopped() {
            return Err(not_allowed());
        }
        let backtrack = self.parser.consume_token(id).map_err(|_| not_allowed())?;
        if backtrack != 0 {
            return Err(Error::invalid_request("the constraint takes text back"));
        }
        self.parser.check_stop().map_err(too_much_work)?;
        Ok(())
    }

    /// Bit i % 8 of byte i / 8 is whether id i may come next; and whether the text may end here.
    /// No bit and no end: the tokens cannot spell what the constraint asks for.
    pub fn allowed(&mut self) -> Result<(Vec<u8>, bool)> {
        let mut bits = vec![0u8; self.ids.div_ceil(8)];
        match self.parser.stop_reason() {
            StopReason::NotStopped => {}
            StopReason::NoExtension | StopReason::EndOfSentence => return Ok((bits, true)),
            reason => return Err(too_much_work(reason)),
        }
        let mask = match self.parser.compute_mask() {
            Ok(mask) => mask,
            Err(_) if self.parser.stop_reason() == StopReason::NoExtensionBias => {
                return Ok((bits, false));
            }
            Err(cause) => return Err(too_much_work(cause)),
        };
        let may_end = mask.is_allowed(self.ids as TokenId);
        for (bytes, word) in bits.chunks_mut(4).zip(mask.as_slice()) {
            bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
        }
        if self.ids % 8 != 0 {
            bits[self.ids / 8] &= (1u8 << (self.ids % 8)) - 1;
        }
        Ok((bits, may_end))
    }

    /// An independent one in the same state.
    pub fn fork(&self) -> Self {
        Self { parser: self.parser.deep_clone(), ids: self.ids }
    }
}

fn grammar(kind: Kind, texts: &[&str]) -> Result<TopLevelGrammar> {
    let one = || match texts {
        [text] if !text.is_empty() => Ok(*text),
        _ => Err(Error::invalid_request("a constraint is one text that is not empty")),
    };
    Ok(match kind {
        Kind::JsonSchema => json_grammar(
            serde_json::from_str(one()?)
                .map_err(|cause| Error::invalid_request(format!("json_schema: {cause}")))?,
        )?,
        Kind::JsonObject => json_grammar(json!({"type": "object"}))?,
        Kind::Regex => {
            check_nesting(one()?)?;
            TopLevelGrammar::from_regex(one()?)
        }
        Kind::Lark => {
            check_nesting(one()?)?;
            TopLevelGrammar::from_lark(one()?.to_owned())
        }
        Kind::Choice => {
            if texts.is_empty() || texts.iter().any(|text| text.is_empty()) {
                return Err(Error::invalid_request("a choice is of texts that are not empty"));
            }
            let quoted: Vec<String> = texts.iter().map(|text| json!(text).to_string()).collect();
            TopLevelGrammar::from_lark(format!("start: {}", quoted.join(" | ")))
        }
    })
}

fn json_grammar(schema: Value) -> Result<TopLevelGrammar> {
    let mut schema = match schema {
        Value::Bool(true) => json!({}),
        Value::Object(_) => schema,
        _ => return Err(Error::invalid_request("json_schema: a schema is a JSON object")),
    };
    // One line, with a space behind ':' and ',' if the model likes: with the freedom of JSON a small
    // model writes empty lines for ever.
    schema["x-guidance"] = json!({
        "whitespace_flexible": false,
        "item_separator": ", ?",
        "key_separator": ": ?",
    });
    Ok(TopLevelGrammar::from_json_schema(schema))
}

/// Counted without regard to quotes, which only makes it stricter.
fn check_nesting(text: &str) -> Result<()> {
    let mut depth = 0usize;
    let mut escaped = false;
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > NESTING_MAX {
            return Err(Error::invalid_request("the constraint nests too deeply"));
        }
    }
    Ok(())
}

fn first_line(cause: &impl std::fmt::Display) -> String {
    cause.to_string().lines().next().unwrap_or_default().to_owned()
}

fn refused(cause: impl std::fmt::Display) -> Error {
    Error::invalid_request(format!("the constraint is refused: {}", first_line(&cause)))
}

fn too_much_work(cause: impl std::fmt::Display) -> Error {
    Error::invalid_request(format!("the constraint needs too much work: {}", first_line(&cause)))
}
