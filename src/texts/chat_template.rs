//! Rendering conversations by a model's chat template.
//!
//! Templates are Jinja as Hugging Face transformers runs it (`apply_chat_template` of
//! `tokenization_utils_base.py`, `render_jinja_template` of `utils/chat_template_utils.py`, version
//! 5.24).

use ches_udfs::{Content, FieldValue, TemplateVariables, Turn};

use crate::texts::jinja::{Template, Value, repr};

/// Far above any real chat template.
pub(crate) const MAX_TEMPLATE_BYTES: usize = 1 << 16;

/// The stack that compiling, rendering and dropping a template of these bounds may take.
pub(crate) const STACK_BYTES: usize = 256 << 20;

/// What transformers takes for a model's reasoning, the first one first.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A compiled chat template. To be made, used and dropped on a thread with a stack of
/// [`STACK_BYTES`].
#[derive(Debug)]
pub(crate) struct ChatTemplate {
    template: Template,
    /// What the template finds besides the conversation.
    variables: Vec<(String, Value)>,
}

impl ChatTemplate {
    /// Compiles a template, which may read the texts of these special tokens by their names
    /// (`bos_token`), and `kwargs`, the text of a JSON object, which go before them.
    ///
    /// # Errors
    /// When it is not valid Jinja, or uses what is not known to render as jinja2 renders it; the
    /// message has the line.
    pub(crate) fn new(
        source: &str,
        special_tokens: &[(String, String)],
        kwargs: Option<&str>,
    ) -> Result<Self, String> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(format!(
                "the chat template has {} bytes; accepted: up to {MAX_TEMPLATE_BYTES}",
                source.len()
            ));
        }
        let mut variables: Vec<(String, Value)> = ["tools", "documents"]
            .map(|name| (name.to_owned(), Value::None))
            .into();
        let special_tokens = special_tokens.iter();
        set_all(
            &mut variables,
            special_tokens.map(|(name, text)| (name.clone(), Value::str(text))),
        );
        if let Some(kwargs) = kwargs {
            set_all(&mut variables, template_kwargs(kwargs)?);
        }
        Ok(Self {
            template: Template::new(source).map_err(|error| describe(&error))?,
            variables,
        })
    }

    /// Renders turns, followed by the beginning of an assistant turn if
    /// `add_generation_prompt`. The template finds `variables` besides, before those of all conversations.
    ///
    /// # Errors
    /// What the template says of a conversation that it refuses.
    pub(crate) fn render(
        &self,
        turns: &[Turn],
        variables: &TemplateVariables,
        add_generation_prompt: bool,
    ) -> Result<String, String> {
        let messages = turns.iter().map(message).collect();
        let rendered = self.render_messages(messages, variables, add_generation_prompt)?;
        let parts = turns.iter().filter_map(|turn| match &turn.content {
            Content::Parts(parts) => parts.first(),
            _ => None,
        });
        for first in parts {
            if lists_beginning_with(first)
                .iter()
                .any(|list| rendered.contains(list))
            {
                return Err("the chat template prints the list of a message's parts; accepted: a template that \
                            goes through them, or a content that is a string"
                    .into());
            }
        }
        Ok(rendered)
    }

    fn render_messages(
        &self,
        messages: Vec<Vec<(String, Value)>>,
        of_row: &TemplateVariables,
        add_generation_prompt: bool,
    ) -> Result<String, String> {
        let messages = messages.into_iter();
        let messages = messages.map(|message| Value::dict(as_shown(message)));
        let mut variables = self.variables.clone();
        let of_row = of_row.iter();
        set_all(
            &mut variables,
            of_row.map(|(name, of)| (name.clone(), value(of))),
        );
        let conversation = [
            ("messages", Value::list(messages.collect())),
            ("add_generation_prompt", Value::Bool(add_generation_prompt)),
        ];
        set_all(
            &mut variables,
            conversation.map(|(name, value)| (name.to_owned(), value)),
        );
        let rendered = self.template.render(variables);
        rendered.map_err(|error| describe(&error))
    }
}

