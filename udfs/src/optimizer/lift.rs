//! Moving scoring calls up a plan, node by node.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchemaRef};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{GroupingSet, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::logical_plan::{
    Aggregate, DmlStatement, Filter, Join, Limit, Projection, Sort, SubqueryAlias, TableScan,
    TableScanBuilder, Union, Window,
};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    EmptyRelation, Expr, JoinType, LogicalPlan, TableProviderFilterPushDown, Values, WriteOp, lit,
};

use super::HoistScores;
use super::calls::{Call, call_of, field_of_call, has_calls, has_nested_calls, replace, wanted};
use crate::functions::{
    BLOCKING_SUFFIX, CARRIED_PREFIX, field_name, is_null_of_nulls, reads_field, shown_name,
};
use crate::scorer::Needs;

/// Columns with what a call returned: this and a number; of a field also the field's name.
const CALL_PREFIX: &str = "__ches_";

/// A plan on its way up, and what its parent expects of it.
struct Lifted {
    plan: LogicalPlan,
    /// The columns that the parent knows. Those that are pending the plan does not have; it may
    /// have others that the parent does not know.
    schema: DFSchemaRef,
    /// Columns of `schema` that are not computed yet, by expressions over columns of `plan`.
    pending: Vec<(Column, Expr)>,
    /// Calls over columns of `plan` that are already made.
    held: Vec<Held>,
}

/// A call that was made.
struct Held {
    call: Call,
    /// Which column of the plan has the result.
    column: Column,
    /// Which columns have fields of it, or all of it, as it is read.
    read: Vec<(Option<Expr>, Column)>,
    /// Which of [`Lifter::needs`] it is.
    number: usize,
    /// Whether it is NULL as a whole in rows that an outer join filled: there the call itself gives
    /// structs, and errors.
    is_filled: bool,
}

impl Held {
    /// Whether a field of a call, or all of it, can be had here.
    fn gives(&self, call: &Call, field: Option<&Expr>) -> bool {
        let is_null_of_nulls = || field.is_some_and(is_null_of_nulls);
        call.is_in(&self.call) && (!self.is_filled || is_null_of_nulls())
    }

    /// The same, where columns have other names. `None` where what it reads or gave is gone.
    fn renamed(self, rename: impl Fn(&Column) -> Option<Column>) -> Result<Option<Self>> {
        let Some(column) = rename(&self.column) else {
            return Ok(None);
        };
        let has_columns = |expr: &Expr| expr.column_refs().iter().all(|c| rename(c).is_some());
        if !self.call.reads().all(has_columns) {
            return Ok(None);
        }
        let column_of = |column: &Column| rename(column).map(Expr::Column);
        let call = self.call.map(|expr| substitute(expr, column_of))?;
        let read = self.read.into_iter();
        Ok(Some(Self {
            call,
            column,
            read: read
                .filter_map(|(field, column)| Some((field, rename(&column)?)))
                .collect(),
            number: self.number,
            is_filled: self.is_filled,
        }))
    }
}

impl Lifted {
    fn of(plan: LogicalPlan) -> Self {
        Self {
            schema: Arc::clone(plan.schema()),
            plan,
            pending: Vec::new(),
            held: Vec::new(),
        }
    }

    fn has_exact_columns(&self) -> bool {
        self.plan.schema().columns() == self.schema.columns()
    }

    fn has_column(&self, column: &Column) -> bool {
        self.plan.schema().columns().contains(column)
    }

    fn has_columns_of(&self, expr: &Expr) -> bool {
        expr.column_refs().into_iter().all(|c| self.has_column(c))
    }

    /// Whether an expression of the parent will read something else than it says.
    fn touches(&self, expr: &Expr) -> bool {
        has_calls(expr) || self.reads_pending(expr)
    }

    fn reads_pending(&self, expr: &Expr) -> bool {
        let is_pending = |column: &&Column| {
            resolve(&self.schema, column)
                .is_some_and(|column| self.pending.iter().any(|(known, _)| *known == column))
        };
        expr.column_refs().iter().any(is_pending)
    }

    /// An expression of the parent, over the columns that the plan has.
    fn read(&self, expr: Expr) -> Result<Expr> {
        let expr = substitute(expr, |column| {
            let column = resolve(&self.schema, column)?;
            let pending = self.pending.iter().find(|(known, _)| *known == column);
            Some(match pending {
                Some((_, expr)) => expr.clone(),
                None => Expr::Column(column),
            })
        })?;
        fields_of_calls(expr)
    }

    fn read_all(&self, exprs: impl IntoIterator<Item = Expr>) -> Result<Vec<Expr>> {
        exprs.into_iter().map(|expr| self.read(expr)).collect()
    }

    /// Replaces the plan by one that also has `more` columns.
    fn project(&mut self, more: Vec<Expr>) -> Result<()> {
        let mut exprs = columns_of(&self.plan);
        exprs.extend(more);
        let input = Arc::new(std::mem::take(&mut self.plan));
        self.plan = LogicalPlan::Projection(Projection::try_new(exprs, input)?);
        Ok(())
    }

    fn project_some(&mut self, more: Vec<Expr>) -> Result<()> {
        if more.is_empty() {
            return Ok(());
        }
        self.project(more)
    }

    fn map_plan(
        mut self,
        map: impl FnOnce(Arc<LogicalPlan>) -> Result<LogicalPlan>,
    ) -> Result<Self> {
        self.plan = map(Arc::new(self.plan))?;
        Ok(self)
    }
}

