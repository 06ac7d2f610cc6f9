//! The header of a GGUF file: keys with values, and where tensors are.

use std::collections::HashMap;
use std::ops::Range;

use candle_core::quantized::GgmlDType;

const MAGIC: &[u8; 4] = b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_DIMENSIONS: u32 = 4;

/// A metadata value. Numbers keep their kind, not their width.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any unsigned or signed integer.
    Integer(i128),
    /// A float of either width.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A string.
    String(String),
    /// An array of integers.
    Integers(Vec<i64>),
    /// An array of floats.
    Floats(Vec<f32>),
    /// An array of booleans.
    Bools(Vec<bool>),
    /// An array of strings.
    Strings(Vec<String>),
}

impl Value {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Bool(_) => "a boolean",
            Self::String(_) => "a string",
            Self::Integers(_) => "an array of integers",
            Self::Floats(_) => "an array of floats",
            Self::Bools(_) => "an array of booleans",
            Self::Strings(_) => "an array of strings",
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct TensorInfo {
    pub(super) dtype: GgmlDType,
    /// Outermost first, as candle has them; the file has them innermost first.
    pub(super) shape: Vec<usize>,
    /// Which of the model's files it is in.
    pub(super) file: usize,
    pub(super) start: usize,
    pub(super) bytes: usize,
}

impl TensorInfo {
    /// Where it is in its file.
    pub(super) fn range(&self) -> Range<usize> {
        self.start..self.start + self.bytes
    }
}

pub(super) struct Header {
    pub(super) metadata: HashMap<String, Value>,
    pub(super) tensors: HashMap<String, TensorInfo>,
}

impl Header {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = Reader { bytes, at: 0 };
        if reader.take(4, "the magic")? != MAGIC {
            return Err("not a GGUF file: it does not begin with 'GGUF'".into());
        }
        let version = reader.u32("the version")?;
        if !matches!(version, 2 | 3) {
            return Err(format!(
                "GGUF version {version}; accepted: 2 and 3, little endian"
            ));
        }
        let tensor_count = reader.u64("the number of tensors")?;
        let metadata_count = reader.u64("the number of metadata entries")?;
        // A key and a type, and a value of at least a byte; a name, a dimension count, a type
        // and an offset.
        reader.check_count(metadata_count, 8 + 4 + 1, "metadata entries")?;
        reader.check_count(tensor_count, 8 + 4 + 4 + 8, "tensors")?;
        let mut metadata = HashMap::new();
        for _ in 0..metadata_count {
            let key = reader.string("a metadata key")?;
            let value = reader
                .u32("a metadata type")
                .and_then(|kind| reader.value(kind))
                .map_err(|reason| format!("metadata {key}: {reason}"))?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(format!("metadata {key} is there twice"));
            }
        }
        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(Value::Integer(value)) => u64::try_from(*value)
                .ok()
                .filter(|value| value.is_power_of_two() && (8..=1 << 20).contains(value))
                .ok_or_else(|| {
                    format!("general.alignment is {value}; accepted: a power of 2 from 8")
                })?,
            Some(other) => return Err(format!("general.alignment is {}", other.kind())),
        };
        let mut infos = Vec::new();
        for _ in 0..tensor_count {
            infos.push(reader.tensor_info()?);
        }
        let data = (reader.at as u64).next_multiple_of(alignment);
        let mut tensors = HashMap::new();
        for (name, dtype, shape, offset) in infos {
            let info = place(dtype, shape, data, offset, alignment, bytes.len() as u64)
                .map_err(|reason| format!("tensor {name}: {reason}"))?;
            if tensors.insert(name.clone(), info).is_some() {
                return Err(format!("tensor {name} is there twice"));
            }
        }
        refuse_overlap(&tensors)?;
        Ok(Self { metadata, tensors })
    }

    /// A count of the metadata, if it is there.
    pub(super) fn count(&self, key: &str) -> Result<Option<usize>, String> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Integer(value)) => match u16::try_from(*value) {
                Ok(value) => Ok(Some(value.into())),
                Err(_) => Err(format!("{key} is {value}; accepted: 0 to {}", u16::MAX)),
            },
            Some(other) => Err(format!("{key} is {}; accepted: an integer", other.kind())),
        }
    }
}

pub(super) fn place(
    dtype: GgmlDType,
    shape: Vec<usize>,
    data: u64,
    offset: u64,
    alignment: u64,
    file: u64,
) -> Result<TensorInfo, String> {
    if !offset.is_multiple_of(alignment) {
        return Err(format!(
            "its offset {offset} is not a multiple of {alignment}"
        ));
    }
    let block = dtype.block_size();
    // A row is a whole number of blocks.
    if shape
        .last()
        .is_none_or(|inner| !inner.is_multiple_of(block))
    {
        return Err(format!(
            "its rows {shape:?} are no multiple of the {block} values of a {dtype:?} block"
        ));
    }
    let place = shape
        .iter()
        .try_fold(1u64, |product, size| product.checked_mul(*size as u64))
        .and_then(|values| (values / block as u64).checked_mul(dtype.type_size() as u64))
        .and_then(|bytes| {
            let start = data.checked_add(offset)?;
            (start.checked_add(bytes)? <= file).then_some((start as usize, bytes as usize))
        });
    match place {
        Some((start, bytes)) => Ok(TensorInfo {
            dtype,
            shape,
            file: 0,
            start,
            bytes,
        }),
        None => Err(format!(
            "its data (shape {shape:?}, offset {offset}) reaches beyond the file's {file} bytes; \
             the file is truncated or damaged"
        )),
    }
}

