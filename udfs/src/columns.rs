//! Which Arrow types a text argument may have, and reading their rows.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, LargeStringArray, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Fields};
use datafusion::common::{exec_datafusion_err, plan_err};
use datafusion::error::Result;

use crate::json_messages::json_messages;
use crate::message_fields::{FieldColumn, is_shown};
use crate::printable::quoted;
use crate::scorer::Argument;
use crate::template_variables::text_within;
use crate::text::{ASSISTANT, Content, FieldValue, MessageField, Text, Turn, USER, text_parts};

/// How a message struct names its role and its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MessageNames {
    /// `role`, `content`.
    RoleContent,
    /// `from`, `value`, with the roles human and gpt.
    FromValue,
}

impl MessageNames {
    fn of(fields: &Fields) -> Option<Self> {
        let has_both = |names: &Self| {
            let (role, content) = names.role_and_content();
            let data_type = |name| fields.find(name).map(|(_, field)| field.data_type());
            data_type(role).is_some_and(is_string)
                && data_type(content).is_some_and(|content| is_string(content) || is_parts(content))
        };
        let found = [Self::RoleContent, Self::FromValue];
        let found = found.into_iter().find(has_both)?;
        found.not_shown(fields).is_none().then_some(found)
    }

    /// The first further field that a template cannot be shown.
    fn not_shown(self, fields: &Fields) -> Option<&FieldRef> {
        let is_shown = |field: &FieldRef| match field.name().as_str() {
            name if self.is_own(name) => true,
            "role" | "content" => false,
            _ => is_shown(field.data_type()),
        };
        fields.iter().find(|field| !is_shown(field))
    }

    /// Whether a field is one of the two.
    fn is_own(self, name: &str) -> bool {
        let (role, content) = self.role_and_content();
        name == role || name == content
    }

    fn role_and_content(self) -> (&'static str, &'static str) {
        match self {
            Self::RoleContent => ("role", "content"),
            Self::FromValue => ("from", "value"),
        }
    }

    fn role(self, found: &str) -> &str {
        match (self, found) {
            (Self::FromValue, "human") => USER,
            (Self::FromValue, "gpt") => ASSISTANT,
            _ => found,
        }
    }
}

/// The accepted kinds of column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    String,
    Conversation(MessageNames),
    Message(MessageNames),
}

fn is_string(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => true,
        DataType::Dictionary(_, values) => is_string(values),
        _ => false,
    }
}

/// Whether values may be the parts of a content; which ones are is seen row by row.
fn is_parts(data_type: &DataType) -> bool {
    let is_list = matches!(
        data_type,
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..)
    );
    is_list && is_shown(data_type)
}

fn kind(data_type: &DataType) -> Option<Kind> {
    let data_type = text_within(data_type).unwrap_or(data_type);
    match data_type {
        string if is_string(string) => Some(Kind::String),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            match item.data_type() {
                DataType::Struct(fields) => MessageNames::of(fields).map(Kind::Conversation),
                _ => None,
            }
        }
        DataType::Struct(fields) => MessageNames::of(fields).map(Kind::Message),
        _ => None,
    }
}

const ACCEPTED: &str = "a string (Utf8, LargeUtf8, Utf8View or a Dictionary of them) or a \
    conversation (List, LargeList or FixedSizeList of Struct with string fields role and content, or from and \
    value, and maybe others)";

/// What to say of a type that is not accepted, besides its name.
fn why_refused(data_type: &DataType) -> String {
    let names = |fields: &Fields| {
        let names: Vec<_> = fields.iter().map(|field| field.name().as_str()).collect();
        names.join(", ")
    };
    let named = |fields: &Fields| {
        let has = |name: &str| fields.find(name).is_some();
        let names = [MessageNames::RoleContent, MessageNames::FromValue];
        names.into_iter().find(|names| {
            let (role, content) = names.role_and_content();
            has(role) && has(content)
        })
    };
    let of_message = |fields: &Fields| {
        if MessageNames::of(fields).is_some() {
            return ", a single message; a prompt of one message is a list of it, make_array(prompt)"
                .into();
        }
        let Some(names_of_two) = named(fields) else {
            return format!(", with the fields {}", names(fields));
        };
        let (role, content) = names_of_two.role_and_content();
        match names_of_two.not_shown(fields) {
            Some(field) => format!(
                ", a message with a field '{}' of type {} that no chat template can be shown; leave \
                 it out, for example by arrow_cast(column, 'List(Struct(\"{role}\": Utf8, \
                 \"{content}\": Utf8))')",
                field.name(),
                field.data_type()
            ),
            None => format!(
                ", a message whose fields {role} and {content} are not a string, and a string or a list of parts"
            ),
        }
    };
    match data_type {
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => {
            ", which is bytes; cast them to text, arrow_cast(column, 'Utf8')".into()
        }
        DataType::Struct(fields) => of_message(fields),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            match item.data_type() {
                DataType::Struct(fields) => of_message(fields),
                string if is_string(string) => {
                    ", strings without the roles of who said them".into()
                }
                DataType::List(_) | DataType::LargeList(_) => {
                    ", a list of lists; take one conversation of it".into()
                }
                other => format!(", a list of {other}"),
            }
        }
        DataType::ListView(item) | DataType::LargeListView(item) => {
            format!("; cast it to a List of {}", item.data_type())
        }
        DataType::Map(..) => ", a map; a message is a struct of role and content".into(),
        number if number.is_numeric() => ", a number".into(),
        _ => String::new(),
    }
}

