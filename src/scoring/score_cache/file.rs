//! A file of scores: Parquet, a row for each key, and another for each further learning rate that a step
//! was simulated with.
//!
//! Numbers stand in columns of their own, so that other tools can read them. A checksum in each row
//! tells damage of any kind; a damaged row is not read.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeBinaryBuilder, Float32Builder, Float64Array, Float64Builder,
    ListBuilder, RecordBatch, UInt32Builder, UInt64Array,
};
use arrow::datatypes::{Float32Type, Float64Type, UInt32Type, UInt64Type};
use bytes::Bytes;
use ches_udfs::ResponseEmbedding;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use datafusion::parquet::basic::Compression;
use datafusion::parquet::file::properties::WriterProperties;

use crate::decoder::{Displacement, Simulation};
use crate::scoring::memo::{Key, ModelScores, Similarities};

const KEY: &str = "key";
const CHECKSUM: &str = "checksum";

/// Columns of numbers, in the order of [`Row::numbers`].
const NUMBERS: [&str; 16] = [
    "ches",
    "ches_normalized",
    "last_hidden_similarity",
    "chosen_logprob",
    "rejected_logprob",
    "chosen_rate",
    "rejected_rate",
    "chosen_rate_sgd",
    "rejected_rate_sgd",
    "overlap",
    "displacement_chosen_logprob",
    "displacement_rejected_logprob",
    "learning_rate",
    "chosen_change",
    "rejected_change",
    "response_tokens",
];

/// Columns of vectors, in the order of [`Row::vectors`].
const VECTORS: [&str; 2] = ["embedding_sum", "embedding_last"];

/// Columns of tokens and of their changes, in the order of [`Row::changes`].
const CHANGES: [[&str; 2]; 2] = [
    ["displacement_tokens", "displacement_changes"],
    ["simulated_tokens", "simulated_changes"],
];

/// Scores, laid out as a row.
#[derive(Debug, Default)]
struct Row {
    numbers: [Option<f64>; NUMBERS.len()],
    vectors: [Option<Vec<f32>>; VECTORS.len()],
    changes: [Option<Vec<(u32, f64)>>; CHANGES.len()],
}

impl Row {
    /// All that is said of a key: first everything with one simulation, then the other ones.
    fn all_of(scores: &ModelScores) -> Vec<Self> {
        let mut simulations = scores.simulations.iter();
        let mut first = Self::of(scores);
        let mut rows = Vec::new();
        if let Some((rate, of)) = simulations.next() {
            first.simulate(*rate, of);
        }
        rows.push(first);
        rows.extend(simulations.map(|(rate, of)| {
            let mut row = Self::default();
            row.simulate(*rate, of);
            row
        }));
        rows
    }

    fn simulate(&mut self, learning_rate: f64, of: &Simulation) {
        self.numbers[12] = Some(learning_rate);
        self.numbers[13..15].copy_from_slice(&of.changes.map(Some));
        self.changes[1] = Some(of.token_changes.clone());
    }

    fn of(scores: &ModelScores) -> Self {
        let mut row = Self::default();
        let numbers = &mut row.numbers;
        if let Some(of) = scores.similarities {
            numbers[..3].copy_from_slice(&[of.ches, of.ches_normalized, of.last_hidden].map(Some));
        }
        if let Some(log_probs) = scores.log_probs {
            numbers[3..5].copy_from_slice(&log_probs.map(Some));
        }
        if let Some(of) = &scores.displacement {
            numbers[5..7].copy_from_slice(&of.rates.map(Some));
            numbers[7..9].copy_from_slice(&of.rates_sgd.map(Some));
            numbers[9] = of.overlap;
            numbers[10..12].copy_from_slice(&of.log_probs.map(Some));
            row.changes[0] = Some(of.changes.clone());
        }
        if let Some(of) = &scores.embedding {
            numbers[15] = Some(of.tokens.into());
            row.vectors = [Some(of.sum.clone()), Some(of.last.clone())];
        }
        row
    }
}