fn columns_of(plan: &LogicalPlan) -> Vec<Expr> {
    let columns = plan.schema().columns().into_iter();
    columns.map(Expr::Column).collect()
}

/// The column as the schema names it.
fn resolve(schema: &DFSchemaRef, column: &Column) -> Option<Column> {
    let columns = schema.columns();
    if columns.contains(column) {
        return Some(column.clone());
    }
    schema
        .maybe_index_of_column(column)
        .map(|at| columns[at].clone())
}

/// Replaces columns, without looking into what replaces them.
fn substitute(expr: Expr, by: impl Fn(&Column) -> Option<Expr>) -> Result<Expr> {
    let replaced = expr.transform_up(|expr| {
        let replacement = match &expr {
            Expr::Column(column) => by(column),
            _ => None,
        };
        Ok(replacement.map_or_else(|| Transformed::no(expr), Transformed::yes))
    })?;
    Ok(replaced.data)
}

/// Reads fields of a call's structs that it has itself from the call.
fn fields_of_calls(expr: Expr) -> Result<Expr> {
    if !has_calls(&expr) {
        return Ok(expr);
    }
    let read = expr.transform_up(|expr| {
        Ok(match expr {
            Expr::ScalarFunction(access) if reads_field(&access) => {
                Transformed::yes(Expr::ScalarFunction(field_of_call(access)))
            }
            other => Transformed::no(other),
        })
    })?;
    Ok(read.data)
}

fn renamed(held: Vec<Held>, rename: impl Fn(&Column) -> Option<Column>) -> Result<Vec<Held>> {
    held.into_iter()
        .filter_map(|held| held.renamed(&rename).transpose())
        .collect()
}

fn named(expr: Expr, column: &Column) -> Expr {
    let (relation, name) = expr.qualified_name();
    if relation == column.relation && name == column.name {
        expr
    } else {
        expr.alias_qualified(column.relation.clone(), &column.name)
    }
}

fn without_alias(expr: Expr) -> Expr {
    match expr {
        Expr::Alias(alias) if alias.metadata.as_ref().is_none_or(|m| m.is_empty()) => {
            without_alias(*alias.expr)
        }
        other => other,
    }
}

fn has_outer_references(expr: &Expr) -> bool {
    let is_outer = |expr: &Expr| match expr {
        Expr::OuterReferenceColumn(..) => true,
        Expr::ScalarSubquery(query) => !query.outer_ref_columns.is_empty(),
        Expr::Exists(exists) => !exists.subquery.outer_ref_columns.is_empty(),
        Expr::InSubquery(query) => !query.subquery.outer_ref_columns.is_empty(),
        Expr::SetComparison(query) => !query.subquery.outer_ref_columns.is_empty(),
        _ => false,
    };
    expr.exists(|expr| Ok(is_outer(expr))).unwrap_or(true)
}

/// Which results of a side a join passes on.
#[derive(Clone, Copy)]
enum Kept {
    All,
    /// Where a row may be NULL as a whole: those that are NULL then.
    NullOfNulls,
    None,
}

impl Kept {
    fn of(self, held: Vec<Held>) -> impl Iterator<Item = Held> {
        held.into_iter().filter_map(move |mut held| {
            held.is_filled |= matches!(self, Self::NullOfNulls);
            match self {
                Self::All => Some(held),
                Self::NullOfNulls => held.call.is_null_of_nulls().then_some(held),
                Self::None => None,
            }
        })
    }
}

/// What a join passes on of its left and its right side.
fn kept_results(join_type: JoinType) -> [Kept; 2] {
    match join_type {
        JoinType::Inner => [Kept::All, Kept::All],
        JoinType::Left => [Kept::All, Kept::NullOfNulls],
        JoinType::Right => [Kept::NullOfNulls, Kept::All],
        JoinType::Full => [Kept::NullOfNulls, Kept::NullOfNulls],
        JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => [Kept::All, Kept::None],
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => [Kept::None, Kept::All],
    }
}

/// Rewrites one plan.
pub(super) struct Lifter<'a> {
    rule: &'a HoistScores,
    /// Keys and values of the metadata of scores.
    provenance: Vec<Expr>,
    /// What is needed of each call that was made.
    needs: Vec<Needs>,
    /// Numbers in names below this were given by an earlier run of the rule.
    first_number: usize,
    carried: usize,
}

impl<'a> Lifter<'a> {
    pub fn new(rule: &'a HoistScores, provenance: &[(String, String)]) -> Self {
        let provenance = provenance.iter().flat_map(|(key, value)| [key, value]);
        Self {
            rule,
            provenance: provenance.map(|text| lit(text.as_str())).collect(),
            needs: Vec::new(),
            first_number: 0,
            carried: 0,
        }
    }

    pub fn run(mut self, plan: LogicalPlan) -> Result<LogicalPlan> {
        self.first_number = first_free_number(&plan)?;
        let plan = self.whole(plan)?;
        self.state_needs(plan)
    }

    /// Takes apart what another rule put together: a call within a call of one projection.
    pub fn run_nested(mut self, plan: LogicalPlan) -> Result<LogicalPlan> {
        self.first_number = first_free_number(&plan)?;
        let plan = plan.transform_up_with_subqueries(|node| {
            let LogicalPlan::Projection(mut projection) = node else {
                return Ok(Transformed::no(node));
            };
            if !projection.expr.iter().any(has_nested_calls) {
                return Ok(Transformed::no(LogicalPlan::Projection(projection)));
            }
            let columns = projection.schema.columns();
            let mut input = Lifted::of(Arc::unwrap_or_clone(projection.input));
            let exprs = projection.expr.into_iter().map(without_alias);
            projection.expr = exprs.collect();
            self.make(&mut input, &mut projection.expr)?;
            let exprs = projection.expr.into_iter().zip(&columns);
            let exprs = exprs.map(|(expr, column)| named(expr, column)).collect();
            let plan = Projection::try_new(exprs, Arc::new(input.plan))?;
            Ok(Transformed::yes(LogicalPlan::Projection(plan)))
        })?;
        self.state_needs(plan.data)
    }