/// Checks, when a query is planned, that the arguments of a function are text columns.
///
/// `arguments` are the meanings of the arguments, in order.
pub(crate) fn check_types(
    function: &str,
    arguments: &[Argument],
    types: &[DataType],
) -> Result<()> {
    let types: Vec<_> = types
        .iter()
        .map(|data_type| text_within(data_type).unwrap_or(data_type))
        .collect();
    for (position, (argument, data_type)) in arguments.iter().zip(&types).enumerate() {
        let message_fits = *argument != Argument::Prompt;
        let fits = match kind(data_type) {
            Some(Kind::Message(_)) => message_fits,
            Some(_) => true,
            None => false,
        };
        if !fits {
            let message = if message_fits {
                ", or a single message Struct"
            } else {
                ""
            };
            return plan_err!(
                "{function}: argument {} ({argument}) has type {data_type}{}; accepted: \
                 {ACCEPTED}{message}",
                position + 1,
                why_refused(data_type)
            );
        }
    }
    let is_implicit = !arguments.contains(&Argument::Prompt);
    if is_implicit && let [chosen, rejected] = types[..] {
        let kinds = [chosen, rejected].map(kind);
        if kinds
            .iter()
            .any(|kind| matches!(kind, Some(Kind::Message(_))))
        {
            return plan_err!(
                "{function}: a single message cannot hold its prompt; give the prompt as the \
                 first of three arguments, or whole conversations"
            );
        }
        let is_null = |data_type: &DataType| *data_type == DataType::Null;
        let is_conversation = kinds.map(|kind| matches!(kind, Some(Kind::Conversation(_))));
        if is_conversation[0] != is_conversation[1] && !is_null(chosen) && !is_null(rejected) {
            return plan_err!(
                "{function}: chosen has type {chosen} and rejected {rejected}; without a \
                 prompt argument both must be strings or both conversations"
            );
        }
    }
    Ok(())
}

/// A text argument of a batch, of any accepted type.
#[derive(Debug)]
pub(crate) enum TextColumn {
    Strings(LargeStringArray),
    /// One row is `messages[offsets[row]..offsets[row + 1]]`.
    Conversations {
        rows: ArrayRef,
        offsets: Vec<usize>,
        messages: Messages,
    },
    Messages {
        rows: ArrayRef,
        messages: Messages,
    },
}

#[derive(Debug)]
pub(crate) struct Messages {
    names: MessageNames,
    structs: StructArray,
    roles: LargeStringArray,
    contents: Contents,
    /// Places, names and values of the further fields.
    fields: Vec<(usize, String, FieldColumn)>,
}

#[derive(Debug)]
enum Contents {
    Texts(LargeStringArray),
    Parts(FieldColumn),
}

impl Contents {
    fn try_new(array: &ArrayRef) -> Result<Self> {
        match is_string(array.data_type()) {
            true => strings(array).map(Self::Texts),
            false => FieldColumn::try_new(array).map(Self::Parts),
        }
    }

    fn content(&self, at: usize) -> Result<Content, String> {
        match self {
            Self::Texts(texts) if texts.is_null(at) => Ok(Content::Absent),
            Self::Texts(texts) => Ok(texts.value(at).into()),
            Self::Parts(parts) => match parts.value(at) {
                Some(FieldValue::List(parts)) => text_parts(parts),
                _ => Ok(Content::Absent),
            },
        }
    }
}

impl Messages {
    fn try_new(names: MessageNames, structs: &StructArray) -> Result<Self> {
        let (role, content) = names.role_and_content();
        let column = |name| {
            let column = structs.column_by_name(name);
            column.ok_or_else(|| exec_datafusion_err!("a message without field '{name}'"))
        };
        let mut further = Vec::new();
        for (at, (field, values)) in structs.fields().iter().zip(structs.columns()).enumerate() {
            if !names.is_own(field.name()) {
                further.push((at, field.name().clone(), FieldColumn::try_new(values)?));
            }
        }
        Ok(Self {
            names,
            structs: structs.clone(),
            roles: strings(column(role)?)?,
            contents: Contents::try_new(column(content)?)?,
            fields: further,
        })
    }

