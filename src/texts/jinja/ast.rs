//! The syntax tree of a template.

use std::sync::Arc;

/// An expression with its line.
#[derive(Debug)]
pub(super) struct Expr {
    pub line: u32,
    pub kind: ExprKind,
}

/// What an expression is.
#[derive(Debug)]
pub(super) enum ExprKind {
    Const(Const),
    Name(String),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Attribute(Box<Expr>, String),
    Item(Box<Expr>, Box<Expr>),
    /// Only as what an item is taken by: start, stop and step.
    Slice([Option<Box<Expr>>; 3]),
    Call(Box<Expr>, Arguments),
    /// Of nothing at the beginning of a block's filters.
    Filter(Option<Box<Expr>>, String, Arguments),
    Test(Box<Expr>, String, Arguments),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    Binary(Operator, Box<Expr>, Box<Expr>),
    Concat(Vec<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    /// An expression and what follows it: each comparison holds between its neighbours.
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    /// The condition, the value if it holds, and the other value.
    Condition(Box<Expr>, Box<Expr>, Option<Box<Expr>>),
}

/// A literal.
#[derive(Debug)]
pub(super) enum Const {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(String),
}

/// An operator of two numbers, texts or lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Remainder,
    Power,
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

/// The arguments of a call, a filter or a test.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub positional: Vec<Expr>,
    pub keywords: Vec<(String, Expr)>,
    /// `*values`
    pub more_positional: Option<Box<Expr>>,
    /// `**values`
    pub more_keywords: Option<Box<Expr>>,
}

/// What a value is assigned to.
#[derive(Debug)]
pub(super) enum Target {
    Name(String),
    Tuple(Vec<Target>),
    /// An attribute of a namespace.
    Attribute(String, String),
}

/// A statement with its line.
#[derive(Debug)]
pub(super) struct Statement {
    pub line: u32,
    pub kind: StatementKind,
}

/// What a statement is.
#[derive(Debug)]
pub(super) enum StatementKind {
    Text(String),
    Print(Expr),
    If {
        test: Expr,
        then: Vec<Statement>,
        otherwise: Vec<Statement>,
    },
    For(Arc<For>),
    Break,
    Continue,
    Set(Target, Expr),
    /// What the body renders as, through filters.
    SetBlock {
        target: Target,
        filter: Option<Expr>,
        body: Vec<Statement>,
    },
    With {
        names: Vec<(Target, Expr)>,
        body: Vec<Statement>,
    },
    Macro(Arc<Macro>),
    /// `{% call %}`: the body is what the called macro calls `caller`.
    CallBlock {
        call: Expr,
        caller: Arc<Macro>,
    },
    FilterBlock {
        filter: Expr,
        body: Vec<Statement>,
    },
    /// `{% generation %}`, a scope of its own.
    Generation(Vec<Statement>),
}

/// A loop.
#[derive(Debug)]
pub(super) struct For {
    pub target: Target,
    pub values: Expr,
    /// Which values are looped over.
    pub test: Option<Expr>,
    pub is_recursive: bool,
    pub body: Vec<Statement>,
    /// What is rendered where there are no values.
    pub otherwise: Vec<Statement>,
}

/// A macro, or the body of a call block.
#[derive(Debug)]
pub(super) struct Macro {
    /// None of a call block's body.
    pub name: Option<String>,
    /// Names with their defaults.
    pub parameters: Vec<(String, Option<Expr>)>,
    pub body: Vec<Statement>,
    /// Whether the body mentions `varargs`, `kwargs` and `caller`.
    pub takes: Extras,
}

/// What a macro takes besides its parameters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Extras {
    pub varargs: bool,
    pub kwargs: bool,
    pub caller: bool,
}