/// The names and values of `ches.chat_template_kwargs`.
///
/// # Errors
/// When the text is no JSON object, or names what a rendering sets itself.
pub(crate) fn template_kwargs(text: &str) -> Result<Vec<(String, Value)>, String> {
    let parsed: Result<Value, _> = serde_json::from_str(text);
    let entries = parsed.ok().and_then(Value::into_fields);
    let Some(entries) = entries else {
        return Err("no JSON object; accepted: for example {\"enable_thinking\": false}".into());
    };
    if has_large_integer(text) {
        return Err("an integer of more than 18 digits; not supported".into());
    }
    let own = [
        "messages",
        "add_generation_prompt",
        "continue_final_message",
    ];
    match entries.iter().find(|(name, _)| own.contains(&&name[..])) {
        Some((name, _)) => Err(format!("'{name}' is set for each conversation")),
        None => Ok(entries),
    }
}

/// Whether JSON has an integer that would be read as a float.
fn has_large_integer(text: &str) -> bool {
    // Of the parts between quotation marks every other one is outside of strings.
    let unescaped = text.replace("\\\\", "").replace("\\\"", "");
    let outside = unescaped.split('"').step_by(2);
    let mut numbers =
        outside.flat_map(|part| part.split(|c: char| !(c.is_ascii_digit() || ".eE+-".contains(c))));
    numbers.any(|number| number.len() > 18 && !number.contains(['.', 'e', 'E']))
}

/// A turn's fields, in their order.
fn message(turn: &Turn) -> Vec<(String, Value)> {
    let mut fields = vec![("role".to_owned(), Value::str(&turn.role))];
    let content = match &turn.content {
        Content::Text(text) => Some(Value::str(text)),
        Content::Parts(parts) => Some(Value::list(parts.iter().map(value).collect())),
        Content::Absent => None,
    };
    fields.extend(content.map(|content| ("content".to_owned(), content)));
    for field in &turn.fields {
        let at = field.at.min(fields.len());
        fields.insert(at, (field.name.clone(), value(&field.value)));
    }
    fields
}

/// How a list begins whose first item is this, as Python prints it and as JSON.
fn lists_beginning_with(part: &FieldValue) -> Vec<String> {
    let FieldValue::Struct(fields) = part else {
        return vec![];
    };
    let Some((name, FieldValue::Text(text))) = fields.first() else {
        return vec![];
    };
    let python = |text| repr(&Value::str(text)).unwrap_or_default();
    let json = |text| serde_json::to_string(text).unwrap_or_default();
    vec![
        format!("[{{{}: {}", python(name), python(text)),
        format!("[{{{}: {}", json(name), json(text)),
    ]
}

fn value(of_field: &FieldValue) -> Value {
    match of_field {
        FieldValue::None => Value::None,
        FieldValue::Bool(truth) => Value::Bool(*truth),
        FieldValue::Int(number) => Value::Int(*number),
        FieldValue::Float(bits) => Value::Float(f64::from_bits(*bits)),
        FieldValue::Text(text) => Value::str(text),
        FieldValue::List(items) => Value::list(items.iter().map(value).collect()),
        FieldValue::Struct(fields) => {
            Value::dict(fields.iter().map(|(name, of)| (name.clone(), value(of))))
        }
    }
}

fn set_all(
    variables: &mut Vec<(String, Value)>,
    others: impl IntoIterator<Item = (String, Value)>,
) {
    for (name, value) in others {
        variables.retain(|(other, _)| *other != name);
        variables.push((name, value));
    }
}

/// A message as transformers shows it to a template: without the fields that are None, and with its
/// reasoning under two names (`_normalize_chat_messages`).
fn as_shown(mut message: Vec<(String, Value)>) -> Vec<(String, Value)> {
    message.retain(|(_, value)| !matches!(value, Value::None));
    let field = |name: &&str| {
        let found = message.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.clone())
    };
    let Some(reasoning) = REASONING.iter().find_map(field) else {
        return message;
    };
    let set = |message: &mut Vec<(String, Value)>, name: &str, value: Value| match message
        .iter_mut()
        .find(|(field, _)| field == name)
    {
        Some((_, place)) => *place = value,
        None => message.push((name.to_owned(), value)),
    };
    let thinking = field(&"thinking").unwrap_or_else(|| reasoning.clone());
    message.retain(|(name, _)| name != "thinking");
    message.insert(0, ("thinking".to_owned(), thinking));
    set(&mut message, "reasoning_content", reasoning);
    message
}