    fn turn(&self, at: usize) -> Result<Turn, String> {
        let (role, content) = self.names.role_and_content();
        if self.structs.is_null(at) {
            return Err("a message of the conversation is NULL".into());
        }
        if self.roles.is_null(at) {
            return Err(format!("a message has a NULL '{role}'"));
        }
        let role = self.names.role(self.roles.value(at));
        let mut turn = Turn::new(role, self.contents.content(at)?);
        let field = |(place, name, values): &(usize, String, FieldColumn)| {
            Some(MessageField {
                at: *place,
                name: name.clone(),
                value: values.value(at)?,
            })
        };
        turn.fields = self.fields.iter().filter_map(field).collect();
        if turn.content == Content::Absent && turn.fields.is_empty() {
            return Err(format!("a message has a NULL '{content}'"));
        }
        Ok(turn)
    }
}

fn strings(array: &ArrayRef) -> Result<LargeStringArray> {
    Ok(cast(array, &DataType::LargeUtf8)?
        .as_string::<i64>()
        .clone())
}

impl TextColumn {
    /// Reads the array of an argument whose type passed [`check_types`].
    pub(crate) fn try_new(array: &ArrayRef) -> Result<Self> {
        match kind(array.data_type()) {
            Some(Kind::String) => Ok(Self::Strings(strings(array)?)),
            Some(Kind::Message(names)) => Ok(Self::Messages {
                rows: Arc::clone(array),
                messages: Messages::try_new(names, array.as_struct())?,
            }),
            Some(Kind::Conversation(names)) => {
                let list;
                let array = match array.data_type() {
                    DataType::FixedSizeList(item, _) => {
                        list = cast(array, &DataType::LargeList(Arc::clone(item)))?;
                        &list
                    }
                    _ => array,
                };
                let (offsets, values): (Vec<usize>, _) =
                    if let Some(list) = array.as_list_opt::<i32>() {
                        let offsets = list.value_offsets().iter();
                        (offsets.map(|at| *at as usize).collect(), list.values())
                    } else {
                        let list = array.as_list::<i64>();
                        let offsets = list.value_offsets().iter();
                        (offsets.map(|at| *at as usize).collect(), list.values())
                    };
                // A sliced list keeps all its values; only those of this batch are read.
                let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
                let messages = values.slice(first, last - first);
                Ok(Self::Conversations {
                    rows: Arc::clone(array),
                    offsets: offsets.into_iter().map(|at| at - first).collect(),
                    messages: Messages::try_new(names, messages.as_struct())?,
                })
            }
            None => Err(exec_datafusion_err!(
                "a text column of type {}; accepted: {ACCEPTED}",
                array.data_type()
            )),
        }
    }

    /// Whether a row is NULL as a whole.
    pub(crate) fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Strings(strings) => strings.is_null(row),
            Self::Conversations { rows, .. } | Self::Messages { rows, .. } => rows.is_null(row),
        }
    }

    /// How a row's text begins, for messages; of a conversation, the first message that has a text.
    pub(crate) fn beginning(&self, row: usize) -> String {
        let of_message = |messages: &Messages, at: usize| {
            let Contents::Texts(texts) = &messages.contents else {
                return None;
            };
            texts.is_valid(at).then(|| quoted(texts.value(at)))
        };
        let unnamed = || "without text".to_owned();
        match self {
            _ if self.is_null(row) => "NULL".into(),
            Self::Strings(strings) => quoted(strings.value(row)),
            Self::Conversations {
                offsets, messages, ..
            } => (offsets[row]..offsets[row + 1])
                .find_map(|at| of_message(messages, at))
                .unwrap_or_else(unnamed),
            Self::Messages { messages, .. } => of_message(messages, row).unwrap_or_else(unnamed),
        }
    }

    /// The text of a row that is not NULL.
    ///
    /// # Errors
    /// Why the row is malformed.
    pub(crate) fn text(&self, row: usize) -> Result<Text, String> {
        match self {
            Self::Strings(strings) => match json_messages(strings.value(row)) {
                Some(turns) => turns.map(Text::Turns),
                None => Ok(Text::Plain(strings.value(row).to_owned())),
            },
            Self::Conversations {
                offsets, messages, ..
            } => (offsets[row]..offsets[row + 1])
                .map(|at| messages.turn(at))
                .collect::<Result<_, _>>()
                .map(Text::Turns),
            Self::Messages { messages, .. } => Ok(Text::Turns(vec![messages.turn(row)?])),
        }
    }
}