    /// A plan with exactly its own columns.
    fn whole(&mut self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let lifted = self.lift(plan)?;
        self.finish(lifted)
    }

    fn finish(&mut self, mut lifted: Lifted) -> Result<LogicalPlan> {
        self.make_pending(&mut lifted)?;
        if lifted.has_exact_columns() {
            return Ok(lifted.plan);
        }
        let exprs = lifted.schema.columns().into_iter().map(|column| {
            let pending = lifted.pending.iter().find(|(known, _)| *known == column);
            match pending {
                Some((_, expr)) => named(expr.clone(), &column),
                None => Expr::Column(column),
            }
        });
        let exprs = exprs.collect();
        let plan = Projection::try_new(exprs, Arc::new(lifted.plan))?;
        Ok(LogicalPlan::Projection(plan))
    }

    /// Writes into every call what is needed of it, which is known only now.
    fn state_needs(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let stated = plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Projection(_) => node.map_expressions(|expr| {
                let Expr::Alias(mut alias) = expr else {
                    return Ok(Transformed::no(expr));
                };
                let number = alias.name.strip_prefix(CALL_PREFIX);
                let needs = number
                    .and_then(|number| number.parse::<usize>().ok())
                    .and_then(|number| self.needs.get(number.checked_sub(self.first_number)?));
                if let (Some(needs), Some(call)) = (needs, call_of(&alias.expr)) {
                    *alias.expr = call.expr(*needs);
                }
                Ok(Transformed::yes(Expr::Alias(alias)))
            }),
            other => Ok(Transformed::no(other)),
        })?;
        Ok(stated.data)
    }

    /// Makes the calls that `exprs` need, as columns of the plan, and reads these instead.
    ///
    /// Calls whose columns the plan has not are left.
    fn make(&mut self, lifted: &mut Lifted, exprs: &mut Vec<Expr>) -> Result<()> {
        loop {
            self.read_held(lifted, exprs)?;
            let mut columns = Vec::new();
            // Within `exprs` a guarded call is what the call is: each with whether it is guarded.
            let mut made: Vec<(Call, bool, usize)> = Vec::new();
            for mut wanted in wanted(exprs) {
                if !wanted.call.reads().all(|expr| lifted.has_columns_of(expr)) {
                    continue;
                }
                wanted.guard.take_if(|guard| !lifted.has_columns_of(guard));
                let mut at = lifted.held.len();
                let call = match wanted.guard.clone() {
                    Some(guard) => wanted.call.clone().guarded(guard),
                    None => wanted.call.clone(),
                };
                let gives_all = |held: &Held| held.gives(&call, None);
                if let Some(known) = lifted.held.iter().position(gives_all) {
                    at = known;
                } else {
                    let number = self.needs.len();
                    let name = format!("{CALL_PREFIX}{}", self.first_number + number);
                    self.needs.push(wanted.needs);
                    columns.push(call.expr(wanted.needs).alias(&name));
                    lifted.held.push(Held {
                        call,
                        column: Column::new_unqualified(name),
                        read: Vec::new(),
                        number,
                        is_filled: false,
                    });
                }
                made.push((wanted.call, wanted.guard.is_some(), at));
            }
            if made.is_empty() {
                return Ok(());
            }
            lifted.project_some(columns)?;
            let at = |_: &[Held], call: &Call, _: Option<&Expr>| {
                let exact = made.iter().find(|(known, ..)| call == known);
                let is_within = |(known, is_guarded, _): &&(Call, bool, usize)| {
                    !is_guarded && call.is_in(known)
                };
                let within = || made.iter().find(is_within);
                exact.or_else(within).map(|(.., at)| *at)
            };
            self.read(lifted, exprs, at)?;
        }
    }

    /// Reads the results of the calls that were already made.
    fn read_held(&mut self, lifted: &mut Lifted, exprs: &mut Vec<Expr>) -> Result<()> {
        self.read(lifted, exprs, |held, call, field| {
            held.iter().position(|held| held.gives(call, field))
        })
    }

    /// Replaces calls by columns of what `find` finds, and fields of them by columns of their
    /// own: to DataFusion a column is a better key of sorts and joins than a function of one.
    fn read(
        &mut self,
        lifted: &mut Lifted,
        exprs: &mut Vec<Expr>,
        find: impl Fn(&[Held], &Call, Option<&Expr>) -> Option<usize>,
    ) -> Result<()> {
        if lifted.held.is_empty() {
            return Ok(());
        }
        let mut columns = Vec::new();
        for expr in exprs.iter().filter(|expr| has_calls(expr)) {
            replace(expr.clone(), &mut |call, needs, field| {
                let at = find(&lifted.held, call, field)?;
                let held = &mut lifted.held[at];
                self.needs[held.number] |= needs;
                if !held.read.iter().any(|(known, _)| known.as_ref() == field) {
                    let number = self.first_number + held.number;
                    let name = field.map_or_else(|| "all".into(), field_name);
                    let name = format!("{CALL_PREFIX}{number}_{name}");
                    let result = Expr::Column(held.column.clone());
                    let value = match field {
                        Some(field) => self.pick(result, field),
                        None => result,
                    };
                    columns.push(self.with_provenance(value).alias(&name));
                    held.read
                        .push((field.cloned(), Column::new_unqualified(name)));
                }
                None
            })?;
        }
        lifted.project_some(columns)?;
        *exprs = std::mem::take(exprs)
            .into_iter()
            .map(|expr| {
                replace(expr, &mut |call, _, field| {
                    let held = &lifted.held[find(&lifted.held, call, field)?];
                    let mut read = held.read.iter();
                    let found = read.find(|(known, _)| known.as_ref() == field);
                    found.map(|(_, column)| Expr::Column(column.clone()))
                })
            })
            .collect::<Result<_>>()?;
        Ok(())
    }

    /// A value without what its metadata would say.
    fn bare_value(&self, value: Expr) -> Expr {
        self.saying(value, &[])
    }

    fn with_provenance(&self, value: Expr) -> Expr {
        if self.provenance.is_empty() {
            return value;
        }
        self.saying(value, &self.provenance)
    }

    /// A value whose metadata says just this.
    fn saying(&self, value: Expr, entries: &[Expr]) -> Expr {
        let mut args = vec![value];
        args.extend_from_slice(entries);
        let provenance = Arc::clone(&self.rule.provenance);
        Expr::ScalarFunction(ScalarFunction::new_udf(provenance, args))
    }

    fn pick(&self, result: Expr, field: &Expr) -> Expr {
        let args = vec![result, field.clone()];
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&self.rule.pick), args))
    }

    fn make_for_one(&mut self, lifted: &mut Lifted, expr: Expr) -> Result<Expr> {
        let mut exprs = vec![expr];
        self.make(lifted, &mut exprs)?;
        Ok(exprs.swap_remove(0))
    }

    /// Makes the calls that pending columns wait for.
    fn make_pending(&mut self, lifted: &mut Lifted) -> Result<()> {
        let (columns, mut exprs): (Vec<_>, Vec<_>) =
            std::mem::take(&mut lifted.pending).into_iter().unzip();
        self.make(lifted, &mut exprs)?;
        lifted.pending = columns.into_iter().zip(exprs).collect();
        Ok(())
    }

    /// Computes every pending column. Those that only have another name in the plan stay so.
    fn settle(&mut self, lifted: &mut Lifted) -> Result<()> {
        self.make_pending(lifted)?;
        let (renamed, computed): (Vec<_>, Vec<_>) = std::mem::take(&mut lifted.pending)
            .into_iter()
            .partition(|(_, expr)| matches!(expr, Expr::Column(_)));
        lifted.pending = renamed;
        let columns = computed
            .into_iter()
            .map(|(column, expr)| named(expr, &column));
        lifted.project_some(columns.collect())
    }

    /// Makes calls where they stand, synchronously.
    fn block(&self, expr: Expr) -> Result<Expr> {
        replace(expr, &mut |call, needs, field| {
            let twin = self.rule.blocking.iter().find(|twin| {
                twin.name().strip_suffix(BLOCKING_SUFFIX) == Some(call.function_name())
            })?;
            let result = call.by(twin, needs);
            Some(match field {
                Some(field) => self.pick(result, field),
                None => result,
            })
        })
    }

    fn lift(&mut self, plan: LogicalPlan) -> Result<Lifted> {
        let plan = plan
            .map_subqueries(|query| Ok(Transformed::yes(self.whole(query)?)))?
            .data;
        match plan {
            LogicalPlan::Projection(projection) => self.projection(projection),
            LogicalPlan::Filter(filter) => self.filter(filter),
            LogicalPlan::Sort(sort) => self.sort(sort),
            LogicalPlan::Limit(limit) => self.limit(limit),
            LogicalPlan::SubqueryAlias(alias) => self.subquery_alias(alias),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Window(window) => self.window(window),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::TableScan(scan) => self.table_scan(scan),
            LogicalPlan::Values(values) => self.values(values),
            LogicalPlan::Dml(DmlStatement {
                op: WriteOp::Delete | WriteOp::Update,
                ..
            }) => self.without_columns(plan),
            other => self.as_it_is(other),
        }
    }

    /// A plan with exactly its own columns, also without what their metadata would say.
    fn bare(&mut self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let schema = Arc::clone(plan.schema());
        let plan = self.whole(plan)?;
        let fields = plan.schema().fields().iter().zip(schema.fields());
        let says_more: Vec<bool> = fields
            .map(|(f, of)| f.metadata() != of.metadata())
            .collect();
        if !says_more.contains(&true) {
            return Ok(plan);
        }
        let columns = schema.columns().into_iter().zip(says_more);
        let exprs = columns.map(|(column, says_more)| {
            let value = Expr::Column(column.clone());
            if !says_more {
                return value;
            }
            named(self.bare_value(value), &column)
        });
        let exprs = exprs.collect();
        Ok(LogicalPlan::Projection(Projection::try_new(
            exprs,
            Arc::new(plan),
        )?))
    }

    /// A node that neither carries columns nor holds calls that could become one.
    fn as_it_is(&mut self, plan: LogicalPlan) -> Result<Lifted> {
        // Nodes with a schema of their own, which another node's metadata would contradict.
        let is_bare = matches!(
            plan,
            LogicalPlan::Union(_)
                | LogicalPlan::Unnest(_)
                | LogicalPlan::RecursiveQuery(_)
                | LogicalPlan::Extension(_)
        );
        let plan = plan.map_children(|input| {
            Ok(Transformed::yes(if is_bare {
                self.bare(input)?
            } else {
                self.whole(input)?
            }))
        })?;
        let plan = plan.data.map_expressions(|expr| {
            if has_calls(&expr) {
                Ok(Transformed::yes(self.block(expr)?))
            } else {
                Ok(Transformed::no(expr))
            }
        })?;
        Ok(Lifted::of(plan.data))
    }

    /// A plan whose expressions are taken out and evaluated elsewhere.
    fn without_columns(&mut self, plan: LogicalPlan) -> Result<Lifted> {
        let plan = plan.transform_up(|node| {
            let names = NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                Ok(Transformed::yes(name.restore(self.block(expr)?)))
            })
        })?;
        Ok(Lifted::of(plan.data))
    }

    fn projection(&mut self, projection: Projection) -> Result<Lifted> {
        let schema = Arc::clone(&projection.schema);
        let mut input = self.lift(Arc::unwrap_or_clone(projection.input))?;
        if projection.expr.iter().any(has_outer_references) {
            self.settle(&mut input)?;
        }
        let exprs = projection.expr.into_iter().map(without_alias);
        let mut exprs = input.read_all(exprs)?;
        self.read_held(&mut input, &mut exprs)?;

        // An expression whose rows would be evaluated in another order or number stays here,
        // as does one that reads no column to carry.
        let stays = |expr: &Expr| expr.is_volatile() || expr.column_refs().is_empty();
        let (at, mut now): (Vec<_>, Vec<_>) = exprs
            .iter()
            .enumerate()
            .filter(|(_, expr)| has_calls(expr) && stays(expr))
            .map(|(at, expr)| (at, expr.clone()))
            .unzip();
        self.make(&mut input, &mut now)?;
        for (at, expr) in at.into_iter().zip(now) {
            exprs[at] = expr;
        }

        let mut outputs = Vec::new();
        let mut later = Vec::new();
        // Under which name a column of the input is found above.
        let mut carried: HashMap<Column, Column> = HashMap::new();
        for (expr, column) in exprs.into_iter().zip(schema.columns()) {
            if has_calls(&expr) && input.has_columns_of(&expr) {
                later.push((column, expr));
                continue;
            }
            if let Expr::Column(of_input) = &expr {
                carried
                    .entry(of_input.clone())
                    .or_insert_with(|| column.clone());
            }
            outputs.push(named(expr, &column));
        }
        for (_, expr) in &later {
            for column in expr.column_refs() {
                if !carried.contains_key(column) {
                    let name = self.carry(column);
                    outputs.push(named(Expr::Column(column.clone()), &name));
                    carried.insert(column.clone(), name);
                }
            }
        }
        for held in &input.held {
            let mut columns = held.call.reads().flat_map(Expr::column_refs);
            if columns.all(|column| carried.contains_key(column))
                && !carried.contains_key(&held.column)
            {
                let name = self.carry(&held.column);
                outputs.push(named(Expr::Column(held.column.clone()), &name));
                carried.insert(held.column.clone(), name);
            }
        }
        let above = |column: &Column| carried.get(column).cloned().map(Expr::Column);
        let pending = later
            .into_iter()
            .map(|(column, expr)| Ok((column, substitute(expr, above)?)))
            .collect::<Result<_>>()?;
        let held = renamed(input.held, |column| carried.get(column).cloned())?;
        let plan = Projection::try_new(outputs, Arc::new(input.plan))?;
        Ok(Lifted {
            plan: LogicalPlan::Projection(plan),
            schema,
            pending,
            held,
        })
    }

    /// A name for a column that a projection carries up. A result of this run keeps its own.
    fn carry(&mut self, column: &Column) -> Column {
        let is_result = |(is_text, number): (bool, usize)| !is_text && number >= self.first_number;
        if own_number(&column.name).is_some_and(is_result) {
            return Column::new_unqualified(&column.name);
        }
        self.new_name(&column.name)
    }

    /// A new name, which tells what the column was called before.
    fn new_name(&mut self, before: &str) -> Column {
        self.carried += 1;
        let number = self.first_number + self.carried;
        let before = shown_name(before);
        Column::new_unqualified(format!("{CARRIED_PREFIX}{number}_{before}"))
    }

    fn filter(&mut self, filter: Filter) -> Result<Lifted> {
        let mut input = self.lift(Arc::unwrap_or_clone(filter.input))?;
        if has_outer_references(&filter.predicate) {
            self.settle(&mut input)?;
        }
        let predicate = input.read(filter.predicate)?;
        self.filter_by(input, split_conjunction_owned(predicate))
    }

    /// Filters by the cheap conditions first, then by those that need calls, the one that needs
    /// the fewest forward passes first.
    fn filter_by(&mut self, mut input: Lifted, mut conditions: Vec<Expr>) -> Result<Lifted> {
        loop {
            self.read_held(&mut input, &mut conditions)?;
            let (cheap, dear): (Vec<_>, Vec<_>) = conditions
                .into_iter()
                .partition(|condition| !has_calls(condition));
            if let Some(predicate) = conjunction(cheap) {
                input = filtered(input, predicate)?;
            }
            conditions = dear;
            let cost = |at: &usize| {
                let wanted = wanted(std::slice::from_ref(&conditions[*at]));
                let models = wanted.iter().filter(|wanted| wanted.call.runs_model());
                (models.count(), wanted.len())
            };
            let fewest = (0..conditions.len()).min_by_key(cost);
            let Some(fewest) = fewest else {
                return Ok(input);
            };
            let condition = conditions.remove(fewest);
            let condition = self.make_for_one(&mut input, condition)?;
            let condition = self.block(condition)?;
            input = filtered(input, condition)?;
        }
    }

    fn sort(&mut self, mut sort: Sort) -> Result<Lifted> {
        let mut input = self.lift(Arc::unwrap_or_clone(sort.input))?;
        let keys: Vec<_> = sort.expr.iter().map(|key| key.expr.clone()).collect();
        let is_touched: Vec<_> = keys.iter().map(|key| input.touches(key)).collect();
        let mut keys = input.read_all(keys)?;
        self.make(&mut input, &mut keys)?;
        if sort.fetch.is_none() {
            // As many rows above as below: the texts need not be sorted too.
            self.make_pending(&mut input)?;
        }
        let mut columns = Vec::new();
        for ((key, expr), is_touched) in sort.expr.iter_mut().zip(keys).zip(is_touched) {
            key.expr = self.key(expr, is_touched, &mut columns)?;
        }
        input.project_some(columns)?;
        input.map_plan(|input| {
            Ok(LogicalPlan::Sort(Sort {
                expr: sort.expr,
                input,
                fetch: sort.fetch,
            }))
        })
    }

    /// A sort key as a column, which is added to `columns` if it is none yet. DataFusion loses
    /// the order of expressions whose range it does not know.
    fn key(&mut self, expr: Expr, is_touched: bool, columns: &mut Vec<Expr>) -> Result<Expr> {
        let expr = self.block(without_alias(expr))?;
        if !is_touched || matches!(expr, Expr::Column(_)) {
            return Ok(expr);
        }
        let name = self.new_name("key");
        columns.push(named(expr, &name));
        Ok(Expr::Column(name))
    }

    fn limit(&mut self, limit: Limit) -> Result<Lifted> {
        let input = self.lift(Arc::unwrap_or_clone(limit.input))?;
        input.map_plan(|input| Ok(LogicalPlan::Limit(Limit { input, ..limit })))
    }

    fn subquery_alias(&mut self, alias: SubqueryAlias) -> Result<Lifted> {
        let input = self.lift(Arc::unwrap_or_clone(alias.input))?;
        let relation = alias.alias;
        let requalified = |column: &Column| Column::new(Some(relation.clone()), &column.name);
        let pending = input
            .pending
            .into_iter()
            .map(|(column, expr)| {
                let expr = substitute(expr, |column| Some(Expr::Column(requalified(column))))?;
                Ok((requalified(&column), expr))
            })
            .collect::<Result<_>>()?;
        let held = renamed(input.held, |column| Some(requalified(column)))?;
        let plan = SubqueryAlias::try_new(Arc::new(input.plan), relation.clone())?;
        Ok(Lifted {
            plan: LogicalPlan::SubqueryAlias(plan),
            schema: alias.schema,
            pending,
            held,
        })
    }

    fn aggregate(&mut self, aggregate: Aggregate) -> Result<Lifted> {
        let mut input = self.lift(Arc::unwrap_or_clone(aggregate.input))?;
        let names = NamePreserver::new_for_projection();
        let saved: Vec<_> = aggregate.aggr_expr.iter().map(|e| names.save(e)).collect();
        let mut aggregates = input.read_all(aggregate.aggr_expr)?;

        let mut keys: Vec<Expr> = Vec::new();
        for expr in &aggregate.group_expr {
            let of_expr = match expr {
                Expr::GroupingSet(set) => set.distinct_expr().into_iter().cloned().collect(),
                other => vec![other.clone()],
            };
            keys.extend(of_expr);
        }
        let key_columns: Vec<Column> = keys
            .iter()
            .map(|key| {
                let (relation, name) = key.qualified_name();
                Column::new(relation, name)
            })
            .collect();
        let is_touched: Vec<bool> = keys.iter().map(|key| input.touches(key)).collect();
        let mut computed = input.read_all(keys.iter().cloned())?;

        let mut all = [aggregates.clone(), computed.clone()].concat();
        self.make(&mut input, &mut all)?;
        computed = all.split_off(aggregates.len());
        aggregates = all;

        // A key that is computed below keeps its name.
        let mut below = Vec::new();
        let mut replaced: Vec<(Expr, Expr)> = Vec::new();
        let keys = keys.into_iter().zip(key_columns);
        for (((key, column), expr), is_touched) in keys.zip(computed).zip(is_touched) {
            if !is_touched {
                continue;
            }
            if !input.has_column(&column) && !replaced.iter().any(|(known, _)| *known == key) {
                // Of a CASE of scores DataFusion says two things about whether it may be NULL; a
                // function of it always may.
                let key = match self.block(expr)? {
                    column @ Expr::Column(_) => column,
                    computed => self.bare_value(computed),
                };
                below.push(named(key, &column));
            }
            replaced.push((key, Expr::Column(column)));
        }
        input.project_some(below)?;
        let by = |key: Expr| {
            let found = replaced.iter().find(|(known, _)| *known == key);
            found.map_or(key, |(_, column)| column.clone())
        };
        let all_by = |keys: Vec<Expr>| keys.into_iter().map(&by).collect::<Vec<_>>();
        let group_expr = aggregate.group_expr.into_iter().map(|expr| match expr {
            Expr::GroupingSet(set) => Expr::GroupingSet(match set {
                GroupingSet::Rollup(keys) => GroupingSet::Rollup(all_by(keys)),
                GroupingSet::Cube(keys) => GroupingSet::Cube(all_by(keys)),
                GroupingSet::GroupingSets(sets) => {
                    GroupingSet::GroupingSets(sets.into_iter().map(all_by).collect())
                }
            }),
            key => by(key),
        });
        let group_expr = group_expr.collect();
        let aggregates = aggregates
            .into_iter()
            .zip(saved)
            .map(|(expr, name)| Ok(name.restore(self.block(expr)?)))
            .collect::<Result<_>>()?;
        let plan = Aggregate::try_new(Arc::new(input.plan), group_expr, aggregates)?;
        Ok(Lifted {
            schema: aggregate.schema,
            plan: LogicalPlan::Aggregate(plan),
            pending: Vec::new(),
            held: Vec::new(),
        })
    }

    fn window(&mut self, window: Window) -> Result<Lifted> {
        let mut input = self.lift(Arc::unwrap_or_clone(window.input))?;
        let names = NamePreserver::new_for_projection();
        let saved: Vec<_> = window.window_expr.iter().map(|e| names.save(e)).collect();
        let is_touched: Vec<_> = window
            .window_expr
            .iter()
            .map(|e| input.touches(e))
            .collect();
        let mut exprs = input.read_all(window.window_expr)?;
        self.make(&mut input, &mut exprs)?;
        let mut columns = Vec::new();
        let exprs = exprs
            .into_iter()
            .zip(is_touched)
            .zip(saved)
            .map(|((expr, is_touched), name)| {
                let expr = self.window_keys(expr, is_touched, &mut columns)?;
                Ok(name.restore(self.block(expr)?))
            })
            .collect::<Result<_>>()?;
        input.project_some(columns)?;
        let mut lifted =
            input.map_plan(|input| Ok(LogicalPlan::Window(Window::try_new(exprs, input)?)))?;
        lifted.schema = window.schema;
        Ok(lifted)
    }

    fn window_keys(
        &mut self,
        expr: Expr,
        is_touched: bool,
        columns: &mut Vec<Expr>,
    ) -> Result<Expr> {
        let keyed = expr.transform_down(|expr| {
            let Expr::WindowFunction(mut function) = expr else {
                return Ok(Transformed::no(expr));
            };
            for key in &mut function.params.partition_by {
                *key = self.key(std::mem::take(key), is_touched, columns)?;
            }
            for key in &mut function.params.order_by {
                key.expr = self.key(std::mem::take(&mut key.expr), is_touched, columns)?;
            }
            Ok(Transformed::yes(Expr::WindowFunction(function)))
        })?;
        Ok(keyed.data)
    }

    fn join(&mut self, join: Join) -> Result<Lifted> {
        let join_type = join.join_type;
        let mut left = self.lift(Arc::unwrap_or_clone(join.left))?;
        let mut right = self.lift(Arc::unwrap_or_clone(join.right))?;
        // A semi join only drops rows of the side that it keeps; any other may repeat rows, or
        // fill columns with NULL.
        if !matches!(join_type, JoinType::LeftSemi | JoinType::LeftAnti) {
            self.settle(&mut left)?;
        }
        if !matches!(join_type, JoinType::RightSemi | JoinType::RightAnti) {
            self.settle(&mut right)?;
        }
        let (left_on, right_on): (Vec<_>, Vec<_>) = join.on.into_iter().unzip();
        let mut left_on = left.read_all(left_on)?;
        let mut right_on = right.read_all(right_on)?;
        self.make(&mut left, &mut left_on)?;
        self.make(&mut right, &mut right_on)?;

        let mut conditions = Vec::new();
        for condition in join.filter.into_iter().flat_map(split_conjunction_owned) {
            let of_left = |c: &Column| left.schema.columns().contains(c);
            let of_right = |c: &Column| right.schema.columns().contains(c);
            let condition = substitute(condition, |column| {
                let is_right = !of_left(column)
                    && (of_right(column) || resolve(&left.schema, column).is_none());
                let side = if is_right { &right } else { &left };
                side.read(Expr::Column(column.clone())).ok()
            })?;
            conditions.push(condition);
        }
        self.make(&mut left, &mut conditions)?;
        self.make(&mut right, &mut conditions)?;
        // Calls over columns of both sides.
        let (mut crossing, mut conditions): (Vec<_>, Vec<_>) =
            conditions.into_iter().partition(has_calls);
        if join_type != JoinType::Inner {
            for condition in std::mem::take(&mut crossing) {
                conditions.push(self.block(condition)?);
            }
        }

        // A mark is named after the relation that all columns of its side come from.
        match join_type {
            JoinType::LeftMark => one_relation(&mut right, [&mut right_on, &mut conditions])?,
            JoinType::RightMark => one_relation(&mut left, [&mut left_on, &mut conditions])?,
            _ => {}
        }
        let pending = [left.pending, right.pending].concat();
        let [of_left, of_right] = kept_results(join_type);
        let held = of_left.of(left.held).chain(of_right.of(right.held));
        let held = held.collect();
        let plan = Join::try_new(
            Arc::new(left.plan),
            Arc::new(right.plan),
            left_on.into_iter().zip(right_on).collect(),
            conjunction(conditions),
            join_type,
            join.join_constraint,
            join.null_equality,
            join.null_aware,
        )?;
        let joined = Lifted {
            plan: LogicalPlan::Join(plan),
            schema: join.schema,
            pending,
            held,
        };
        self.filter_by(joined, crossing)
    }

    /// A table is not asked to filter by a score.
    fn table_scan(&mut self, mut scan: TableScan) -> Result<Lifted> {
        let schema = Arc::clone(&scan.projected_schema);
        let (dear, cheap): (Vec<_>, Vec<_>) = scan.filters.into_iter().partition(has_calls);
        scan.filters = cheap;
        if dear.is_empty() {
            return Ok(Lifted::of(LogicalPlan::TableScan(scan)));
        }
        // What the table would have filtered exactly is in no filter above it.
        let support = scan
            .source
            .supports_filters_pushdown(&dear.iter().collect::<Vec<_>>())?;
        let exact = dear
            .into_iter()
            .zip(support)
            .filter_map(|(filter, support)| {
                (support == TableProviderFilterPushDown::Exact).then_some(filter)
            });
        let exact: Vec<Expr> = exact.collect();
        if exact.is_empty() {
            return Ok(Lifted::of(LogicalPlan::TableScan(scan)));
        }
        let table_schema = scan.source.schema();
        if let Some(projection) = &mut scan.projection {
            for column in exact.iter().flat_map(Expr::column_refs) {
                let at = table_schema.index_of(&column.name)?;
                if !projection.contains(&at) {
                    projection.push(at);
                }
            }
        }
        let fetch = scan.fetch.take();
        let wider = TableScanBuilder::new(scan.table_name, scan.source)
            .with_projection(scan.projection)
            .with_filters(scan.filters)
            .with_statistics_requests(scan.statistics_requests)
            .build()?;
        let mut lifted = Lifted::of(LogicalPlan::TableScan(wider));
        lifted = self.filter_by(lifted, exact)?;
        lifted.schema = schema;
        match fetch {
            None => Ok(lifted),
            Some(rows) => lifted.map_plan(|input| {
                Ok(LogicalPlan::Limit(Limit {
                    skip: None,
                    fetch: Some(Box::new(lit(rows as i64))),
                    input,
                }))
            }),
        }
    }

    /// Rows of constants with calls among them become a query each.
    fn values(&mut self, values: Values) -> Result<Lifted> {
        if !values.values.iter().flatten().any(has_calls) {
            return Ok(Lifted::of(LogicalPlan::Values(values)));
        }
        let mut queries = Vec::with_capacity(values.values.len());
        for row in values.values {
            let row = row.into_iter().zip(values.schema.columns());
            let exprs = row.map(|(expr, column)| named(without_alias(expr), &column));
            let one_row = LogicalPlan::EmptyRelation(EmptyRelation {
                produce_one_row: true,
                schema: Arc::new(datafusion::common::DFSchema::empty()),
            });
            let query = Projection::try_new(exprs.collect(), Arc::new(one_row))?;
            queries.push(Arc::new(self.bare(LogicalPlan::Projection(query))?));
        }
        let mut plan = match <[_; 1]>::try_from(queries) {
            Ok([only]) => Arc::unwrap_or_clone(only),
            Err(inputs) => LogicalPlan::Union(Union {
                inputs,
                schema: Arc::clone(&values.schema),
            }),
        };
        if plan.schema().columns() != values.schema.columns() {
            plan = plan.recompute_schema()?;
        }
        Ok(Lifted::of(plan))
    }
}