/// Tensors that share bytes would let a small file ask for any amount of memory.
pub(super) fn refuse_overlap(tensors: &HashMap<String, TensorInfo>) -> Result<(), String> {
    let mut places: Vec<_> = tensors
        .iter()
        .map(|(name, info)| (info.start, info.start + info.bytes, name))
        .collect();
    places.sort_unstable();
    match places.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        None => Ok(()),
        Some(pair) => Err(format!("tensors {} and {} overlap", pair[0].2, pair[1].2)),
    }
}

/// The ggml types that candle can dequantise.
pub(super) fn dtype(code: u32) -> Result<GgmlDType, String> {
    Ok(match code {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        _ => {
            return Err(format!(
                "ggml type {code}; accepted: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, \
                 Q3_K, Q4_K, Q5_K, Q6_K"
            ));
        }
    })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8], String> {
        let taken = usize::try_from(count)
            .ok()
            .and_then(|count| self.bytes[self.at..].get(..count))
            .ok_or_else(|| {
                format!(
                    "the file ends within {what}: {count} bytes at position {}, {} are left",
                    self.at,
                    self.remaining()
                )
            })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        let taken = self.take(N as u64, what)?;
        Ok(taken.try_into().expect("as many bytes as were taken"))
    }

    fn u32(&mut self, what: &str) -> Result<u32, String> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, String> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn string(&mut self, what: &str) -> Result<String, String> {
        let length = self.u64(what)?;
        let bytes = self.take(length, what)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| format!("{what} is not UTF-8"))
    }

    fn check_count(&self, count: u64, bytes_each: u64, what: &str) -> Result<(), String> {
        let fits = count
            .checked_mul(bytes_each)
            .is_some_and(|bytes| bytes <= self.remaining() as u64);
        if fits {
            Ok(())
        } else {
            Err(format!(
                "{count} {what} cannot fit in the {} bytes that are left",
                self.remaining()
            ))
        }
    }

    fn value(&mut self, kind: u32) -> Result<Value, String> {
        const WHAT: &str = "a value";
        Ok(match kind {
            6 => Value::Float(f32::from_le_bytes(self.array(WHAT)?).into()),
            12 => Value::Float(f64::from_le_bytes(self.array(WHAT)?)),
            7 => Value::Bool(self.bool()?),
            8 => Value::String(self.string("a string")?),
            9 => {
                let kind = self.u32("an array's type")?;
                let count = self.u64("an array's length")?;
                self.values(kind, count)?
            }
            10 => Value::Integer(self.u64(WHAT)?.into()),
            _ => Value::Integer(self.integer(kind)?.into()),
        })
    }

    fn values(&mut self, kind: u32, count: u64) -> Result<Value, String> {
        let bytes_each = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return Err("an array of arrays; accepted: arrays of plain values".into()),
            _ => return Err(format!("an array of unknown type {kind}")),
        };
        self.check_count(count, bytes_each, "array elements")?;
        Ok(match kind {
            6 => Value::Floats(self.collect(count, |reader| {
                reader.array("an element").map(f32::from_le_bytes)
            })?),
            12 => Value::Floats(self.collect(count, |reader| {
                Ok(f64::from_le_bytes(reader.array("an element")?) as f32)
            })?),
            7 => Value::Bools(self.collect(count, Self::bool)?),
            8 => Value::Strings(self.collect(count, |reader| reader.string("an element"))?),
            _ => Value::Integers(self.collect(count, |reader| reader.integer(kind))?),
        })
    }

    fn collect<T>(
        &mut self,
        count: u64,
        read: impl Fn(&mut Self) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        (0..count).map(|_| read(self)).collect()
    }

    fn bool(&mut self) -> Result<bool, String> {
        match self.array::<1>("a boolean")? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(format!("a boolean of value {other}")),
        }
    }

    fn integer(&mut self, kind: u32) -> Result<i64, String> {
        const WHAT: &str = "an integer";
        Ok(match kind {
            0 => u8::from_le_bytes(self.array(WHAT)?).into(),
            1 => i8::from_le_bytes(self.array(WHAT)?).into(),
            2 => u16::from_le_bytes(self.array(WHAT)?).into(),
            3 => i16::from_le_bytes(self.array(WHAT)?).into(),
            4 => u32::from_le_bytes(self.array(WHAT)?).into(),
            5 => i32::from_le_bytes(self.array(WHAT)?).into(),
            10 => i64::try_from(self.u64(WHAT)?)
                .map_err(|_| "an integer above the signed 64-bit range".to_owned())?,
            11 => i64::from_le_bytes(self.array(WHAT)?),
            _ => return Err(format!("unknown type {kind}")),
        })
    }

    fn tensor_info(&mut self) -> Result<(String, GgmlDType, Vec<usize>, u64), String> {
        let name = self.string("a tensor's name")?;
        let refuse = |reason: String| format!("tensor {name}: {reason}");
        let count = self.u32("its number of dimensions").map_err(refuse)?;
        if count == 0 || count > MAX_DIMENSIONS {
            return Err(refuse(format!(
                "{count} dimensions; accepted: 1 to {MAX_DIMENSIONS}"
            )));
        }
        let mut shape = Vec::new();
        for _ in 0..count {
            let size = self.u64("a dimension").map_err(refuse)?;
            match usize::try_from(size) {
                Ok(size) if size > 0 => shape.push(size),
                _ => return Err(refuse(format!("a dimension of {size}"))),
            }
        }
        shape.reverse();
        let dtype = self.u32("its type").and_then(dtype).map_err(refuse)?;
        let offset = self.u64("its offset").map_err(refuse)?;
        Ok((name, dtype, shape, offset))
    }
}