impl From<Row> for ModelScores {
    fn from(row: Row) -> Self {
        let number = |at: usize| row.numbers[at];
        let two = |at: usize| Some([number(at)?, number(at + 1)?]);
        let similarities = || {
            Some(Similarities {
                ches: number(0)?,
                ches_normalized: number(1)?,
                last_hidden: number(2)?,
            })
        };
        let [displacement_changes, simulated_changes] = row.changes;
        let displacement = || {
            Some(Displacement {
                rates: two(5)?,
                rates_sgd: two(7)?,
                overlap: number(9),
                log_probs: two(10)?,
                changes: displacement_changes?,
            })
        };
        let simulation = || {
            let simulation = Simulation {
                changes: two(13)?,
                token_changes: simulated_changes?,
            };
            Some((number(12)?, Arc::new(simulation)))
        };
        let [sum, last] = row.vectors;
        let embedding = || {
            Some(ResponseEmbedding {
                sum: sum?,
                last: last?,
                tokens: number(15)? as i32,
            })
        };
        Self {
            similarities: similarities(),
            log_probs: two(3),
            displacement: displacement().map(Arc::new),
            simulations: simulation().into_iter().collect(),
            embedding: embedding().map(Arc::new),
        }
    }
}

/// Eight bytes of a hash of a key and of all that is said of it.
fn checksum(key: &Key, row: &Row) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key.bytes());
    for number in row.numbers {
        // No score is NaN.
        hasher.update(&number.unwrap_or(f64::NAN).to_le_bytes());
    }
    for vector in &row.vectors {
        hasher.update(
            &vector
                .as_ref()
                .map_or(u64::MAX, |of| of.len() as u64)
                .to_le_bytes(),
        );
        for number in vector.iter().flatten() {
            hasher.update(&number.to_le_bytes());
        }
    }
    for changes in &row.changes {
        hasher.update(
            &changes
                .as_ref()
                .map_or(u64::MAX, |of| of.len() as u64)
                .to_le_bytes(),
        );
        for (token, change) in changes.iter().flatten() {
            hasher.update(&token.to_le_bytes());
            hasher.update(&change.to_le_bytes());
        }
    }
    let hash = hasher.finalize();
    let first = hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
    u64::from_le_bytes(*first)
}

/// The bytes of a file of these scores.
///
/// # Errors
/// None that is known; Parquet's are passed on.
pub(super) fn encode(entries: &[(Key, ModelScores)]) -> Result<Vec<u8>, String> {
    let rows = entries.iter().flat_map(|(key, scores)| {
        let rows = Row::all_of(scores).into_iter();
        rows.map(move |row| (key, row))
    });
    let (of_keys, rows): (Vec<&Key>, Vec<Row>) = rows.unzip();
    let mut keys = FixedSizeBinaryBuilder::with_capacity(rows.len(), 32);
    let mut columns: Vec<(&str, ArrayRef)> = Vec::new();
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    for key in &of_keys {
        keys.append_value(key.bytes()).map_err(|e| failed(&e))?;
    }
    columns.push((KEY, Arc::new(keys.finish())));
    for (at, name) in NUMBERS.into_iter().enumerate() {
        let numbers: Float64Array = rows.iter().map(|row| row.numbers[at]).collect();
        columns.push((name, Arc::new(numbers)));
    }
    for (at, name) in VECTORS.into_iter().enumerate() {
        let mut list = ListBuilder::new(Float32Builder::new());
        for row in &rows {
            let vector = row.vectors[at].as_ref();
            list.values().append_slice(vector.map_or(&[], |of| of));
            list.append(vector.is_some());
        }
        columns.push((name, Arc::new(list.finish())));
    }
    for (at, [tokens_name, changes_name]) in CHANGES.into_iter().enumerate() {
        let mut tokens = ListBuilder::new(UInt32Builder::new());
        let mut changes = ListBuilder::new(Float64Builder::new());
        for row in &rows {
            for (token, change) in row.changes[at].iter().flatten() {
                tokens.values().append_value(*token);
                changes.values().append_value(*change);
            }
            tokens.append(row.changes[at].is_some());
            changes.append(row.changes[at].is_some());
        }
        columns.push((tokens_name, Arc::new(tokens.finish())));
        columns.push((changes_name, Arc::new(changes.finish())));
    }
    let checksums = of_keys.iter().zip(&rows);
    let checksums = checksums.map(|(key, row)| checksum(key, row));
    columns.push((CHECKSUM, Arc::new(UInt64Array::from_iter_values(checksums))));
    let batch = RecordBatch::try_from_iter(columns).map_err(|e| failed(&e))?;
    // Hashes and scores of floats do not compress.
    let properties = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties))
        .map_err(|e| failed(&e))?;
    writer.write(&batch).map_err(|e| failed(&e))?;
    writer.close().map_err(|e| failed(&e))?;
    Ok(bytes)
}

