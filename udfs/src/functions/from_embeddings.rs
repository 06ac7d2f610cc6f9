//! What the functions of two stored `response_embedding` values have in common.
//!
//! They are plain Arrow: no model, and exact up to the rounding of the stored `Float32` values.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float32Array, Float64Array, Int32Array, PrimitiveArray, StructArray,
};
use arrow::compute::cast;
use arrow::datatypes::{ArrowPrimitiveType, DataType};
use datafusion::common::{exec_datafusion_err, exec_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDFImpl, Signature, TypeSignature,
    Volatility,
};

use crate::calls::response_call::embedding_fields;

const ARGUMENTS: [&str; 2] = ["chosen", "rejected"];

const ACCEPTED: &str = "what response_embedding returns: a Struct with sum (a List, LargeList or \
    FixedSizeList of floating-point numbers) and tokens (an integer)";

/// A score of two sums of hidden embeddings.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct FromEmbeddings {
    pub name: &'static str,
    /// Whether each sum is divided by the number of positions that it is over.
    pub is_normalized: bool,
    pub documentation: Documentation,
    pub signature: Signature,
}

impl FromEmbeddings {
    pub(super) fn new(
        name: &'static str,
        is_normalized: bool,
        mut documentation: Documentation,
    ) -> Self {
        let argument = |name: &str| {
            let text = format!("The {name} response's response_embedding.");
            (name.to_owned(), text)
        };
        documentation.arguments = Some(ARGUMENTS.map(argument).into());
        // What is accepted is checked with the types at hand; the other is what information_schema shows.
        let shown =
            TypeSignature::Exact(vec![DataType::Struct(embedding_fields()); ARGUMENTS.len()]);
        let signatures = vec![TypeSignature::UserDefined, shown];
        Self {
            name,
            is_normalized,
            documentation,
            signature: Signature::one_of(signatures, Volatility::Immutable),
        }
    }
}

fn is_float(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Float16 | DataType::Float32 | DataType::Float64
    )
}

fn is_embedding(data_type: &DataType) -> bool {
    let DataType::Struct(fields) = data_type else {
        return *data_type == DataType::Null;
    };
    let of = |name| fields.find(name).map(|(_, field)| field.data_type());
    let has_sum = match of("sum") {
        Some(DataType::List(item) | DataType::LargeList(item)) => is_float(item.data_type()),
        Some(DataType::FixedSizeList(item, _)) => is_float(item.data_type()),
        _ => false,
    };
    has_sum && of("tokens").is_some_and(DataType::is_integer)
}

impl ScalarUDFImpl for FromEmbeddings {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&self.documentation)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        Ok(types.to_vec())
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        if types.len() != ARGUMENTS.len() {
            return plan_err!(
                "{} takes (chosen, rejected), found {} arguments",
                self.name,
                types.len()
            );
        }
        for (position, (argument, data_type)) in ARGUMENTS.iter().zip(types).enumerate() {
            if !is_embedding(data_type) {
                return plan_err!(
                    "{}: argument {} ({argument}) has type {data_type}; accepted: {ACCEPTED}",
                    self.name,
                    position + 1
                );
            }
        }
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let [chosen, rejected] =
            [&args.args[0], &args.args[1]].map(|arg| Embeddings::try_new(&arg.to_array(rows)?));
        let (chosen, rejected) = (chosen?, rejected?);
        let place = |row: usize| format!("{}: row {} of this batch of {rows}", self.name, row + 1);
        let score = |row: usize| {
            let (Some((plus, m_plus)), Some((minus, m_minus))) =
                (chosen.row(row), rejected.row(row))
            else {
                return Ok(None);
            };
            if plus.len() != minus.len() {
                return exec_err!(
                    "{}: the sum of chosen has {} numbers and that of rejected {}; both must come \
                     from one model",
                    place(row),
                    plus.len(),
                    minus.len()
                );
            }
            for (argument, contexts) in ARGUMENTS.iter().zip([m_plus, m_minus]) {
                if contexts < 1 {
                    let tokens = contexts - 1;
                    return exec_err!("{}: {argument} has {tokens} tokens", place(row));
                }
            }
            let (by_plus, by_minus) = if self.is_normalized {
                (f64::from(m_plus), f64::from(m_minus))
            } else {
                (1.0, 1.0)
            };
            let score = centered_product(plus, minus, by_plus, by_minus);
            if !score.is_finite() {
                return exec_err!("{}: the sums give a score of {score}", place(row));
            }
            Ok(Some(score))
        };
        let scores: Float64Array = (0..rows).map(score).collect::<Result<_>>()?;
        Ok(ColumnarValue::Array(Arc::new(scores)))
    }
}

