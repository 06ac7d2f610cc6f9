//! From tokens to a syntax tree, after `jinja2/parser.py`.

mod expressions;
mod statements;

use super::ast::{Extras, Statement};
use super::error::{Error, Result};
use super::lexer::{Token, TokenKind, tokens};

/// How deep expressions and statements may stand in one another.
const MOST_NESTED: usize = 200;

/// Parses a template.
///
/// # Errors
/// When it is not valid, or uses what is not known to render as jinja2 renders it.
pub(super) fn parse(source: &str) -> Result<Vec<Statement>> {
    let mut parser = Parser {
        tokens: tokens(source)?,
        at: 0,
        nested: 0,
        loops: 0,
        in_loops: 0,
        unknown: None,
        macros: Vec::new(),
    };
    let statements = parser.statements(&[])?;
    match parser.unknown {
        None => Ok(statements),
        Some(unknown) => Err(unknown),
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    nested: usize,
    /// Loops that are open in the macro or template at hand, which `break` needs one of.
    loops: usize,
    /// Loops that are open anywhere.
    in_loops: usize,
    /// A filter or test that does not exist. Where it stands in a condition it need not be reached.
    unknown: Option<Error>,
    /// What the open macros mention.
    macros: Vec<Extras>,
}

fn describe(kind: &TokenKind) -> String {
    match kind {
        TokenKind::Data(_) => "text".into(),
        TokenKind::VariableBegin => "'{{'".into(),
        TokenKind::VariableEnd => "'}}'".into(),
        TokenKind::BlockBegin => "'{%'".into(),
        TokenKind::BlockEnd => "'%}'".into(),
        TokenKind::Name(name) => format!("'{name}'"),
        TokenKind::Str(_) => "a string".into(),
        TokenKind::Int(_) | TokenKind::Float(_) => "a number".into(),
        TokenKind::Operator(operator) => format!("'{operator}'"),
        TokenKind::End => "the end of the template".into(),
    }
}

impl Parser {
    fn token(&self) -> &TokenKind {
        &self.tokens[self.at].kind
    }

    fn after(&self) -> &TokenKind {
        let next = (self.at + 1).min(self.tokens.len() - 1);
        &self.tokens[next].kind
    }

    fn line(&self) -> u32 {
        self.tokens[self.at].line
    }

    fn next(&mut self) {
        self.at = (self.at + 1).min(self.tokens.len() - 1);
    }

    fn fail<T>(&self, reason: impl Into<String>) -> Result<T> {
        Err(Error::at(self.line(), reason))
    }

    fn unexpected<T>(&self, wanted: &str) -> Result<T> {
        self.fail(format!("{} where {wanted} belongs", describe(self.token())))
    }

    fn is(&self, operator: &str) -> bool {
        matches!(self.token(), TokenKind::Operator(found) if *found == operator)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.token(), TokenKind::Name(found) if found == name)
    }

    fn skip(&mut self, operator: &str) -> bool {
        let is_there = self.is(operator);
        if is_there {
            self.next();
        }
        is_there
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let is_there = self.is_name(name);
        if is_there {
            self.next();
        }
        is_there
    }

    fn expect(&mut self, operator: &str) -> Result<()> {
        match self.skip(operator) {
            true => Ok(()),
            false => self.unexpected(&format!("'{operator}'")),
        }
    }

    fn expect_kind(&mut self, kind: &TokenKind) -> Result<()> {
        match self.token() == kind {
            true => {
                self.next();
                Ok(())
            }
            false => self.unexpected(&describe(kind)),
        }
    }

    fn expect_name(&mut self) -> Result<String> {
        match self.token() {
            TokenKind::Name(name) => {
                let name = name.clone();
                self.next();
                Ok(name)
            }
            _ => self.unexpected("a name"),
        }
    }

    /// Parses what may hold more of itself.
    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.nested >= MOST_NESTED {
            return self.fail(format!(
                "more than {MOST_NESTED} expressions or statements in one another"
            ));
        }
        self.nested += 1;
        let parsed = parse(self);
        self.nested -= 1;
        parsed
    }
}
