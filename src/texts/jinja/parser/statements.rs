//! Statements.

use std::sync::Arc;

use super::Parser;
use super::expressions::is_reserved;
use crate::texts::jinja::ast::{
    Expr, ExprKind, Extras, For, Macro, Statement, StatementKind, Target,
};
use crate::texts::jinja::error::{Error, Result};
use crate::texts::jinja::lexer::TokenKind;

const LOOP_ASSIGNED: &str = "an assignment to 'loop' in a loop";

impl Parser {
    /// Statements up to a tag of one of these names, which stays to be read. Without names, to
    /// the end.
    pub(super) fn statements(&mut self, ends: &[&str]) -> Result<Vec<Statement>> {
        self.nested(|parser| parser.statements_here(ends))
    }

    pub(super) fn statements_here(&mut self, ends: &[&str]) -> Result<Vec<Statement>> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            match self.token().clone() {
                TokenKind::Data(text) => {
                    self.next();
                    let kind = StatementKind::Text(text);
                    body.push(Statement { line, kind });
                }
                TokenKind::VariableBegin => {
                    self.next();
                    let value = self.tuple(true, false)?;
                    self.expect_kind(&TokenKind::VariableEnd)?;
                    let kind = StatementKind::Print(value);
                    body.push(Statement { line, kind });
                }
                TokenKind::BlockBegin => {
                    self.next();
                    if ends.iter().any(|end| self.is_name(end)) {
                        return Ok(body);
                    }
                    self.statement(&mut body)?;
                    self.expect_kind(&TokenKind::BlockEnd)?;
                }
                TokenKind::End if ends.is_empty() => return Ok(body),
                TokenKind::End => return self.unexpected(&format!("'{}'", ends.join("' or '"))),
                _ => return self.unexpected("text or a tag"),
            }
        }
    }

    /// The statements of a block, after the rest of the tag that begins it.
    pub(super) fn body(&mut self, ends: &[&str]) -> Result<Vec<Statement>> {
        self.skip(":");
        self.expect_kind(&TokenKind::BlockEnd)?;
        self.statements(ends)
    }

    /// The same, with the name of the tag that ends it.
    pub(super) fn whole_body(&mut self, end: &str) -> Result<Vec<Statement>> {
        let body = self.body(&[end])?;
        self.next();
        Ok(body)
    }

    pub(super) fn statement(&mut self, to: &mut Vec<Statement>) -> Result<()> {
        let line = self.line();
        let TokenKind::Name(tag) = self.token().clone() else {
            return self.unexpected("a tag's name");
        };
        self.next();
        let kind = match &tag[..] {
            "if" => self.conditional(|parser| parser.if_statement())?,
            "for" => self.for_statement()?,
            "set" => self.set_statement()?,
            "with" => self.with_statement()?,
            "macro" => self.macro_statement()?,
            "call" => self.call_block()?,
            "filter" => {
                let filter = self.filters(None)?;
                let body = self.whole_body("endfilter")?;
                StatementKind::FilterBlock { filter, body }
            }
            "generation" => {
                // Its body is a function of Python's, which no loop reaches into.
                let loops = std::mem::take(&mut self.loops);
                let body = self.whole_body("endgeneration")?;
                self.loops = loops;
                StatementKind::Generation(body)
            }
            "break" | "continue" if self.loops == 0 => {
                return Err(Error::at(line, format!("'{tag}' outside of a loop")));
            }
            "break" => StatementKind::Break,
            "continue" => StatementKind::Continue,
            "print" => {
                while *self.token() != TokenKind::BlockEnd {
                    let value = self.expression()?;
                    let kind = StatementKind::Print(value);
                    to.push(Statement { line, kind });
                    if *self.token() != TokenKind::BlockEnd {
                        self.expect(",")?;
                    }
                }
                return Ok(());
            }
            "block" | "extends" | "include" | "import" | "from" | "autoescape" => {
                return Err(Error::at(
                    line,
                    format!("the tag '{tag}' is not supported: a chat template is one text"),
                ));
            }
            _ => return Err(Error::at(line, format!("the unknown tag '{tag}'"))),
        };
        to.push(Statement { line, kind });
        Ok(())
    }

    /// Parses what need not be reached.
    pub(super) fn conditional<T>(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let before = self.unknown.take();
        let parsed = parse(self);
        self.unknown = before;
        parsed
    }

    pub(super) fn if_statement(&mut self) -> Result<StatementKind> {
        self.nested(|parser| {
            let test = parser.tuple(false, false)?;
            let then = parser.body(&["elif", "else", "endif"])?;
            let line = parser.line();
            let otherwise = if parser.skip_name("elif") {
                let kind = parser.if_statement()?;
                return Ok(StatementKind::If {
                    test,
                    then,
                    otherwise: vec![Statement { line, kind }],
                });
            } else if parser.skip_name("else") {
                parser.whole_body("endif")?
            } else {
                parser.next();
                Vec::new()
            };
            Ok(StatementKind::If {
                test,
                then,
                otherwise,
            })
        })
    }

    pub(super) fn for_statement(&mut self) -> Result<StatementKind> {
        let line = self.line();
        let target = self.target(false)?;
        if mentions(&target, "loop") {
            return Err(Error::at(line, LOOP_ASSIGNED));
        }
        if !self.skip_name("in") {
            return self.unexpected("'in'");
        }
        let values = self.tuple(false, false)?;
        let has_test = self.skip_name("if");
        let test = has_test.then(|| self.expression()).transpose()?;
        let is_recursive = self.skip_name("recursive");
        let (loops, in_loops) = (self.loops, self.in_loops);
        self.loops = loops + 1;
        self.in_loops = in_loops + 1;
        let body = self.body(&["endfor", "else"]);
        self.loops = loops;
        let otherwise = body.and_then(|body| match self.skip_name("else") {
            true => Ok((body, self.whole_body("endfor")?)),
            false => {
                self.next();
                Ok((body, Vec::new()))
            }
        });
        self.in_loops = in_loops;
        let (body, otherwise) = otherwise?;
        Ok(StatementKind::For(Arc::new(For {
            target,
            values,
            test,
            is_recursive,
            body,
            otherwise,
        })))
    }

    pub(super) fn set_statement(&mut self) -> Result<StatementKind> {
        let line = self.line();
        let target = self.target(true)?;
        if self.in_loops > 0 && mentions(&target, "loop") {
            return Err(Error::at(line, LOOP_ASSIGNED));
        }
        if self.skip("=") {
            return Ok(StatementKind::Set(target, self.tuple(true, false)?));
        }
        let filter = match self.is("|") {
            true => Some(self.filters(None)?),
            false => None,
        };
        let body = self.whole_body("endset")?;
        Ok(StatementKind::SetBlock {
            target,
            filter,
            body,
        })
    }

    pub(super) fn with_statement(&mut self) -> Result<StatementKind> {
        let mut names = Vec::new();
        while *self.token() != TokenKind::BlockEnd {
            if !names.is_empty() {
                self.expect(",")?;
            }
            let target = self.target(false)?;
            self.expect("=")?;
            names.push((target, self.expression()?));
        }
        let body = self.whole_body("endwith")?;
        Ok(StatementKind::With { names, body })
    }

    pub(super) fn parameters(&mut self) -> Result<Vec<(String, Option<Expr>)>> {
        let mut parameters: Vec<(String, Option<Expr>)> = Vec::new();
        self.expect("(")?;
        while !self.is(")") {
            if !parameters.is_empty() {
                self.expect(",")?;
            }
            let name = self.assigned_name()?;
            if parameters.iter().any(|(other, _)| *other == name) {
                return self.fail(format!("the parameter '{name}' is there twice"));
            }
            let has_default = self.skip("=");
            if !has_default && parameters.iter().any(|(_, default)| default.is_some()) {
                return self.fail(format!(
                    "the parameter '{name}' has no default and follows one that has"
                ));
            }
            let default = has_default.then(|| self.expression()).transpose()?;
            parameters.push((name, default));
        }
        self.expect(")")?;
        Ok(parameters)
    }

    /// The body of a macro or of a call block.
    pub(super) fn function(
        &mut self,
        name: Option<String>,
        parameters: Vec<(String, Option<Expr>)>,
        end: &str,
        mentioned: Extras,
    ) -> Result<Macro> {
        self.macros.push(mentioned);
        let loops = std::mem::take(&mut self.loops);
        let body = self.whole_body(end);
        self.loops = loops;
        let mut takes = self.macros.pop().unwrap_or_default();
        let is_parameter = |extra: &str| parameters.iter().any(|(name, _)| name == extra);
        takes.varargs &= !is_parameter("varargs");
        takes.kwargs &= !is_parameter("kwargs");
        if is_parameter("caller") {
            return self.fail("a parameter called 'caller' is not supported");
        }
        Ok(Macro {
            name,
            parameters,
            body: body?,
            takes,
        })
    }

    pub(super) fn macro_statement(&mut self) -> Result<StatementKind> {
        let name = self.assigned_name()?;
        // What defaults mention counts as well.
        self.macros.push(Extras::default());
        let parameters = self.parameters();
        let mentioned = self.macros.pop().unwrap_or_default();
        let body = self.function(Some(name), parameters?, "endmacro", mentioned)?;
        Ok(StatementKind::Macro(Arc::new(body)))
    }

    pub(super) fn call_block(&mut self) -> Result<StatementKind> {
        let parameters = match self.is("(") {
            true => self.parameters()?,
            false => Vec::new(),
        };
        let call = self.expression()?;
        if !matches!(call.kind, ExprKind::Call(..)) {
            return Err(Error::at(call.line, "a call block that calls nothing"));
        }
        let caller = self.function(None, parameters, "endcall", Extras::default())?;
        Ok(StatementKind::CallBlock {
            call,
            caller: Arc::new(caller),
        })
    }

    pub(super) fn assigned_name(&mut self) -> Result<String> {
        let line = self.line();
        let name = self.expect_name()?;
        match is_reserved(&name) {
            true => Err(Error::at(line, format!("an assignment to '{name}'"))),
            false => Ok(name),
        }
    }

    pub(super) fn target(&mut self, attributes: bool) -> Result<Target> {
        let one = |parser: &mut Self| {
            if parser.skip("(") {
                let target = parser.nested(|parser| parser.target(false))?;
                parser.expect(")")?;
                return Ok(target);
            }
            let is_attribute = attributes && matches!(parser.after(), TokenKind::Operator("."));
            if is_attribute {
                let object = parser.expect_name()?;
                parser.next();
                return Ok(Target::Attribute(object, parser.expect_name()?));
            }
            parser.assigned_name().map(Target::Name)
        };
        let first = one(self)?;
        if !self.is(",") {
            return Ok(first);
        }
        let mut targets = vec![first];
        while self.skip(",") {
            if self.ends_tuple() || self.is("=") {
                break;
            }
            targets.push(one(self)?);
        }
        Ok(Target::Tuple(targets))
    }
}

fn mentions(target: &Target, name: &str) -> bool {
    match target {
        Target::Name(found) => found == name,
        Target::Tuple(targets) => targets.iter().any(|target| mentions(target, name)),
        Target::Attribute(..) => false,
    }
}