/// A column of stored embeddings.
struct Embeddings {
    /// None where every row is NULL.
    columns: Option<Columns>,
}

struct Columns {
    structs: StructArray,
    sums: ArrayRef,
    offsets: Vec<usize>,
    values: Float32Array,
    tokens: Int32Array,
}

fn converted<T: ArrowPrimitiveType>(array: &ArrayRef) -> Result<PrimitiveArray<T>> {
    Ok(cast(array, &T::DATA_TYPE)?.as_primitive::<T>().clone())
}

impl Embeddings {
    fn try_new(array: &ArrayRef) -> Result<Self> {
        let Some(structs) = array.as_struct_opt() else {
            return Ok(Self { columns: None });
        };
        let column = |name| {
            let column = structs.column_by_name(name);
            column.ok_or_else(|| exec_datafusion_err!("an embedding without field '{name}'"))
        };
        let sums = column("sum")?;
        let to_usize = |at: i64| at as usize;
        let (offsets, values): (Vec<usize>, _) = match sums.data_type() {
            DataType::List(_) => {
                let list = sums.as_list::<i32>();
                let offsets = list.value_offsets().iter().map(|at| to_usize((*at).into()));
                (offsets.collect(), list.values())
            }
            DataType::LargeList(_) => {
                let list = sums.as_list::<i64>();
                (
                    list.value_offsets()
                        .iter()
                        .map(|at| to_usize(*at))
                        .collect(),
                    list.values(),
                )
            }
            DataType::FixedSizeList(_, size) => {
                let first = sums.as_fixed_size_list().value_offset(0);
                let at = |row: usize| to_usize(first.into()) + row * *size as usize;
                let list = sums.as_fixed_size_list();
                ((0..=list.len()).map(at).collect(), list.values())
            }
            other => return exec_err!("an embedding's sum has type {other}"),
        };
        let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
        Ok(Self {
            columns: Some(Columns {
                structs: structs.clone(),
                sums: Arc::clone(sums),
                offsets: offsets.into_iter().map(|at| at - first).collect(),
                values: converted(&values.slice(first, last - first))?,
                tokens: converted(column("tokens")?)?,
            }),
        })
    }

    /// The sum of a row and the number of positions that it is over; `None` where any is NULL.
    fn row(&self, row: usize) -> Option<(&[f32], i32)> {
        let columns = self.columns.as_ref()?;
        if columns.structs.is_null(row) || columns.sums.is_null(row) || columns.tokens.is_null(row)
        {
            return None;
        }
        let range = columns.offsets[row]..columns.offsets[row + 1];
        if columns.values.null_count() > 0 && range.clone().any(|at| columns.values.is_null(at)) {
            return None;
        }
        let contexts = columns.tokens.value(row).saturating_add(1);
        Some((&columns.values.values()[range], contexts))
    }
}

/// `⟨a/p, b/q − a/p⟩`, in double precision, in lanes that a compiler makes vector registers of.
fn centered_product(a: &[f32], b: &[f32], p: f64, q: f64) -> f64 {
    const LANES: usize = 8;
    let term = |a: f32, b: f32| {
        let a = f64::from(a) / p;
        a * (f64::from(b) / q - a)
    };
    let mut lanes = [0f64; LANES];
    let (chunks_a, chunks_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = chunks_a.remainder().iter().zip(chunks_b.remainder());
    let rest: f64 = rest.map(|(a, b)| term(*a, *b)).sum();
    for (a, b) in chunks_a.zip(chunks_b) {
        for lane in 0..LANES {
            lanes[lane] += term(a[lane], b[lane]);
        }
    }
    lanes.iter().sum::<f64>() + rest
}
