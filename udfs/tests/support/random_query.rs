//! Random queries with scores in random places, as two texts: one that calls the functions, and
//! one that reads columns which hold the same values.

use std::collections::BTreeMap;

use fastrand::Rng;

/// The texts of one query.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub calling: String,
    pub stored: String,
}

/// How often each place held a score, over all queries; and each pair of places in one query.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    pub places: BTreeMap<&'static str, usize>,
    pub together: BTreeMap<(&'static str, &'static str), usize>,
}

/// Every place that a query may put a score in.
pub(crate) const PLACES: [&str; 30] = [
    "aggregate argument",
    "aggregate filter",
    "aggregate order",
    "and",
    "case branch",
    "case condition",
    "coalesce",
    "correlated exists",
    "derived column",
    "distinct",
    "group by",
    "grouping set",
    "having",
    "in list",
    "in subquery",
    "join condition",
    "join equality",
    "limit below",
    "mark join",
    "or",
    "order by",
    "outer join condition",
    "qualify",
    "scalar subquery",
    "select",
    "text of another",
    "union branch",
    "where",
    "window",
    "window filter",
];

/// Scores by the name of the column that stores their value: the call, with `@` for the relation.
const SCORES: [(&str, &str); 9] = [
    ("score", "ches(@prompt, @chosen, @rejected)"),
    ("swapped", "ches(@prompt, @rejected, @chosen)"),
    (
        "hidden",
        "last_hidden_similarity(@prompt, @chosen, @rejected)",
    ),
    (
        "distance",
        "normalized_edit_distance(@prompt, @chosen, @rejected)",
    ),
    ("logprob", "log_prob(@prompt, @chosen)"),
    (
        "chosen_lp",
        "preference_scores(@prompt, @chosen, @rejected)['chosen_logprob']",
    ),
    (
        "tokens",
        "CAST(preference_scores(@prompt, @chosen, @rejected)['chosen_tokens'] AS DOUBLE)",
    ),
    ("normalized", "ches_normalized(@prompt, @chosen, @rejected)"),
    (
        "nested",
        "log_prob(@prompt, CASE WHEN ches(@prompt, @chosen, @rejected) > 0 THEN @chosen ELSE 'aa' END)",
    ),
];

/// Columns that every relation has.
const COLUMNS: [&str; 7] = ["id", "lang", "n", "stored", "prompt", "chosen", "rejected"];

/// The table that the queries read, with the values of the fake scorer in plain SQL.
pub(crate) fn tables(rows: usize) -> [String; 2] {
    let pairs = format!(
        "CREATE TABLE pairs AS SELECT value AS id, \
         CASE WHEN value % 3 = 0 THEN 'en' WHEN value % 3 = 1 THEN 'de' END AS lang, value % 7 AS n, \
         CASE WHEN value % 2 = 0 THEN CAST(value % 5 AS DOUBLE) END AS stored, \
         CASE WHEN value % 11 <> 0 THEN 'q' || (value % 13) END AS prompt, \
         repeat('a', 1 + value % 9) AS chosen, \
         CASE WHEN value % 17 <> 0 THEN repeat('b', 1 + value % 8) END AS rejected \
         FROM generate_series(1, {rows})"
    );
    let stored = "CREATE TABLE stored AS SELECT *, \
         CASE WHEN prompt IS NOT NULL THEN CAST(r - c AS DOUBLE) END AS score, \
         CASE WHEN prompt IS NOT NULL THEN CAST(c - r AS DOUBLE) END AS swapped, \
         CASE WHEN prompt IS NOT NULL THEN CAST(c * r AS DOUBLE) END AS hidden, \
         CASE WHEN prompt IS NOT NULL THEN abs(c - r) / CAST(greatest(c, r) AS DOUBLE) END AS distance, \
         CASE WHEN prompt IS NOT NULL THEN CAST(-c AS DOUBLE) END AS logprob, \
         CASE WHEN prompt IS NOT NULL AND r IS NOT NULL THEN CAST(-c AS DOUBLE) END AS chosen_lp, \
         CASE WHEN prompt IS NOT NULL AND r IS NOT NULL THEN CAST(c AS DOUBLE) END AS tokens, \
         CASE WHEN prompt IS NOT NULL THEN (r - c) / CAST(100 AS DOUBLE) END AS normalized, \
         CASE WHEN prompt IS NOT NULL THEN CASE WHEN r > c THEN CAST(-c AS DOUBLE) ELSE -2.0 END END AS nested \
         FROM (SELECT *, CAST(length(chosen) AS BIGINT) AS c, CAST(length(rejected) AS BIGINT) AS r FROM pairs)";
    [pairs, stored.into()]
}