/// A number that no column of an earlier run of the rule has in its name.
fn first_free_number(plan: &LogicalPlan) -> Result<usize> {
    let mut free = 0;
    plan.apply_with_subqueries(|node| {
        for field in node.schema().fields() {
            if let Some((_, number)) = own_number(field.name()) {
                free = free.max(number + 1);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(free)
}

/// The number in a name that this rule gave, and whether it is that of a text.
fn own_number(name: &str) -> Option<(bool, usize)> {
    let text = name.strip_prefix(CARRIED_PREFIX);
    let rest = text.or_else(|| name.strip_prefix(CALL_PREFIX))?;
    let number = rest.split('_').next()?.parse::<u32>().ok()?;
    Some((text.is_some(), number as usize))
}

/// Names every column of a side after the one relation that its own columns are of.
fn one_relation<const N: usize>(side: &mut Lifted, readers: [&mut Vec<Expr>; N]) -> Result<()> {
    let relations = side
        .schema
        .columns()
        .into_iter()
        .map(|column| column.relation);
    let relations: Vec<_> = relations.collect();
    let Some(relation) = relations.first().cloned().flatten() else {
        return Ok(());
    };
    let is_other = |column: &Column| column.relation.as_ref() != Some(&relation);
    if relations.iter().any(|of| of.as_ref() != Some(&relation))
        || !side.plan.schema().columns().iter().any(is_other)
    {
        return Ok(());
    }
    let of_relation = |column: &Column| Column::new(Some(relation.clone()), &column.name);
    let columns = side.plan.schema().columns().into_iter();
    let exprs = columns.map(|column| {
        let name = of_relation(&column);
        named(Expr::Column(column), &name)
    });
    let exprs = exprs.collect();
    let before: Vec<Column> = side.plan.schema().columns();
    let input = Arc::new(std::mem::take(&mut side.plan));
    side.plan = LogicalPlan::Projection(Projection::try_new(exprs, input)?);
    for exprs in readers {
        for expr in exprs {
            *expr = substitute(std::mem::take(expr), |column| {
                let is_moved = before.contains(column) && is_other(column);
                is_moved.then(|| Expr::Column(of_relation(column)))
            })?;
        }
    }
    Ok(())
}

fn filtered(input: Lifted, predicate: Expr) -> Result<Lifted> {
    input.map_plan(|input| Ok(LogicalPlan::Filter(Filter::try_new(predicate, input)?)))
}
