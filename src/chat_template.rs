//! Rendering conversations by a model's chat template.
//!
//! Templates are Jinja as Hugging Face transformers runs it (`render_jinja_template` of
//! `utils/chat_template_utils.py`): block trimming on, `loop_controls`, `raise_exception`,
//! `strftime_now`, `tojson`, the `{% generation %}` block, and Python's string and dictionary
//! methods.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io;

use ches_udfs::Turn;
use chrono::NaiveDate;
use chrono::format::{Item, StrftimeItems};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::{Formatter, PrettyFormatter};

/// Instructions that one rendering may take: far above any real conversation, and a bound on a
/// template that loops, or that nests values, which are dropped recursively.
const FUEL: u64 = 5_000_000;

/// Far above any real chat template; the parser recurses into nested expressions.
pub const MAX_TEMPLATE_BYTES: usize = 1 << 16;

/// The stack that compiling, rendering and dropping a template of these bounds may take.
pub const STACK_BYTES: usize = 256 << 20;

const NAME: &str = "chat_template";

/// What `strftime_now` takes for now, so that scores do not depend on the day: midnight of
/// 2024-07-26, the date that the templates of Llama 3.1 fall back to.
const NOW: (i32, u32, u32) = (2024, 7, 26);

/// A compiled chat template. To be made, used and dropped on a thread with a stack of
/// [`STACK_BYTES`].
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// Compiles a template. `bos_token` and `eos_token` are the texts that it may write.
    ///
    /// # Errors
    /// When it is not valid Jinja; the message has the line.
    pub fn new(source: &str, bos_token: String, eos_token: String) -> Result<Self, String> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(format!(
                "the chat template has {} bytes; accepted: up to {MAX_TEMPLATE_BYTES}",
                source.len()
            ));
        }
        let mut environment = Environment::new();
        let whitespace = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|error| describe(&error))?;
        environment.set_syntax(whitespace);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function(
            "raise_exception",
            |message: String| -> Result<Value, Error> {
                Err(Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned(NAME, without_generation(source))
            .map_err(|error| describe(&error))?;
        Ok(Self {
            environment,
            bos_token,
            eos_token,
        })
    }

    /// Renders turns, followed by the beginning of an assistant turn if
    /// `add_generation_prompt`.
    ///
    /// # Errors
    /// What the template says of a conversation that it refuses.
    pub fn render(&self, turns: &[Turn], add_generation_prompt: bool) -> Result<String, String> {
        let messages: Vec<Value> = turns
            .iter()
            .map(|turn| {
                context! {
                    role => turn.role.as_str(),
                    content => turn.content.as_str(),
                }
            })
            .collect();
        self.environment
            .get_template(NAME)
            .and_then(|template| {
                template.render(context! {
                    messages,
                    add_generation_prompt,
                    bos_token => self.bos_token.as_str(),
                    eos_token => self.eos_token.as_str(),
                    tools => (),
                    documents => (),
                })
            })
            .map_err(|error| describe(&error))
    }
}

/// The `{% generation %}` block marks what is trained on; it renders as what it holds.
fn without_generation(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else {
            break;
        };
        let (before, tag) = (&rest[..start], &rest[start + 2..start + length]);
        text.push_str(before);
        let (inner, left) = match tag.strip_prefix('-') {
            Some(inner) => (inner, "-"),
            None => (tag, ""),
        };
        let (inner, right) = match inner.strip_suffix('-') {
            Some(inner) => (inner, "-"),
            None => (inner, ""),
        };
        match inner.trim() {
            "generation" => text.push_str(&format!("{{%{left} if true {right}%}}")),
            "endgeneration" => text.push_str(&format!("{{%{left} endif {right}%}}")),
            _ => text.push_str(&rest[start..start + length + 2]),
        }
        rest = &rest[start + length + 2..];
    }
    text.push_str(rest);
    text
}

fn strftime_now(format: &str) -> Result<String, Error> {
    let (year, month, day) = NOW;
    let now = NaiveDate::from_ymd_opt(year, month, day).and_then(|day| day.and_hms_opt(0, 0, 0));
    let refuse = || {
        let message = format!("strftime_now does not know the format '{format}'");
        Error::new(ErrorKind::InvalidOperation, message)
    };
    let items: Vec<Item> = StrftimeItems::new(format).collect();
    let now = now
        .filter(|_| !items.contains(&Item::Error))
        .ok_or_else(refuse)?;
    let mut text = String::new();
    write!(text, "{}", now.format_with_items(items.iter())).map_err(|_| refuse())?;
    Ok(text)
}

/// JSON as Python's `json.dumps` writes it, with `ensure_ascii=False`.
fn to_json(value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // transformers leaves text as it is unless told otherwise; nothing else changes that.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut json = Vec::new();
    let written = match indent {
        Some(indent) if indent > 64 => {
            let message = format!("tojson with an indent of {indent}; accepted: up to 64");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
        Some(indent) => {
            let indent = " ".repeat(indent);
            let formatter = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut json, formatter))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut json, Spaced)),
    };
    let refuse = |error: String| Error::new(ErrorKind::BadSerialization, error);
    written.map_err(|error| refuse(error.to_string()))?;
    let json = String::from_utf8(json).map_err(|error| refuse(error.to_string()))?;
    Ok(Value::from_safe_string(json))
}

/// A space after commas and colons, as Python has it.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: io::Write + ?Sized>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }

    fn begin_object_key<W: io::Write + ?Sized>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.begin_array_value(to, first)
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(b": ")
    }
}

fn describe(error: &Error) -> String {
    // A template that includes another one, or itself, has the cause below.
    let mut innermost = error;
    while let Some(cause) = innermost
        .source()
        .and_then(|cause| cause.downcast_ref::<Error>())
    {
        innermost = cause;
    }
    let error = innermost;
    let detail = error.detail().map(str::to_owned);
    let what = detail.unwrap_or_else(|| error.kind().to_string());
    match error.line() {
        Some(line) => format!("the chat template, line {line}: {what}"),
        None => format!("the chat template: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/goldens/templates.json`, which `make_templates.py` made with transformers.
    #[test]
    fn templates_render_as_in_transformers() {
        let golden = include_str!("../tests/goldens/templates.json");
        let golden: serde_json::Value = serde_json::from_str(golden).unwrap();
        let mut compared = 0;
        for entry in golden.as_array().unwrap() {
            let name = entry["name"].as_str().unwrap();
            let source = entry["template"].as_str().unwrap();
            let template = ChatTemplate::new(source, "<s>".into(), "</s>".into())
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            for case in entry["cases"].as_array().unwrap() {
                let turns: Vec<Turn> = case["messages"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|turn| {
                        Turn::new(
                            turn["role"].as_str().unwrap(),
                            turn["content"].as_str().unwrap(),
                        )
                    })
                    .collect();
                let prompt = case["add_generation_prompt"].as_bool().unwrap();
                let rendered = template.render(&turns, prompt);
                match case["text"].as_str() {
                    Some(text) => assert_eq!(rendered.as_deref(), Ok(text), "{name}: {turns:?}"),
                    None => {
                        let says = case["error"].as_str().unwrap();
                        let error = rendered.unwrap_err();
                        assert!(error.contains(says), "{name}: '{error}' is not '{says}'");
                    }
                }
                compared += 1;
            }
        }
        assert!(compared >= 80, "{compared} renderings");
    }
}