/// A piece of SQL in both forms.
#[derive(Debug, Clone)]
struct Sql {
    calling: String,
    stored: String,
    has_score: bool,
}

impl Sql {
    fn plain(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            calling: text.clone(),
            stored: text,
            has_score: false,
        }
    }

    /// `template` with each `{}` replaced by a part.
    fn format(template: &str, parts: &[&Sql]) -> Self {
        let fill = |of: fn(&Sql) -> &str| {
            let mut pieces = template.split("{}");
            let mut text = pieces.next().unwrap_or_default().to_owned();
            for (piece, part) in pieces.zip(parts) {
                text.push_str(of(part));
                text.push_str(piece);
            }
            text
        };
        assert_eq!(template.matches("{}").count(), parts.len(), "{template}");
        Self {
            calling: fill(|part| &part.calling),
            stored: fill(|part| &part.stored),
            has_score: parts.iter().any(|part| part.has_score),
        }
    }

    fn join(parts: &[Sql], separator: &str) -> Self {
        let join = |of: fn(&Sql) -> &str| {
            let parts: Vec<_> = parts.iter().map(of).collect();
            parts.join(separator)
        };
        Self {
            calling: join(|part| &part.calling),
            stored: join(|part| &part.stored),
            has_score: parts.iter().any(|part| part.has_score),
        }
    }
}

/// A relation in scope.
#[derive(Debug, Clone)]
struct Relation {
    sql: Sql,
    name: String,
    /// Numeric columns besides [`COLUMNS`].
    derived: Vec<String>,
    /// Whether `id` is a key.
    has_key: bool,
}

pub(crate) struct Generator<'a> {
    rng: Rng,
    names: usize,
    used: Vec<&'static str>,
    coverage: &'a mut Coverage,
}