fn describe(error: &crate::texts::jinja::Error) -> String {
    match error.line {
        Some(line) => format!("the chat template, line {line}: {}", error.reason),
        None => format!("the chat template: {}", error.reason),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;

    use serde::Deserialize;

    use super::*;

    fn named() -> Vec<(String, String)> {
        let named = [("bos_token", "<s>"), ("eos_token", "</s>")];
        named.map(|(name, text)| (name.into(), text.into())).into()
    }

    /// `tests/goldens/templates.json`, which `make_templates.py` made with transformers.
    #[test]
    fn templates_render_as_in_transformers() {
        let golden = include_str!("../../tests/goldens/templates.json");
        let golden: serde_json::Value = serde_json::from_str(golden).unwrap();
        let mut compared = 0;
        for entry in golden.as_array().unwrap() {
            let name = entry["name"].as_str().unwrap();
            let source = entry["template"].as_str().unwrap();
            let template = ChatTemplate::new(source, &named(), None)
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
                let rendered = template.render(&turns, &vec![], prompt);
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

    /// What `tests/support/template_sweep.py` writes.
    #[derive(Deserialize)]
    struct Sweep {
        conversations: std::collections::HashMap<String, Value>,
        templates: Vec<Swept>,
    }

    #[derive(Deserialize)]
    struct Swept {
        name: String,
        source: String,
        cases: Vec<SweptCase>,
    }

    #[derive(Deserialize)]
    struct SweptCase {
        conversation: String,
        add_generation_prompt: bool,
        text: Option<String>,
    }

    /// What is refused here and rendered by jinja2, by what the message says, and why.
    const REFUSED: [(&str, &str); 0] = [];

    /// Every chat template inside published packages, over every conversation, renders as jinja2
    /// renders it in the environment of transformers.
    #[test]
    fn published_templates_render_as_in_transformers() {
        let Ok(python) = std::env::var("CHES_TEST_PYTHON") else {
            println!("without CHES_TEST_PYTHON (make test sets it), nothing is compared");
            return;
        };
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let cache = root.join("target/template-sweep");
        let out = cache.join("sweep.json");
        let made = std::process::Command::new(python)
            .arg(root.join("tests/support/template_sweep.py"))
            .args([&cache, &out])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "{said}");
        let sweep = std::fs::read_to_string(&out).unwrap();
        let sweep = std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || compare(&serde_json::from_str(&sweep).unwrap()));
        let [equal, both_refuse, refused] = sweep.unwrap().join().unwrap();
        // Not by a macro, whose text a test that passes does not show.
        let count = format!(
            "{equal} renderings equal, {both_refuse} refused by both, {refused} refused here\n"
        );
        std::io::stderr().write_all(count.as_bytes()).unwrap();
        assert!(equal > 40_000, "{equal} renderings");
    }

    /// How many cases are equal, refused by both, and refused here only.
    fn compare(sweep: &Sweep) -> [usize; 3] {
        let mut counts = [0; 3];
        let mut wrong = Vec::new();
        for swept in &sweep.templates {
            let template = ChatTemplate::new(&swept.source, &named(), None);
            for case in &swept.cases {
                let messages = sweep.conversations[&case.conversation].items().unwrap();
                let messages = messages.into_iter().map(|message| message.into_fields());
                let messages = messages.collect::<Option<Vec<_>>>().unwrap();
                let rendered = template.as_ref().map_err(String::clone);
                let rendered = rendered.and_then(|template| {
                    template.render_messages(messages, &vec![], case.add_generation_prompt)
                });
                let of = format!("{} of {}", swept.name, case.conversation);
                match (rendered, &case.text) {
                    (Ok(ours), Some(theirs)) if ours == *theirs => counts[0] += 1,
                    (Err(_), None) => counts[1] += 1,
                    (Err(reason), Some(_)) => {
                        counts[2] += 1;
                        if !REFUSED.iter().any(|(says, _)| reason.contains(says)) {
                            wrong.push(format!("{of}: {reason}"));
                        }
                    }
                    (Ok(ours), theirs) => wrong.push(format!("{of}: {ours:?}, not {theirs:?}")),
                }
            }
        }
        let shown = wrong.len().min(20);
        assert!(
            wrong.is_empty(),
            "{}:\n{}",
            wrong.len(),
            wrong[..shown].join("\n")
        );
        counts
    }
}
