//! Expressions.

use super::Parser;
use crate::texts::jinja::ast::{Arguments, Comparison, Const, Expr, ExprKind, Operator};
use crate::texts::jinja::error::{Error, Result};
use crate::texts::jinja::lexer::TokenKind;
use crate::texts::jinja::names;

impl Parser {
    pub(super) fn ends_tuple(&self) -> bool {
        let is_end = matches!(self.token(), TokenKind::VariableEnd | TokenKind::BlockEnd);
        is_end || self.is(")")
    }

    /// An expression, or several with commas between them.
    pub(super) fn tuple(&mut self, conditions: bool, in_parentheses: bool) -> Result<Expr> {
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

    pub(super) fn expression(&mut self) -> Result<Expr> {
        self.nested(Self::condition)
    }

    pub(super) fn condition(&mut self) -> Result<Expr> {
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

    pub(super) fn or(&mut self) -> Result<Expr> {
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

    pub(super) fn and(&mut self) -> Result<Expr> {
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

    pub(super) fn not(&mut self) -> Result<Expr> {
        let line = self.line();
        match self.skip_name("not") {
            true => {
                let negated = self.nested(Self::not)?;
                Ok(expression(line, ExprKind::Not(Box::new(negated))))
            }
            false => self.compare(),
        }
    }

    pub(super) fn compare(&mut self) -> Result<Expr> {
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
    pub(super) fn binary(
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

    pub(super) fn sum(&mut self) -> Result<Expr> {
        let operators = [("+", Operator::Add), ("-", Operator::Subtract)];
        self.binary(&operators, Self::concat)
    }

    pub(super) fn concat(&mut self) -> Result<Expr> {
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

    pub(super) fn product(&mut self) -> Result<Expr> {
        let operators = [
            ("*", Operator::Multiply),
            ("/", Operator::Divide),
            ("//", Operator::FloorDivide),
            ("%", Operator::Remainder),
        ];
        self.binary(&operators, Self::power)
    }

    pub(super) fn power(&mut self) -> Result<Expr> {
        self.binary(&[("**", Operator::Power)], |parser| parser.unary(true))
    }

    pub(super) fn unary(&mut self, with_filters: bool) -> Result<Expr> {
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

    pub(super) fn primary(&mut self) -> Result<Expr> {
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

    pub(super) fn mention(&mut self, name: &str) {
        for mentioned in &mut self.macros {
            match name {
                "varargs" => mentioned.varargs = true,
                "kwargs" => mentioned.kwargs = true,
                "caller" => mentioned.caller = true,
                _ => {}
            }
        }
    }

    pub(super) fn items<T>(
        &mut self,
        end: &str,
        parse: impl Fn(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
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

    pub(super) fn postfix(&mut self, mut value: Expr) -> Result<Expr> {
        loop {
            value = match self.token() {
                TokenKind::Operator(".") => self.attribute(value)?,
                TokenKind::Operator("[") => self.item(value)?,
                TokenKind::Operator("(") => self.call(value)?,
                _ => return Ok(value),
            };
        }
    }

    pub(super) fn attribute(&mut self, of: Expr) -> Result<Expr> {
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

    pub(super) fn item(&mut self, of: Expr) -> Result<Expr> {
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

    pub(super) fn subscript(&mut self) -> Result<Expr> {
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

    pub(super) fn call(&mut self, of: Expr) -> Result<Expr> {
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

    pub(super) fn arguments(&mut self) -> Result<Arguments> {
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

    pub(super) fn filters_and_tests(&mut self, mut value: Expr) -> Result<Expr> {
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
    pub(super) fn filters(&mut self, mut value: Option<Expr>) -> Result<Expr> {
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

    pub(super) fn dotted_name(&mut self) -> Result<String> {
        let mut name = self.expect_name()?;
        while self.skip(".") {
            name.push('.');
            name.push_str(&self.expect_name()?);
        }
        Ok(name)
    }

    pub(super) fn test(&mut self, value: Expr) -> Result<Expr> {
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

fn expression(line: u32, kind: ExprKind) -> Expr {
    Expr { line, kind }
}

pub(super) fn is_reserved(name: &str) -> bool {
    ["true", "false", "none", "True", "False", "None"].contains(&name)
}