/// What a file says, and how many of its rows are damaged.
///
/// # Errors
/// When it is no such file, or damaged as a whole.
pub(super) fn decode(bytes: Bytes) -> Result<(Vec<(Key, ModelScores)>, usize), String> {
    // A reader of damaged files may stumble where nobody expected it.
    let decoded = catch_unwind(AssertUnwindSafe(|| decode_batches(bytes)));
    decoded.unwrap_or_else(|_| Err("not a Parquet file that can be read".into()))
}

fn decode_batches(bytes: Bytes) -> Result<(Vec<(Key, ModelScores)>, usize), String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| failed(&e))?;
    let reader = reader.build().map_err(|e| failed(&e))?;
    let (mut entries, mut damaged) = (Vec::<(Key, ModelScores)>::new(), 0);
    let mut places: HashMap<Key, usize> = HashMap::new();
    for batch in reader {
        let batch = batch.map_err(|e| failed(&e))?;
        let columns = Columns::of(&batch).ok_or("not the columns of a file of scores")?;
        for at in 0..batch.num_rows() {
            match columns.entry(at) {
                Some((key, scores)) => match places.entry(key) {
                    Entry::Occupied(place) => entries[*place.get()].1.add(scores),
                    Entry::Vacant(place) => {
                        place.insert(entries.len());
                        entries.push((key, scores));
                    }
                },
                None => damaged += 1,
            }
        }
    }
    Ok((entries, damaged))
}

/// The columns of a batch.
struct Columns<'a> {
    keys: &'a arrow::array::FixedSizeBinaryArray,
    numbers: Vec<&'a Float64Array>,
    vectors: Vec<&'a arrow::array::ListArray>,
    changes: Vec<[&'a arrow::array::ListArray; 2]>,
    checksums: &'a UInt64Array,
}

impl<'a> Columns<'a> {
    fn of(batch: &'a RecordBatch) -> Option<Self> {
        let column = |name: &str| batch.column_by_name(name);
        let list = |name: &str| column(name)?.as_list_opt::<i32>();
        let keys = column(KEY)?.as_fixed_size_binary_opt()?;
        let vectors: Vec<_> = VECTORS.into_iter().map(list).collect::<Option<_>>()?;
        let changes = CHANGES.map(|names| Some([list(names[0])?, list(names[1])?]));
        let changes: Vec<_> = changes.into_iter().collect::<Option<_>>()?;
        let are_floats =
            |of: &&arrow::array::ListArray| of.values().as_primitive_opt::<Float32Type>().is_some();
        let are_changes = |[tokens, changes]: &[&arrow::array::ListArray; 2]| {
            tokens.values().as_primitive_opt::<UInt32Type>().is_some()
                && changes.values().as_primitive_opt::<Float64Type>().is_some()
        };
        if keys.value_length() != 32
            || !vectors.iter().all(are_floats)
            || !changes.iter().all(are_changes)
        {
            return None;
        }
        let number = |name: &str| column(name)?.as_primitive_opt::<Float64Type>();
        Some(Self {
            keys,
            numbers: NUMBERS.into_iter().map(number).collect::<Option<_>>()?,
            vectors,
            changes,
            checksums: column(CHECKSUM)?.as_primitive_opt::<UInt64Type>()?,
        })
    }

