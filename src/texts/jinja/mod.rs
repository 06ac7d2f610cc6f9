//! Jinja as jinja2 renders it in Python, as far as chat templates need it.
//!
//! A chat template decides which tokens the model is shown, so that it must render exactly as the
//! library of whoever wrote it does: Hugging Face transformers, that is jinja2 in its immutable
//! sandbox, with blocks trimmed, over the values of Python. What is not known to be the same is
//! refused when the template is compiled, or where it is reached.
//!
//! `tests/goldens/jinja.json` holds what jinja2 gives for each construct.

mod arguments;
mod ast;
mod checks;
mod error;
mod filters;
mod fuel;
mod globals;
mod interpreter;
mod json;
mod lexer;
mod lookup;
mod markup;
mod methods;
mod names;
mod operators;
mod parser;
mod printf;
mod text;
mod value;

pub(super) use error::{Error, Result};
pub(super) use text::repr;
pub(super) use value::Value;

/// A compiled template. To be made, used and dropped on a thread with a large stack: it is read,
/// rendered and dropped recursively.
#[derive(Debug)]
pub(super) struct Template {
    statements: Vec<ast::Statement>,
}

impl Template {
    /// Compiles a template.
    ///
    /// # Errors
    /// When it is not valid, or uses what is not known to render as jinja2 renders it; with the line.
    pub(super) fn new(source: &str) -> Result<Self> {
        Ok(Self {
            statements: parser::parse(source)?,
        })
    }

    /// Renders it with these variables.
    ///
    /// # Errors
    /// What the template raises or does not succeed in, with the line.
    pub(super) fn render(&self, variables: Vec<(String, Value)>) -> Result<String> {
        interpreter::render(&self.statements, variables)
    }
}

#[cfg(test)]
mod golden {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Case {
        name: String,
        template: String,
        #[serde(default)]
        context: BTreeMap<String, Value>,
        /// What jinja2 renders; none where it raises.
        text: Option<String>,
    }

    /// What jinja2 renders and is refused here, by what the message says, and why.
    const REFUSED: [(&str, &str); 26] = [
        ("ASCII letters, digits and _", "names of other letters"),
        ("a character by its name", "Python's table of their names"),
        ("of markup", "methods of marked text escape their arguments"),
        ("changes markup", "the same of filters"),
        ("of a Markup", "the same of filters"),
        ("127 bits", "larger integers than any template has"),
        ("up to 2**53", "integers that a float rounds"),
        ("outside ASCII", "Python's tables of letters and digits"),
        ("title case", "Python's table of title case"),
        ("no decimal digits", "Python's tables of numerals"),
        (
            "sum of more than two floats",
            "Python corrects their rounding since 3.12",
        ),
        ("with its address", "what it gives is not the same twice"),
        ("of bytes", "chat templates write text"),
        ("is not supported", "rare methods, tags and names"),
        ("not supported", "the same"),
        ("places", "rounding to other than decimal places"),
        ("several slices", "no type of Python's takes them"),
        ("batch", "batches of no size"),
        ("int takes an integer", "a base that is none"),
        ("accepted: from 1", "slices and batches of less than one"),
        ("truncate takes a str", "of undefined values"),
        ("not all values are used", "of undefined values"),
        (
            "accepted: Unicode scalar values",
            "halves of surrogate pairs",
        ),
        ("the format '^5' of a bool", "booleans laid out as numbers"),
        ("format_map takes a dict", "other mappings"),
        (
            "is undefined",
            "undefined values as keys, and parts of Python's own",
        ),
    ];

    /// `tests/goldens/jinja.json`, which `make_jinja.py` made with jinja2 in the sandbox of
    /// transformers: the same text, an error where there is one, or a refusal with a known reason.
    #[test]
    fn constructs_render_as_in_jinja2() {
        let golden = include_str!("../../../tests/goldens/jinja.json");
        let compared = std::thread::Builder::new()
            .stack_size(64 << 20)
            .spawn(move || {
                let cases: Vec<Case> = serde_json::from_str(golden).unwrap();
                let [mut equal, mut errors, mut refused] = [0; 3];
                for case in cases {
                    let variables = case.context.into_iter().collect();
                    let template = Template::new(&case.template);
                    let of = format!("{}: {}", case.name, case.template);
                    match (template.and_then(|it| it.render(variables)), case.text) {
                        (Ok(ours), Some(text)) => {
                            assert_eq!(ours, text, "{of}");
                            equal += 1;
                        }
                        (Ok(ours), None) => panic!("{of}: no error but {ours:?}"),
                        (Err(_), None) => errors += 1,
                        (Err(error), Some(_)) => {
                            let says = error.to_string();
                            let is_known = REFUSED.iter().any(|(known, _)| says.contains(known));
                            assert!(is_known, "{of}: {says}");
                            refused += 1;
                        }
                    }
                }
                [equal, errors, refused]
            });
        let [equal, errors, refused] = compared.unwrap().join().unwrap();
        println!("{equal} renderings equal, {errors} errors in both, {refused} refused here");
        assert!(equal >= 440 && errors >= 700 && refused <= 60);
    }
}
