//! From tokens to a syntax tree, after `jinja2/parser.py`.

use std::sync::Arc;

use super::ast::{
    Arguments, Comparison, Const, Expr, ExprKind, Extras, For, Macro, Operator, Statement,
    StatementKind, Target,
};
use super::error::{Error, Result};
use super::lexer::{Token, TokenKind, tokens};
use super::names;

const LOOP_ASSIGNED: &str = "an assignment to 'loop' in a loop";

/// How deep expressions and statements may stand in one another.
const MOST_NESTED: usize = 200;

/// Parses a template.
///
/// # Errors
/// When it is not valid, or uses what is not known to render as jinja2 renders it.
pub fn parse(source: &str) -> Result<Vec<Statement>> {
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

fn expression(line: u32, kind: ExprKind) -> Expr {
    Expr { line, kind }
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

    /// Statements up to a tag of one of these names, which stays to be read. Without names, to
    /// the end.
    fn statements(&mut self, ends: &[&str]) -> Result<Vec<Statement>> {
        self.nested(|parser| parser.statements_here(ends))
    }

    fn statements_here(&mut self, ends: &[&str]) -> Result<Vec<Statement>> {
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
    fn body(&mut self, ends: &[&str]) -> Result<Vec<Statement>> {
        self.skip(":");
        self.expect_kind(&TokenKind::BlockEnd)?;
        self.statements(ends)
    }

    /// The same, with the name of the tag that ends it.
    fn whole_body(&mut self, end: &str) -> Result<Vec<Statement>> {
        let body = self.body(&[end])?;
        self.next();
        Ok(body)
    }

    fn statement(&mut self, to: &mut Vec<Statement>) -> Result<()> {
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
    fn conditional<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let before = self.unknown.take();
        let parsed = parse(self);
        self.unknown = before;
        parsed
    }

    fn if_statement(&mut self) -> Result<StatementKind> {
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

    fn for_statement(&mut self) -> Result<StatementKind> {
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

    fn set_statement(&mut self) -> Result<StatementKind> {
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

    fn with_statement(&mut self) -> Result<StatementKind> {
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

    fn parameters(&mut self) -> Result<Vec<(String, Option<Expr>)>> {
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
    fn function(
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

    fn macro_statement(&mut self) -> Result<StatementKind> {
        let name = self.assigned_name()?;
        // What defaults mention counts as well.
        self.macros.push(Extras::default());
        let parameters = self.parameters();
        let mentioned = self.macros.pop().unwrap_or_default();
        let body = self.function(Some(name), parameters?, "endmacro", mentioned)?;
        Ok(StatementKind::Macro(Arc::new(body)))
    }

    fn call_block(&mut self) -> Result<StatementKind> {
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

    fn assigned_name(&mut self) -> Result<String> {
        let line = self.line();
        let name = self.expect_name()?;
        match is_reserved(&name) {
            true => Err(Error::at(line, format!("an assignment to '{name}'"))),
            false => Ok(name),
        }
    }

    fn target(&mut self, attributes: bool) -> Result<Target> {
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

    fn ends_tuple(&self) -> bool {
        let is_end = matches!(self.token(), TokenKind::VariableEnd | TokenKind::BlockEnd);
        is_end || self.is(")")
    }

    /// An expression, or several with commas between them.
    fn tuple(&mut self, conditions: bool, in_parentheses: bool) -> Result<Expr> {
        let line = self.line();
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            if !items.is_empty() {
                self.expect(",")?;
            }
            if self.ends_tuple() {
                break;
            }
            items.push(match conditions {
                true => self.expression()?,
                false => self.nested(Self::or)?,
            });
            if !self.is(",") {
                break;
            }
            is_tuple = true;
        }
        if !is_tuple {
            match items.pop() {
                Some(only) => return Ok(only),
                None if !in_parentheses => return self.unexpected("an expression"),
                None => {}
            }
        }
        Ok(expression(line, ExprKind::Tuple(items)))
    }

    fn expression(&mut self) -> Result<Expr> {
        self.nested(Self::condition)
    }

    fn condition(&mut self) -> Result<Expr> {
        let before = self.unknown.take();
        let mut value = self.or()?;
        loop {
            let line = self.line();
            if !self.skip_name("if") {
                break;
            }
            let test = self.or()?;
            let other = match self.skip_name("else") {
                true => Some(Box::new(self.expression()?)),
                false => None,
            };
            let kind = ExprKind::Condition(Box::new(test), Box::new(value), other);
            value = expression(line, kind);
            self.unknown = None;
        }
        self.unknown = before.or(self.unknown.take());
        Ok(value)
    }

    fn or(&mut self) -> Result<Expr> {
        let mut left = self.and()?;
        loop {
            let line = self.line();
            if !self.skip_name("or") {
                return Ok(left);
            }
            let right = self.and()?;
            left = expression(line, ExprKind::Or(Box::new(left), Box::new(right)));
        }
    }

    fn and(&mut self) -> Result<Expr> {
        let mut left = self.not()?;
        loop {
            let line = self.line();
            if !self.skip_name("and") {
                return Ok(left);
            }
            let right = self.not()?;
            left = expression(line, ExprKind::And(Box::new(left), Box::new(right)));
        }
    }

    fn not(&mut self) -> Result<Expr> {
        let line = self.line();
        match self.skip_name("not") {
            true => {
                let negated = self.nested(Self::not)?;
                Ok(expression(line, ExprKind::Not(Box::new(negated))))
            }
            false => self.compare(),
        }
    }

    fn compare(&mut self) -> Result<Expr> {
        let line = self.line();
        let first = self.sum()?;
        let mut others = Vec::new();
        loop {
            let comparison = match self.token() {
                TokenKind::Operator("==") => Comparison::Equal,
                TokenKind::Operator("!=") => Comparison::NotEqual,
                TokenKind::Operator("<") => Comparison::Less,
                TokenKind::Operator("<=") => Comparison::LessOrEqual,
                TokenKind::Operator(">") => Comparison::Greater,
                TokenKind::Operator(">=") => Comparison::GreaterOrEqual,
                TokenKind::Name(name) if name == "in" => Comparison::In,
                TokenKind::Name(name)
                    if name == "not"
                        && matches!(self.after(), TokenKind::Name(after) if after == "in") =>
                {
                    self.next();
                    Comparison::NotIn
                }
                _ => break,
            };
            self.next();
            others.push((comparison, self.sum()?));
        }
        Ok(match others.is_empty() {
            true => first,
            false => expression(line, ExprKind::Compare(Box::new(first), others)),
        })
    }

    /// Operands with left-associative operators between them.
    fn binary(
        &mut self,
        operators: &[(&str, Operator)],
        operand: fn(&mut Self) -> Result<Expr>,
    ) -> Result<Expr> {
        let mut left = operand(self)?;
        loop {
            let line = self.line();
            let found = operators.iter().find(|(text, _)| self.is(text));
            let Some((_, operator)) = found else {
                return Ok(left);
            };
            self.next();
            let right = operand(self)?;
            let kind = ExprKind::Binary(*operator, Box::new(left), Box::new(right));
            left = expression(line, kind);
        }
    }

    fn sum(&mut self) -> Result<Expr> {
        let operators = [("+", Operator::Add), ("-", Operator::Subtract)];
        self.binary(&operators, Self::concat)
    }

    fn concat(&mut self) -> Result<Expr> {
        let line = self.line();
        let mut items = vec![self.product()?];
        while self.skip("~") {
            items.push(self.product()?);
        }
        Ok(match items.len() {
            1 => items.remove(0),
            _ => expression(line, ExprKind::Concat(items)),
        })
    }

    fn product(&mut self) -> Result<Expr> {
        let operators = [
            ("*", Operator::Multiply),
            ("/", Operator::Divide),
            ("//", Operator::FloorDivide),
            ("%", Operator::Remainder),
        ];
        self.binary(&operators, Self::power)
    }

    fn power(&mut self) -> Result<Expr> {
        self.binary(&[("**", Operator::Power)], |parser| parser.unary(true))
    }

    fn unary(&mut self, with_filters: bool) -> Result<Expr> {
        let line = self.line();
        let value = if self.skip("-") {
            let value = self.nested(|parser| parser.unary(false))?;
            expression(line, ExprKind::Negative(Box::new(value)))
        } else if self.skip("+") {
            let value = self.nested(|parser| parser.unary(false))?;
            expression(line, ExprKind::Positive(Box::new(value)))
        } else {
            self.primary()?
        };
        let value = self.postfix(value)?;
        match with_filters {
            true => self.filters_and_tests(value),
            false => Ok(value),
        }
    }

    fn primary(&mut self) -> Result<Expr> {
        let line = self.line();
        let token = self.token().clone();
        let kind = match token {
            TokenKind::Name(name) => {
                self.next();
                match &name[..] {
                    "true" | "True" => ExprKind::Const(Const::Bool(true)),
                    "false" | "False" => ExprKind::Const(Const::Bool(false)),
                    "none" | "None" => ExprKind::Const(Const::None),
                    "self" | "super" => {
                        return Err(Error::at(line, format!("'{name}' is not supported")));
                    }
                    _ => {
                        self.mention(&name);
                        ExprKind::Name(name)
                    }
                }
            }
            TokenKind::Str(mut text) => {
                self.next();
                while let TokenKind::Str(more) = self.token() {
                    text.push_str(more);
                    self.next();
                }
                ExprKind::Const(Const::Str(text))
            }
            TokenKind::Int(value) => {
                self.next();
                ExprKind::Const(Const::Int(value))
            }
            TokenKind::Float(value) => {
                self.next();
                ExprKind::Const(Const::Float(value))
            }
            TokenKind::Operator("(") => {
                self.next();
                let inside = self.nested(|parser| parser.tuple(true, true))?;
                self.expect(")")?;
                return Ok(inside);
            }
            TokenKind::Operator("[") => {
                self.next();
                ExprKind::List(self.items("]", Self::expression)?)
            }
            TokenKind::Operator("{") => {
                self.next();
                let pair = |parser: &mut Self| {
                    let key = parser.expression()?;
                    parser.expect(":")?;
                    Ok((key, parser.expression()?))
                };
                ExprKind::Dict(self.items("}", pair)?)
            }
            _ => return self.unexpected("an expression"),
        };
        Ok(expression(line, kind))
    }

    fn mention(&mut self, name: &str) {
        for mentioned in &mut self.macros {
            match name {
                "varargs" => mentioned.varargs = true,
                "kwargs" => mentioned.kwargs = true,
                "caller" => mentioned.caller = true,
                _ => {}
            }
        }
    }

    fn items<T>(&mut self, end: &str, parse: impl Fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut items = Vec::new();
        while !self.is(end) {
            if !items.is_empty() {
                self.expect(",")?;
            }
            if self.is(end) {
                break;
            }
            items.push(parse(self)?);
        }
        self.next();
        Ok(items)
    }

    fn postfix(&mut self, mut value: Expr) -> Result<Expr> {
        loop {
            value = match self.token() {
                TokenKind::Operator(".") => self.attribute(value)?,
                TokenKind::Operator("[") => self.item(value)?,
                TokenKind::Operator("(") => self.call(value)?,
                _ => return Ok(value),
            };
        }
    }

    fn attribute(&mut self, of: Expr) -> Result<Expr> {
        let line = self.line();
        self.next();
        let kind = match self.token().clone() {
            TokenKind::Name(name) => ExprKind::Attribute(Box::new(of), name),
            TokenKind::Int(at) => {
                let at = expression(line, ExprKind::Const(Const::Int(at)));
                ExprKind::Item(Box::new(of), Box::new(at))
            }
            _ => return self.unexpected("a name or a number"),
        };
        self.next();
        Ok(expression(line, kind))
    }

    fn item(&mut self, of: Expr) -> Result<Expr> {
        let line = self.line();
        self.next();
        let mut keys = Vec::new();
        while !self.is("]") {
            if !keys.is_empty() {
                self.expect(",")?;
            }
            keys.push(self.subscript()?);
        }
        self.next();
        let key = match keys.len() {
            1 => keys.remove(0),
            _ if keys
                .iter()
                .any(|key| matches!(key.kind, ExprKind::Slice(_))) =>
            {
                return Err(Error::at(line, "several slices in one subscript"));
            }
            _ => expression(line, ExprKind::Tuple(keys)),
        };
        let kind = ExprKind::Item(Box::new(of), Box::new(key));
        Ok(expression(line, kind))
    }

    fn subscript(&mut self) -> Result<Expr> {
        let line = self.line();
        let start = match self.is(":") {
            true => None,
            false => {
                let value = self.expression()?;
                if !self.is(":") {
                    return Ok(value);
                }
                Some(Box::new(value))
            }
        };
        self.expect(":")?;
        let part = |parser: &mut Self| match parser.is(":") || parser.is("]") || parser.is(",") {
            true => Ok(None),
            false => parser.expression().map(|value| Some(Box::new(value))),
        };
        let stop = part(self)?;
        let step = match self.skip(":") {
            true => part(self)?,
            false => None,
        };
        Ok(expression(line, ExprKind::Slice([start, stop, step])))
    }

    fn call(&mut self, of: Expr) -> Result<Expr> {
        let line = self.line();
        let arguments = self.arguments()?;
        if let ExprKind::Attribute(_, name) = &of.kind
            && let Some(reason) = names::refused_method(name)
        {
            return Err(Error::at(of.line, format!("the method '{name}': {reason}")));
        }
        if let ExprKind::Name(name) = &of.kind
            && let Some(reason) = names::refused_function(name)
        {
            return Err(Error::at(
                of.line,
                format!("the function '{name}': {reason}"),
            ));
        }
        let kind = ExprKind::Call(Box::new(of), arguments);
        Ok(expression(line, kind))
    }

    fn arguments(&mut self) -> Result<Arguments> {
        let line = self.line();
        let misplaced = || {
            Err(Error::at(
                line,
                "arguments of a call in an order that is not valid",
            ))
        };
        self.expect("(")?;
        let mut arguments = Arguments::default();
        let mut needs_comma = false;
        while !self.is(")") {
            if needs_comma {
                self.expect(",")?;
                if self.is(")") {
                    break;
                }
            }
            needs_comma = true;
            let Arguments {
                more_positional,
                more_keywords,
                keywords,
                ..
            } = &arguments;
            let has_more = more_positional.is_some() || more_keywords.is_some();
            let has_keywords = !keywords.is_empty();
            let ends = more_keywords.is_some();
            if self.is("*") {
                if has_more {
                    return misplaced();
                }
                self.next();
                arguments.more_positional = Some(Box::new(self.expression()?));
            } else if self.is("**") {
                if ends {
                    return misplaced();
                }
                self.next();
                arguments.more_keywords = Some(Box::new(self.expression()?));
            } else if matches!(self.token(), TokenKind::Name(_))
                && matches!(self.after(), TokenKind::Operator("="))
            {
                if ends {
                    return misplaced();
                }
                let name = self.expect_name()?;
                self.next();
                if arguments.keywords.iter().any(|(other, _)| *other == name) {
                    return self.fail(format!("the argument '{name}' is given twice"));
                }
                let value = self.expression()?;
                arguments.keywords.push((name, value));
            } else {
                if has_more || has_keywords {
                    return misplaced();
                }
                let value = self.expression()?;
                arguments.positional.push(value);
            }
        }
        self.expect(")")?;
        Ok(arguments)
    }

    fn filters_and_tests(&mut self, mut value: Expr) -> Result<Expr> {
        loop {
            value = match self.token() {
                TokenKind::Operator("|") => self.filters(Some(value))?,
                TokenKind::Name(name) if name == "is" => self.test(value)?,
                TokenKind::Operator("(") => self.call(value)?,
                _ => return Ok(value),
            };
        }
    }

    /// Filters of a value; without one, those at the beginning of a block, the first of which may
    /// stand without its `|`.
    fn filters(&mut self, mut value: Option<Expr>) -> Result<Expr> {
        let mut is_inline = value.is_none() && !self.is("|");
        let mut last = None;
        while is_inline || self.is("|") {
            if !is_inline {
                self.next();
            }
            is_inline = false;
            let line = self.line();
            let name = self.dotted_name()?;
            if let Some(reason) = names::refused_filter(&name) {
                return Err(Error::at(line, format!("the filter '{name}': {reason}")));
            }
            if !names::is_filter(&name) {
                let unknown = Error::at(line, format!("there is no filter '{name}'"));
                self.unknown.get_or_insert(unknown);
            }
            let arguments = match self.is("(") {
                true => self.arguments()?,
                false => Arguments::default(),
            };
            let of = value.take().or(last.take());
            let kind = ExprKind::Filter(of.map(Box::new), name, arguments);
            last = Some(expression(line, kind));
        }
        match last {
            Some(filtered) => Ok(filtered),
            None => self.unexpected("a filter"),
        }
    }

    fn dotted_name(&mut self) -> Result<String> {
        let mut name = self.expect_name()?;
        while self.skip(".") {
            name.push('.');
            name.push_str(&self.expect_name()?);
        }
        Ok(name)
    }

    fn test(&mut self, value: Expr) -> Result<Expr> {
        let line = self.line();
        self.next();
        let is_negated = self.skip_name("not");
        let name = self.dotted_name()?;
        if !names::is_test(&name) {
            let unknown = Error::at(line, format!("there is no test '{name}'"));
            self.unknown.get_or_insert(unknown);
        }
        let begins_value = match self.token() {
            TokenKind::Name(name) => !["else", "or", "and"].contains(&&name[..]),
            TokenKind::Str(_) | TokenKind::Int(_) | TokenKind::Float(_) => true,
            TokenKind::Operator(operator) => ["[", "{"].contains(operator),
            _ => false,
        };
        let arguments = if self.is("(") {
            self.arguments()?
        } else if begins_value {
            if self.is_name("is") {
                return self.fail("several tests in a row, each by 'is'");
            }
            let argument = self.primary()?;
            Arguments {
                positional: vec![self.postfix(argument)?],
                ..Arguments::default()
            }
        } else {
            Arguments::default()
        };
        let test = expression(line, ExprKind::Test(Box::new(value), name, arguments));
        Ok(match is_negated {
            true => expression(line, ExprKind::Not(Box::new(test))),
            false => test,
        })
    }
}

fn is_reserved(name: &str) -> bool {
    ["true", "false", "none", "True", "False", "None"].contains(&name)
}

fn mentions(target: &Target, name: &str) -> bool {
    match target {
        Target::Name(found) => found == name,
        Target::Tuple(targets) => targets.iter().any(|target| mentions(target, name)),
        Target::Attribute(..) => false,
    }
}
