//! Chat templates, rendered with the settings of `transformers` (apply_chat_template).

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{merge_maps, Kwargs, Value};
use minijinja::{context, Environment, Error as JinjaError, ErrorKind};
use serde::Serialize;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::messages::Chat;

/// A render may use this much work, and no more: one unit is an instruction or 64 bytes of data.
/// The published templates need under 100 instructions for a message.
const FUEL_BASE: u64 = 200_000;
const FUEL_PER_MESSAGE: u64 = 2_000;
const FUEL_BYTES: u64 = 8; // content bytes per unit: each byte may pass eight filters

pub struct Template {
    environment: Environment<'static>,
    special_tokens: Value,
    source: String,
}

impl Template {
    pub fn compile(config: &Config) -> Result<Option<Self>> {
        let Some(source) = &config.chat_template else { return Ok(None) };
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(Error::internal)?);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment
            .add_template_owned("chat", without_generation_tags(source))
            .map_err(|cause| Error::bad_file(format!("chat template: {cause}")))?;
        let special_tokens = Value::from_pairs(
            config.special_tokens.iter().map(|(name, text)| (name.clone(), text.clone())),
        );
        Ok(Some(Self { environment, special_tokens, source: source.clone() }))
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// `texts` stand in for the chat's own, index by index.
    pub fn render<S: AsRef<str>>(
        &mut self,
        chat: &Chat,
        texts: &[S],
        add_generation_prompt: bool,
    ) -> Result<String> {
        let bytes: usize = texts.iter().map(|text| text.as_ref().len()).sum();
        let pieces = chat.message_count().max(texts.len()) as u64;
        let fuel = FUEL_BASE + FUEL_PER_MESSAGE * pieces + bytes as u64 / FUEL_BYTES;
        self.environment.set_fuel(Some(fuel));
        let (messages, tools, arguments) = chat.values(texts, !self.source.contains("developer"));
        let own = context! {
            messages,
            add_generation_prompt,
            tools,
            documents => Value::from(()),
        };
        // Of two values for a name the later one holds.
        let context = merge_maps([arguments, self.special_tokens.clone(), own]);
        let template = self.environment.get_template("chat").map_err(Error::internal)?;
        template.render(context).map_err(request_error)
    }
}

fn request_error(error: JinjaError) -> Error {
    match error.kind() {
        ErrorKind::OutOfFuel => Error::invalid_request("the chat template needs too much work"),
        // raise_exception's words are meant for the user; the rest names the place in the template.
        ErrorKind::InvalidOperation if error.detail().is_some() => {
            Error::invalid_request(format!("chat template: {}", error.detail().unwrap_or_default()))
        }
        _ => Error::invalid_request(format!("chat template: {error}")),
    }
}

fn raise_exception(message: String) -> std::result::Result<Value, JinjaError> {
    Err(JinjaError::new(ErrorKind::InvalidOperation, message))
}

/// json.dumps(value, ensure_ascii=False, indent=indent) of Python.
fn tojson(value: Value, kwargs: Kwargs) -> std::result::Result<Value, JinjaError> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let ensure_ascii: Option<bool> = kwargs.get("ensure_ascii")?;
    kwargs.assert_all_used()?;
    if ensure_ascii == Some(true) {
        return Err(JinjaError::new(
            ErrorKind::InvalidOperation,
            "tojson: ensure_ascii is not served",
        ));
    }
    let mut out = Vec::new();
    let written = match indent {
        Some(indent) => {
            let spaces = " ".repeat(indent.min(16));
            let pretty = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, pretty))
        }
        None => {
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, PythonSeparators))
        }
    };
    written.map_err(|cause| JinjaError::new(ErrorKind::InvalidOperation, cause.to_string()))?;
    Ok(Value::from(String::from_utf8_lossy(&out).into_owned()))
}

struct PythonSeparators;

impl serde_json::ser::Formatter for PythonSeparators {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first {
            Ok(())
        } else {
            w.write_all(b", ")
        }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first {
            Ok(())
        } else {
            w.write_all(b", ")
        }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W) -> std::io::Result<()> {
        w.write_all(b": ")
    }
}

/// datetime.now().strftime(format) of Python: local time.
fn strftime_now(format: String) -> std::result::Result<String, JinjaError> {
    let bad = || JinjaError::new(ErrorKind::InvalidOperation, "strftime_now: unusable format");
    let format = std::ffi::CString::new(format).map_err(|_| bad())?;
    let mut out = [0u8; 256];
    // SAFETY: both calls write only to what they are given; `out` is passed with its length.
    let bytes = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut local: libc::tm = std::mem::zeroed();
        libc::localtime_r(&now, &mut local);
        libc::strftime(out.as_mut_ptr().cast(), out.len(), format.as_ptr(), &local)
    };
    if bytes == 0 && !format.is_empty() {
        return Err(bad());
    }
    String::from_utf8(out[..bytes].to_vec()).map_err(|_| bad())
}

/// `{% generation %} ... {% endgeneration %}` only marks the assistant's part for training. The
/// tags become an `if true`, which keeps their white space control.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    for (index, piece) in source.split("{%").enumerate() {
        if index > 0 {
            out.push_str("{%");
        }
        let name = piece.trim_start_matches(['-', '+']).trim_start();
        let replaced = [("generation", " if true"), ("endgeneration", " endif")].into_iter().find(
            |(tag, _)| {
                let rest = name.strip_prefix(tag).map(|rest| rest.trim_start());
                index > 0
                    && rest
                        .is_some_and(|rest| rest.trim_start_matches(['-', '+']).starts_with("%}"))
            },
        );
        match replaced {
            Some((tag, word)) => {
                let name_at = piece.len() - name.len();
                out.push_str(piece[..name_at].trim_end());
                out.push_str(word);
                out.push_str(&name[tag.len()..]);
            }
            None => out.push_str(piece),
        }
    }
    out
}
