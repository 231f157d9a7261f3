//! tokenizer_config.json: the chat template and the special tokens that templates may name.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};

#[derive(Default)]
pub struct Config {
    pub chat_template: Option<String>,
    pub special_tokens: BTreeMap<String, String>, // "bos_token" -> "<s>", ...
}

/// A missing tokenizer_config.json is an empty one; chat_template.jinja, where newer models keep
/// the template, wins over the JSON field as it does in `transformers`.
pub fn load(folder: &Path) -> Result<Config> {
    let mut config = match read_optional(&folder.join("tokenizer_config.json"))? {
        Some(text) => parse(&text)?,
        None => Config::default(),
    };
    if let Some(template) = read_optional(&folder.join("chat_template.jinja"))? {
        config.chat_template = Some(template);
    }
    Ok(config)
}

fn read_optional(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(Error::bad_file(format!("{}: {cause}", path.display()))),
    }
}

fn parse(text: &str) -> Result<Config> {
    let json: Value = serde_json::from_str(text)
        .map_err(|cause| Error::bad_file(format!("tokenizer_config.json: {cause}")))?;
    let fields =
        json.as_object().ok_or_else(|| Error::bad_file("tokenizer_config.json: not an object"))?;
    let special_tokens = fields
        .iter()
        .filter(|(name, _)| name.ends_with("_token"))
        .filter_map(|(name, value)| Some((name.clone(), token_text(value)?.to_owned())))
        .collect();
    Ok(Config {
        chat_template: fields.get("chat_template").and_then(default_template),
        special_tokens,
    })
}

/// A token is written as its text or as a serialized AddedToken.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// One template, or a list of named ones of which "default" is the chat's.
fn default_template(value: &Value) -> Option<String> {
    if let Some(text) = value.as_str() {
        return Some(text.to_owned());
    }
    let named = value.as_array()?.iter().find(|entry| entry["name"] == "default")?;
    Some(named["template"].as_str()?.to_owned())
}
