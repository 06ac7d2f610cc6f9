//! From stored numbers to tensors of the type that a model computes in.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor, bail};
use half::{bf16, f16};

/// Where a model's tensors go, and as what.
#[derive(Debug, Clone)]
pub struct Target {
    /// The device.
    pub device: Device,
    /// f32, bf16 or f16.
    pub dtype: DType,
    /// Whether a decoder takes the steps of other devices there, on a CPU too
    /// ([`Decoder::by_tensors`](crate::decoder::Decoder::by_tensors)).
    pub by_tensors: bool,
}

impl Target {
    /// A device, whose steps are its own.
    pub fn new(device: Device, dtype: DType) -> Self {
        Self {
            device,
            dtype,
            by_tensors: false,
        }
    }
}

impl Target {
    /// The same device, in f32.
    pub fn in_f32(&self) -> Self {
        Self {
            dtype: DType::F32,
            ..self.clone()
        }
    }

    /// Puts tensors one below the other, into one of this shape. Each part yields its stored
    /// numbers, which are read once and never held twice in this process's own memory.
    ///
    /// # Errors
    /// When a number is not finite in the target's type, or there are not as many as the shape says.
    pub fn stack<'a>(
        &self,
        shape: &[usize],
        parts: impl IntoIterator<Item = Result<Stored<'a>>>,
    ) -> Result<Tensor> {
        match self.dtype {
            DType::F32 => self.collect::<f32>(shape, parts),
            DType::BF16 => self.collect::<bf16>(shape, parts),
            DType::F16 => self.collect::<f16>(shape, parts),
            other => bail!("a model of type {}", other.as_str()),
        }
    }

    fn collect<'a, T: Element>(
        &self,
        shape: &[usize],
        parts: impl IntoIterator<Item = Result<Stored<'a>>>,
    ) -> Result<Tensor> {
        let mut values: Vec<T> = Vec::with_capacity(shape.iter().product());
        for part in parts {
            part?.append(&mut values)?;
        }
        Tensor::from_vec(values, shape, &self.device)
    }
}

/// Numbers as a file has them, little endian.
#[derive(Debug)]
pub enum Stored<'a> {
    /// 32-bit floats.
    F32(&'a [u8]),
    /// 64-bit floats.
    F64(&'a [u8]),
    /// bfloat16.
    Bf16(&'a [u8]),
    /// IEEE half precision.
    F16(&'a [u8]),
    /// Already read.
    Values(Vec<f32>),
}

impl Stored<'_> {
    /// The same numbers' part from row `rows.start` to `rows.end` of `height` rows.
    pub fn rows(self, rows: Range<usize>, height: usize) -> Self {
        let of = |length: usize| rows.start * (length / height)..rows.end * (length / height);
        match self {
            Self::F32(bytes) => Self::F32(&bytes[of(bytes.len())]),
            Self::F64(bytes) => Self::F64(&bytes[of(bytes.len())]),
            Self::Bf16(bytes) => Self::Bf16(&bytes[of(bytes.len())]),
            Self::F16(bytes) => Self::F16(&bytes[of(bytes.len())]),
            Self::Values(values) => Self::Values(values[of(values.len())].to_vec()),
        }
    }
}

/// A type that models compute in.
trait Element: candle_core::WithDType {
    fn of(value: f32) -> Self;
    fn is_finite(self) -> bool;
}

impl Element for f32 {
    fn of(value: f32) -> Self {
        value
    }

    fn is_finite(self) -> bool {
        f32::is_finite(self)
    }
}

impl Element for bf16 {
    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn is_finite(self) -> bool {
        bf16::is_finite(self)
    }
}

impl Element for f16 {
    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn is_finite(self) -> bool {
        f16::is_finite(self)
    }
}

impl Stored<'_> {
    fn append<T: Element>(self, values: &mut Vec<T>) -> Result<()> {
        match self {
            Self::F32(bytes) => append(values, bytes, f32::from_le_bytes),
            Self::F64(bytes) => append(values, bytes, |b| f64::from_le_bytes(b) as f32),
            Self::Bf16(bytes) => append(values, bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Self::F16(bytes) => append(values, bytes, |b| f16::from_le_bytes(b).to_f32()),
            Self::Values(read) => extend(values, read.into_iter()),
        }
    }
}

fn append<T: Element, const N: usize>(
    values: &mut Vec<T>,
    bytes: &[u8],
    read: impl Fn([u8; N]) -> f32,
) -> Result<()> {
    let (numbers, _) = bytes.as_chunks::<N>();
    extend(values, numbers.iter().map(|bytes| read(*bytes)))
}

fn extend<T: Element>(values: &mut Vec<T>, numbers: impl Iterator<Item = f32>) -> Result<()> {
    let mut unfit = None;
    values.extend(numbers.map(|number| {
        let value = T::of(number);
        if !value.is_finite() {
            unfit = Some(number);
        }
        value
    }));
    match unfit {
        None => Ok(()),
        Some(number) if number.is_finite() => {
            bail!("it holds {number}, which {} has not", T::DTYPE.as_str())
        }
        Some(_) => bail!("it holds values that are not finite"),
    }
}
