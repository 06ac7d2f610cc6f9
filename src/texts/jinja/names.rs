//! Which filters, tests, functions and methods there are, and which of jinja2's are refused.

/// The filters.
const FILTERS: [&str; 48] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
];

/// The tests.
const TESTS: [&str; 39] = [
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
];

const RANDOM: &str = "what it gives is not the same twice";
const MARKUP: &str = "of markup; chat templates write plain text";
const LAYOUT: &str = "not supported";
const BYTES: &str = "of bytes; chat templates write text";

/// Why a filter of jinja2 is not supported.
pub(super) fn refused_filter(name: &str) -> Option<&'static str> {
    Some(match name {
        "random" => RANDOM,
        "xmlattr" | "urlize" | "striptags" => MARKUP,
        "pprint" | "wordwrap" => LAYOUT,
        _ => return None,
    })
}

/// Why a function of jinja2 is not supported.
pub(super) fn refused_function(name: &str) -> Option<&'static str> {
    (name == "lipsum").then_some(RANDOM)
}

/// Why a method of Python's types is not supported.
pub(super) fn refused_method(name: &str) -> Option<&'static str> {
    Some(match name {
        "encode" | "to_bytes" | "from_bytes" => BYTES,
        "maketrans" | "translate" | "fromhex" | "fromkeys" => LAYOUT,
        _ => return None,
    })
}

/// Whether there is a filter of that name.
pub(super) fn is_filter(name: &str) -> bool {
    FILTERS.contains(&name)
}

/// Whether there is a test of that name.
pub(super) fn is_test(name: &str) -> bool {
    TESTS.contains(&name)
}
