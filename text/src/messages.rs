//! A chat as its template sees it: messages, tools, further arguments; and the texts in it that
//! users (or a model) wrote, which can be put in exchange for others.

use minijinja::value::{Serde, Value};
use serde_json::{Map, Value as Json};

use crate::error::{Error, Result};

const ROLE_BYTES_MAX: usize = 64;

pub struct Message {
    pub role: String,
    pub content: Option<String>,
    fields: Map<String, Json>, // tool_calls, tool_call_id, name, where there are any
}

/// Where a text stands: a template may do with a content what it does with text, while the strings
/// in JSON (names, arguments, descriptions) are often compared or written as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Content,
    Structured,
}

pub struct Chat {
    messages: Vec<Message>,
    tools: Option<Json>,
    arguments: Map<String, Json>,
}

impl Message {
    /// `tool_calls`: a JSON array in OpenAI's form, or empty; its functions' arguments become
    /// objects, which is what templates want.
    pub fn new(
        role: &str,
        content: Option<&str>,
        tool_calls: &str,
        tool_call_id: &str,
        name: &str,
    ) -> Result<Self> {
        // A role decides the template's branches and is written beside special tokens.
        let plain = role.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        if role.is_empty() || role.len() > ROLE_BYTES_MAX || !plain {
            return Err(Error::invalid_request("a role is 1 to 64 letters, digits, '_' or '-'"));
        }
        let mut fields = Map::new();
        if !tool_calls.is_empty() {
            let mut calls: Json = parse(tool_calls, "tool_calls")?;
            let list = calls
                .as_array_mut()
                .ok_or_else(|| Error::invalid_request("tool_calls is not an array"))?;
            list.iter_mut().for_each(parse_arguments);
            fields.insert("tool_calls".into(), calls);
        }
        for (key, text) in [("tool_call_id", tool_call_id), ("name", name)] {
            if !text.is_empty() {
                fields.insert(key.into(), text.into());
            }
        }
        Ok(Self { role: role.to_owned(), content: content.map(str::to_owned), fields })
    }
}

impl Chat {
    /// `tools`: a JSON array, or empty. `arguments`: a JSON object of what else the template may
    /// look at, or empty.
    pub fn new(messages: Vec<Message>, tools: &str, arguments: &str) -> Result<Self> {
        let tools = match tools {
            "" => None,
            text => match parse(text, "tools")? {
                Json::Array(list) if list.is_empty() => None,
                list @ Json::Array(_) => Some(list),
                _ => return Err(Error::invalid_request("tools is not an array")),
            },
        };
        let arguments = match arguments {
            "" => Map::new(),
            text => match parse(text, "chat_template_kwargs")? {
                Json::Object(map) => map,
                _ => return Err(Error::invalid_request("chat_template_kwargs is not an object")),
            },
        };
        Ok(Self { messages, tools, arguments })
    }

    pub fn message_count(&self) -> usize {
        self.messages.len()
    }

    /// Every text, in the order in which values() takes their stand-ins.
    pub fn texts(&self) -> Vec<(Place, &str)> {
        let mut texts = Vec::new();
        for message in &self.messages {
            texts.extend(message.content.as_deref().map(|content| (Place::Content, content)));
            message.fields.values().for_each(|value| collect(value, &mut texts));
        }
        self.tools.iter().for_each(|tools| collect(tools, &mut texts));
        self.arguments.values().for_each(|value| collect(value, &mut texts));
        texts
    }

    /// What the template gets: messages, tools (or none) and the further arguments, with `texts` in
    /// place of texts(), one by one. `plain_roles`: the template knows no "developer".
    pub fn values<S: AsRef<str>>(&self, texts: &[S], plain_roles: bool) -> (Value, Value, Value) {
        let mut texts = texts.iter().map(AsRef::as_ref);
        let mut messages = Vec::with_capacity(self.messages.len());
        for message in &self.messages {
            let mut value = Map::new();
            let role = match message.role.as_str() {
                "developer" if plain_roles => "system",
                role => role,
            };
            value.insert("role".into(), role.into());
            let content = message.content.as_ref().and_then(|_| texts.next());
            value.insert("content".into(), content.map_or(Json::Null, Json::from));
            for (key, field) in &message.fields {
                value.insert(key.clone(), replaced(field, &mut texts));
            }
            messages.push(Json::Object(value));
        }
        let tools = self.tools.as_ref().map(|tools| replaced(tools, &mut texts));
        let arguments: Map<String, Json> = self
            .arguments
            .iter()
            .map(|(key, value)| (key.clone(), replaced(value, &mut texts)))
            .collect();
        (
            Value::from(Serde(&messages)),
            tools.map_or(Value::from(()), |tools| Value::from(Serde(&tools))),
            Value::from(Serde(&arguments)),
        )
    }
}

fn parse(text: &str, name: &str) -> Result<Json> {
    serde_json::from_str(text)
        .map_err(|cause| Error::invalid_request(format!("{name}: not JSON: {cause}")))
}

/// Text that is no JSON object stays text.
fn parse_arguments(call: &mut Json) {
    let Some(arguments) = call.pointer_mut("/function/arguments") else { return };
    if let Some(object @ Json::Object(_)) =
        arguments.as_str().and_then(|text| serde_json::from_str(text).ok())
    {
        *arguments = object;
    }
}

fn collect<'a>(value: &'a Json, texts: &mut Vec<(Place, &'a str)>) {
    match value {
        Json::String(text) => texts.push((Place::Structured, text)),
        Json::Array(list) => list.iter().for_each(|one| collect(one, texts)),
        Json::Object(map) => map.iter().for_each(|(key, one)| {
            texts.push((Place::Structured, key));
            collect(one, texts);
        }),
        _ => {}
    }
}

/// In the order of collect().
fn replaced<'a>(value: &Json, texts: &mut impl Iterator<Item = &'a str>) -> Json {
    match value {
        Json::String(_) => texts.next().unwrap_or_default().into(),
        Json::Array(list) => list.iter().map(|one| replaced(one, texts)).collect(),
        Json::Object(map) => map
            .iter()
            .map(|(_, one)| {
                let key = texts.next().unwrap_or_default().to_owned();
                (key, replaced(one, texts))
            })
            .collect(),
        other => other.clone(),
    }
}