    /// A row, unless it is damaged.
    fn entry(&self, at: usize) -> Option<(Key, ModelScores)> {
        let key = Key::from_bytes(self.keys.value(at).try_into().ok()?);
        let mut row = Row::default();
        for (number, column) in row.numbers.iter_mut().zip(&self.numbers) {
            *number = column.is_valid(at).then(|| column.value(at));
        }
        for (vector, column) in row.vectors.iter_mut().zip(&self.vectors) {
            let values = column.is_valid(at).then(|| column.value(at));
            *vector = values.map(|of| of.as_primitive::<Float32Type>().values().to_vec());
        }
        for (changes, [tokens, moved]) in row.changes.iter_mut().zip(&self.changes) {
            if tokens.is_valid(at) && moved.is_valid(at) {
                let (tokens, moved) = (tokens.value(at), moved.value(at));
                let tokens = tokens.as_primitive::<UInt32Type>().values().iter();
                let moved = moved.as_primitive::<Float64Type>().values().iter();
                *changes = Some(tokens.copied().zip(moved.copied()).collect());
            }
        }
        let is_whole =
            self.checksums.is_valid(at) && self.checksums.value(at) == checksum(&key, &row);
        is_whole.then(|| (key, row.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u32) -> Key {
        Key::new(&id.to_string(), None, &[])
    }

    fn entries() -> Vec<(Key, ModelScores)> {
        let similarities = Similarities {
            ches: -1.5,
            ches_normalized: 1e-300,
            last_hidden: f64::MAX,
        };
        let displacement = Displacement {
            rates: [1.0, -2.0],
            rates_sgd: [3.0, 4.0],
            overlap: None,
            log_probs: [-1.0, -0.0],
            changes: vec![(7, 0.1), (9, -0.2)],
        };
        let simulation = Simulation {
            changes: [1e-9, -1e-9],
            token_changes: Vec::new(),
        };
        let embedding = ResponseEmbedding {
            sum: vec![1.0, -2.5],
            last: vec![0.1, 0.2],
            tokens: 3,
        };
        let of_pair = ModelScores {
            similarities: Some(similarities),
            log_probs: Some([-3.0, -4.0]),
            displacement: Some(Arc::new(displacement)),
            simulations: vec![
                (2e-6, Arc::new(simulation.clone())),
                (1e-5, Arc::new(simulation)),
            ],
            embedding: None,
        };
        let of_response = ModelScores {
            embedding: Some(Arc::new(embedding)),
            ..ModelScores::default()
        };
        let plain = ModelScores {
            similarities: Some(similarities),
            ..ModelScores::default()
        };
        vec![(key(1), of_pair), (key(2), of_response), (key(3), plain)]
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = encode(&entries()).unwrap();
        assert_eq!(decode(bytes.into()).unwrap(), (entries(), 0));
    }

    /// Each byte in turn: a damaged file says nothing that was not in it.
    #[test]
    fn damage_is_noticed() {
        let written = entries();
        let bytes = encode(&written).unwrap();
        // But for rates of which the row is lost.
        let was_written = |(key, read): &(Key, ModelScores)| {
            written.iter().any(|(of, scores)| {
                let mut all = read.clone();
                all.add(scores.clone());
                let is_part = |simulation| scores.simulations.contains(simulation);
                of == key && all == *scores && read.simulations.iter().all(is_part)
            })
        };
        let mut noticed = 0;
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            match decode(damaged.into()) {
                Err(_) => noticed += 1,
                Ok((read, lost)) => {
                    assert!(read.iter().all(was_written), "byte {at}");
                    noticed += usize::from(lost > 0);
                }
            }
        }
        // Names, statistics and padding may be damaged without harm.
        assert!(noticed > bytes.len() / 4, "{noticed} of {}", bytes.len());
        for length in 0..bytes.len() {
            let cut = Bytes::copy_from_slice(&bytes[..length]);
            assert!(decode(cut).is_err(), "{length} bytes");
        }
    }
}