impl<'a> Generator<'a> {
    pub(crate) fn new(seed: u64, coverage: &'a mut Coverage) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            names: 0,
            used: Vec::new(),
            coverage,
        }
    }

    pub(crate) fn query(mut self) -> Query {
        let relation = self.relation(2);
        let sql = self.select(&relation);
        self.used.sort_unstable();
        self.used.dedup();
        for (at, place) in self.used.iter().enumerate() {
            *self.coverage.places.entry(place).or_default() += 1;
            for other in &self.used[at + 1..] {
                *self.coverage.together.entry((place, other)).or_default() += 1;
            }
        }
        Query {
            calling: sql.calling,
            stored: sql.stored,
        }
    }

    /// Notes that a place was filled, if it was by a score.
    fn at(&mut self, place: &'static str, sql: Sql) -> Sql {
        assert!(PLACES.contains(&place), "{place}");
        if sql.has_score {
            self.used.push(place);
        }
        sql
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.rng.usize(..n) == 0
    }

    fn name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    fn score(&mut self, relation: &Relation) -> Sql {
        let (column, call) = SCORES[self.rng.usize(..SCORES.len())];
        if column == "nested" {
            self.used.push("text of another");
        }
        let prefix = format!("{}.", relation.name);
        Sql {
            calling: call.replace('@', &prefix),
            stored: format!("{prefix}{column}"),
            has_score: true,
        }
    }

    /// A number that may be NULL.
    fn number(&mut self, relation: &Relation, depth: usize) -> Sql {
        let name = &relation.name;
        if depth == 0 {
            return match self.rng.usize(..6) {
                0 => Sql::plain(format!("{name}.id")),
                1 if !relation.derived.is_empty() => {
                    let at = self.rng.usize(..relation.derived.len());
                    Sql::plain(format!("{name}.{}", relation.derived[at]))
                }
                2 => Sql::plain(format!("{name}.stored")),
                _ => self.score(relation),
            };
        }
        match self.rng.usize(..9) {
            0 => {
                let condition = self.predicate(relation, depth - 1);
                let condition = self.at("case condition", condition);
                let then = self.number(relation, depth - 1);
                let then = self.at("case branch", then);
                if self.one_in(2) {
                    return Sql::format("CASE WHEN {} THEN {} END", &[&condition, &then]);
                }
                let second = self.predicate(relation, 0);
                let other = self.number(relation, depth - 1);
                let last = self.number(relation, 0);
                let last = self.at("case branch", last);
                Sql::format(
                    "CASE WHEN {} THEN {} WHEN {} THEN {} ELSE {} END",
                    &[&condition, &then, &second, &other, &last],
                )
            }
            1 => {
                let then = self.number(relation, depth - 1);
                let then = self.at("case branch", then);
                let other = self.number(relation, depth - 1);
                Sql::format(
                    &format!("CASE {name}.lang WHEN 'en' THEN {{}} ELSE {{}} END"),
                    &[&then, &other],
                )
            }
            2 => {
                let first = self.number(relation, 0);
                let second = self.number(relation, depth - 1);
                let sql = Sql::format("coalesce({}, {})", &[&first, &second]);
                self.at("coalesce", sql)
            }
            3 => {
                let inner = self.number(relation, depth - 1);
                Sql::format("abs({})", &[&inner])
            }
            4 => {
                let inner = self.number(relation, depth - 1);
                Sql::format("nullif({}, 1)", &[&inner])
            }
            5 => {
                let [left, right] = [0, 0].map(|_| self.number(relation, depth - 1));
                Sql::format("({} - {})", &[&left, &right])
            }
            6 => {
                let [left, right] = [0, 0].map(|_| self.number(relation, depth - 1));
                Sql::format("({} + 2 * {})", &[&left, &right])
            }
            _ => self.score(relation),
        }
    }

    fn predicate(&mut self, relation: &Relation, depth: usize) -> Sql {
        let name = &relation.name;
        if depth > 0 && self.one_in(2) {
            let (template, place) = if self.one_in(2) {
                ("({} AND {})", "and")
            } else {
                ("({} OR {})", "or")
            };
            let [left, right] = [0, 0].map(|_| self.predicate(relation, depth - 1));
            let sql = Sql::format(template, &[&left, &right]);
            return self.at(place, sql);
        }
        let inner = depth.saturating_sub(1);
        match self.rng.usize(..10) {
            0 => Sql::plain(format!("{name}.lang = 'en'")),
            1 => Sql::plain(format!("{name}.n < {}", self.rng.usize(..8))),
            2 => {
                let number = self.number(relation, inner);
                Sql::format("NOT ({} > 1)", &[&number])
            }
            3 => {
                let number = self.number(relation, inner);
                let sql = Sql::format("{} IN (-2, -1, 0, 1, 4)", &[&number]);
                self.at("in list", sql)
            }
            4 => {
                let number = self.number(relation, inner);
                Sql::format("{} IS NOT NULL", &[&number])
            }
            5 => {
                let number = self.number(relation, inner);
                Sql::format("{} BETWEEN -3 AND 3", &[&number])
            }
            _ => {
                let number = self.number(relation, inner);
                let bound = self.rng.i32(-4..8);
                let sign = if self.one_in(2) { ">" } else { "<=" };
                Sql::format(&format!("{{}} {sign} {bound}"), &[&number])
            }
        }
    }

    /// A predicate for WHERE, which may hold subqueries.
    fn condition(&mut self, relation: &Relation) -> Sql {
        let sql = match self.rng.usize(..8) {
            0 => {
                let inner = self.relation(0);
                let wanted = self.number(&inner, 0);
                let kept = self.predicate(&inner, 1);
                let from = self.number(relation, 0);
                let not = if self.one_in(3) { "NOT " } else { "" };
                let sql = Sql::format(
                    &format!("{{}} {not}IN (SELECT {{}} FROM {{}} WHERE {{}})"),
                    &[&from, &wanted, &inner.sql, &kept],
                );
                self.at("in subquery", sql)
            }
            1 => {
                let inner = self.relation(0);
                let inner_score = self.number(&inner, 0);
                let outer_score = self.number(relation, 0);
                let link = format!("{}.n = {}.n", inner.name, relation.name);
                let not = if self.one_in(3) { "NOT " } else { "" };
                let sql = Sql::format(
                    &format!("{not}EXISTS (SELECT 1 FROM {{}} WHERE {link} AND {{}} > {{}})"),
                    &[&inner.sql, &inner_score, &outer_score],
                );
                self.at("correlated exists", sql)
            }
            2 => {
                let inner = self.relation(0);
                let best = self.number(&inner, 1);
                let number = self.number(relation, 1);
                let sql = Sql::format(
                    "{} < (SELECT max({}) - 1 FROM {})",
                    &[&number, &best, &inner.sql],
                );
                self.at("scalar subquery", sql)
            }
            _ => self.predicate(relation, 2),
        };
        let sql = if self.one_in(3) && sql.calling.contains("(SELECT ") {
            let or = Sql::format(&format!("({{}} OR {}.n = 1)", relation.name), &[&sql]);
            self.at("mark join", or)
        } else {
            sql
        };
        self.at("where", sql)
    }

    /// The columns of a relation that reads another, under its own names.
    fn columns(&mut self, of: &Relation) -> (Sql, Vec<String>) {
        let name = &of.name;
        let all = |columns: &[&str]| {
            let columns: Vec<_> = columns.iter().map(|c| format!("{name}.{c}")).collect();
            columns.join(", ")
        };
        let stored: Vec<_> = COLUMNS.into_iter().chain(SCORES.map(|(c, _)| c)).collect();
        let mut columns = vec![Sql {
            calling: all(&COLUMNS),
            stored: all(&stored),
            has_score: false,
        }];
        let mut derived = Vec::new();
        for column in &of.derived {
            if self.one_in(2) {
                columns.push(Sql::plain(format!("{name}.{column}")));
                derived.push(column.clone());
            }
        }
        for _ in 0..self.rng.usize(..3) {
            let number = self.number(of, 1);
            let number = self.at("derived column", number);
            let column = self.name("d");
            columns.push(Sql::format(&format!("{{}} AS {column}"), &[&number]));
            derived.push(column);
        }
        (Sql::join(&columns, ", "), derived)
    }

    fn table(&mut self) -> Relation {
        let name = self.name("t");
        Relation {
            sql: Sql {
                calling: format!("pairs AS {name}"),
                stored: format!("stored AS {name}"),
                has_score: false,
            },
            name,
            derived: Vec::new(),
            has_key: true,
        }
    }

    fn relation(&mut self, depth: usize) -> Relation {
        if depth == 0 {
            return self.table();
        }
        match self.rng.usize(..6) {
            0 => self.table(),
            1 => self.union(depth),
            2 => self.joined(depth),
            _ => self.subquery(depth),
        }
    }

    fn subquery(&mut self, depth: usize) -> Relation {
        let inner = self.relation(depth - 1);
        let (columns, derived) = self.columns(&inner);
        let mut sql = Sql::format("SELECT {} FROM {}", &[&columns, &inner.sql]);
        if self.one_in(2) {
            let condition = self.condition(&inner);
            sql = Sql::format("{} WHERE {}", &[&sql, &condition]);
        }
        if inner.has_key && self.one_in(3) {
            let key = self.number(&inner, 1);
            let rows = self.rng.usize(5..40);
            let order = format!(
                "{{}} ORDER BY {{}} DESC NULLS LAST, {}.id LIMIT {rows}",
                inner.name
            );
            let limited = Sql::format(&order, &[&sql, &key]);
            sql = self.at("limit below", limited);
        }
        let name = self.name("s");
        Relation {
            sql: Sql::format(&format!("({{}}) AS {name}"), &[&sql]),
            name,
            derived,
            has_key: inner.has_key,
        }
    }

    fn union(&mut self, depth: usize) -> Relation {
        let column = self.name("u");
        let branches = [0, 0].map(|_| {
            let inner = self.relation(depth - 1);
            let bare = Relation {
                derived: Vec::new(),
                ..inner.clone()
            };
            let all = |columns: &[&str]| {
                let columns: Vec<_> = columns
                    .iter()
                    .map(|c| format!("{}.{c}", inner.name))
                    .collect();
                columns.join(", ")
            };
            let stored: Vec<_> = COLUMNS.into_iter().chain(SCORES.map(|(c, _)| c)).collect();
            let columns = Sql {
                calling: all(&COLUMNS),
                stored: all(&stored),
                has_score: false,
            };
            let number = self.number(&bare, 1);
            let number = self.at("union branch", number);
            let condition = self.predicate(&bare, 1);
            Sql::format(
                &format!("SELECT {{}}, CAST({{}} AS DOUBLE) AS {column} FROM {{}} WHERE {{}}"),
                &[&columns, &number, &inner.sql, &condition],
            )
        });
        let name = self.name("s");
        let [first, second] = branches;
        Relation {
            sql: Sql::format(
                &format!("({{}} UNION ALL {{}}) AS {name}"),
                &[&first, &second],
            ),
            name,
            derived: vec![column],
            has_key: false,
        }
    }

    fn joined(&mut self, depth: usize) -> Relation {
        let left = self.relation(depth - 1);
        let right = self.relation(0);
        let (kind, place) = match self.rng.usize(..4) {
            0 => ("LEFT JOIN", "outer join condition"),
            1 => ("FULL JOIN", "outer join condition"),
            2 => ("RIGHT JOIN", "outer join condition"),
            _ => ("JOIN", "join condition"),
        };
        let equality = format!("{}.id = {}.id + 1", left.name, right.name);
        let on = if self.one_in(3) {
            let [left, right] = [&left, &right].map(|side| self.number(side, 0));
            let sql = Sql::format(&format!("{equality} AND {{}} = {{}}"), &[&left, &right]);
            self.at("join equality", sql)
        } else if self.one_in(3) {
            let calls = SCORES[0].1;
            let (l, r) = (&left.name, &right.name);
            let both = Sql {
                calling: calls
                    .replace("@prompt", &format!("{l}.prompt"))
                    .replace("@chosen", &format!("{l}.chosen"))
                    .replace("@rejected", &format!("{r}.rejected")),
                stored: format!(
                    "CASE WHEN {l}.prompt IS NOT NULL THEN CAST(length({r}.rejected) AS BIGINT) - CAST(length({l}.chosen) AS BIGINT) END"
                ),
                has_score: true,
            };
            let sql = Sql::format(&format!("{equality} AND {{}} > 0"), &[&both]);
            self.at(place, sql)
        } else {
            let [a, b] = [&left, &right].map(|side| self.number(side, 1));
            let sql = Sql::format(&format!("{equality} AND {{}} < {{}}"), &[&a, &b]);
            self.at(place, sql)
        };
        let from = Sql::format(
            &format!("{{}} {kind} {{}} ON {{}}"),
            &[&left.sql, &right.sql, &on],
        );
        let (mut columns, mut derived) = self.columns(&left);
        let other = self.number(&right, 1);
        let other = self.at("derived column", other);
        let column = self.name("d");
        columns = Sql::format(&format!("{{}}, {{}} AS {column}"), &[&columns, &other]);
        derived.push(column);
        let name = self.name("s");
        Relation {
            sql: Sql::format(
                &format!("(SELECT {{}} FROM {{}}) AS {name}"),
                &[&columns, &from],
            ),
            name,
            derived,
            has_key: false,
        }
    }

    /// The query itself.
    fn select(&mut self, from: &Relation) -> Sql {
        let mut tail = Sql::format("FROM {}", &[&from.sql]);
        if self.one_in(2) {
            let condition = self.condition(from);
            tail = Sql::format("{} WHERE {}", &[&tail, &condition]);
        }
        match self.rng.usize(..7) {
            0 | 1 => self.aggregate(from, &tail),
            2 => self.windows(from, &tail),
            3 => {
                let number = self.number(from, 1);
                let number = self.at("distinct", number);
                let sql = format!("SELECT DISTINCT {{}}, {}.lang {{}}", from.name);
                Sql::format(&sql, &[&number, &tail])
            }
            _ => self.rows(from, &tail),
        }
    }

    fn rows(&mut self, from: &Relation, tail: &Sql) -> Sql {
        let mut columns = vec![Sql::plain(format!("{}.id", from.name))];
        for _ in 0..self.rng.usize(1..4) {
            let number = self.number(from, 2);
            columns.push(self.at("select", number));
        }
        let named: Vec<_> = columns
            .iter()
            .enumerate()
            .map(|(at, column)| Sql::format(&format!("{{}} AS o{at}"), &[column]))
            .collect();
        let mut sql = Sql::format("SELECT {} {}", &[&Sql::join(&named, ", "), tail]);
        if self.one_in(2) {
            let key = self.number(from, 1);
            let key = self.at("order by", key);
            let order = format!("{{}} ORDER BY {{}}, {}.id", from.name);
            sql = Sql::format(&order, &[&sql, &key]);
            if from.has_key {
                let rows = self.rng.usize(1..20);
                sql = Sql::format(&format!("{{}} LIMIT {rows}"), &[&sql]);
            }
        } else if from.has_key && self.one_in(3) {
            let rows = self.rng.usize(1..20);
            let order = format!("{{}} ORDER BY {}.id LIMIT {rows} OFFSET 1", from.name);
            sql = Sql::format(&order, &[&sql]);
        }
        sql
    }

    fn aggregate(&mut self, from: &Relation, tail: &Sql) -> Sql {
        let mut aggregates = vec![Sql::plain("count(*)")];
        for _ in 0..self.rng.usize(1..4) {
            let number = self.number(from, 1);
            let number = self.at("aggregate argument", number);
            let function = ["sum", "min", "max", "count", "avg"][self.rng.usize(..5)];
            let distinct = if function == "count" && self.one_in(3) {
                "DISTINCT "
            } else {
                ""
            };
            let mut sql = Sql::format(&format!("{function}({distinct}{{}})"), &[&number]);
            if self.one_in(3) {
                let filter = self.predicate(from, 1);
                let filter = self.at("aggregate filter", filter);
                sql = Sql::format("{} FILTER (WHERE {})", &[&sql, &filter]);
            }
            aggregates.push(sql);
        }
        if from.has_key && self.one_in(4) {
            let key = self.number(from, 1);
            let key = self.at("aggregate order", key);
            let order = format!("first_value({0}.id ORDER BY {{}}, {0}.id)", from.name);
            aggregates.push(Sql::format(&order, &[&key]));
        }
        let aggregates = Sql::join(&aggregates, ", ");
        if self.one_in(4) {
            return Sql::format("SELECT {} {}", &[&aggregates, tail]);
        }
        let key = self.number(from, 1);
        let key = Sql::format("floor({} / 3)", &[&key]);
        let mut sql = if self.one_in(3) {
            let key = self.at("grouping set", key);
            let sets = format!(
                "SELECT {{}}, {0}.lang, {{}} {{}} GROUP BY GROUPING SETS (({{}}), ({0}.lang), ())",
                from.name
            );
            Sql::format(&sets, &[&key, &aggregates, tail, &key])
        } else {
            let key = self.at("group by", key);
            Sql::format(
                "SELECT {}, {} {} GROUP BY {}",
                &[&key, &aggregates, tail, &key],
            )
        };
        if self.one_in(3) {
            let number = self.number(from, 1);
            let number = self.at("having", number);
            sql = Sql::format("{} HAVING max({}) > 0", &[&sql, &number]);
        }
        sql
    }

    fn windows(&mut self, from: &Relation, tail: &Sql) -> Sql {
        let over = |this: &mut Self| {
            let [partition, order, argument] = [0, 0, 0].map(|_| this.number(from, 1));
            let lang = Sql::plain(format!("{}.lang", from.name));
            let partition = if this.one_in(2) { partition } else { lang };
            let filter = this.predicate(from, 1);
            let (template, parts) = match this.rng.usize(..5) {
                0 => (
                    "sum({}) OVER (PARTITION BY {})",
                    vec![&argument, &partition],
                ),
                1 => (
                    "rank() OVER (PARTITION BY {} ORDER BY {})",
                    vec![&partition, &order],
                ),
                2 => ("percent_rank() OVER (ORDER BY {})", vec![&order]),
                3 => {
                    if filter.has_score {
                        this.used.push("window filter");
                    }
                    (
                        "min({}) FILTER (WHERE {}) OVER (PARTITION BY {})",
                        vec![&argument, &filter, &partition],
                    )
                }
                _ => (
                    "max({}) OVER (PARTITION BY {} ORDER BY {})",
                    vec![&argument, &partition, &order],
                ),
            };
            Sql::format(template, &parts)
        };
        let window = over(self);
        let window = self.at("window", window);
        let number = self.number(from, 1);
        let number = self.at("select", number);
        let select = format!("SELECT {}.id, {{}} AS w, {{}} AS o {{}}", from.name);
        let mut sql = Sql::format(&select, &[&window, &number, tail]);
        if self.one_in(2) {
            let window = over(self);
            let window = self.at("qualify", window);
            sql = Sql::format("{} QUALIFY {} >= 0.5", &[&sql, &window]);
        }
        sql
    }
}
