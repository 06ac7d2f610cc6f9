//! Matrices laid out once for AVX-512, and products with them.
//!
//! A matrix `(out, in)` is stored in panels of [`COLUMNS`] outputs. Within a panel the numbers of one
//! input (of two neighbouring inputs in bf16, which one instruction multiplies) lie together, so that
//! the innermost loop reads memory in order. The inputs are cut into blocks that keep a panel in the
//! second-level cache.

use std::borrow::Cow;
use std::ops::Range;

use candle_core::{CpuStorage, Storage, Tensor};
use half::bf16;
use rayon::prelude::*;

use super::matmul::{View, ViewMut, product};
use super::vectorised::vectorised;

/// Outputs of a panel: three vector registers of f32.
pub(super) const COLUMNS: usize = 3 * LANES;

/// f32 numbers in a vector register.
const LANES: usize = 16;

/// Rows that go through a panel at once: with the columns, 24 of the 32 vector registers.
const ROWS: usize = 8;

/// Bytes of a panel's block.
const BLOCK_BYTES: usize = 96 << 10;

/// A type that matrices are laid out in.
trait Number: Copy + Default + Send + Sync + 'static {
    /// Whether this processor has the instructions.
    fn is_supported() -> bool;

    /// How many neighbouring inputs lie together.
    const TOGETHER: usize;

    /// Rows of f32 in this type, each filled up with zeros to `width` numbers.
    fn rows(rows: &[f32], inner: usize, width: usize) -> Cow<'_, [Self]>;

    /// Adds the product of `N` rows, which begin `stride` numbers apart, with a block of a panel.
    ///
    /// # Safety
    /// The processor has the instructions; rows and block hold `inner` inputs, a multiple of
    /// [`Self::TOGETHER`]; `out` holds `N` rows of `columns` numbers, at most [`COLUMNS`], that begin
    /// `out_stride` apart.
    unsafe fn kernel<const N: usize>(
        block: Block<Self>,
        out: *mut f32,
        out_stride: usize,
        columns: usize,
        adds: bool,
    );
}

/// What a kernel multiplies.
#[derive(Debug, Clone, Copy)]
struct Block<T> {
    rows: *const T,
    stride: usize,
    panel: *const T,
    inner: usize,
}

/// A matrix `(out, in)` in panels.
#[derive(Debug)]
struct PackedMatrix<T> {
    panels: Vec<T>,
    outputs: usize,
    inputs: usize,
}

/// Where the results of several threads go, each to its own columns.
#[derive(Clone, Copy)]
struct Out(*mut f32);

// SAFETY: threads write to different columns.
unsafe impl Send for Out {}
unsafe impl Sync for Out {}

impl Out {
    /// A function, so that closures capture the whole and not the pointer.
    fn start(self) -> *mut f32 {
        self.0
    }
}

impl<T: Number> PackedMatrix<T> {
    /// Lays out a matrix of `inputs` numbers a row.
    fn new(values: &[T], inputs: usize) -> Self {
        let outputs = values.len() / inputs;
        let width = inputs.next_multiple_of(T::TOGETHER);
        let mut panels = vec![T::default(); outputs.div_ceil(COLUMNS) * COLUMNS * width];
        let all = panels.par_chunks_exact_mut(COLUMNS * width);
        all.zip(values.par_chunks(COLUMNS * inputs))
            .for_each(|(panel, rows)| {
                for (column, row) in rows.chunks_exact(inputs).enumerate() {
                    for (at, value) in row.iter().enumerate() {
                        let (group, rest) = (at / T::TOGETHER, at % T::TOGETHER);
                        panel[(group * COLUMNS + column) * T::TOGETHER + rest] = *value;
                    }
                }
            });
        Self {
            panels,
            outputs,
            inputs,
        }
    }

    /// The numbers of one panel.
    fn panel(&self, number: usize) -> &[T] {
        let width = self.inputs.next_multiple_of(T::TOGETHER);
        &self.panels[number * COLUMNS * width..][..COLUMNS * width]
    }

    /// `rows · matrixᵀ`, `(count, outputs)`.
    ///
    /// # Panics
    /// When the processor has not the instructions.
    fn product(&self, rows: &[f32]) -> Vec<f32> {
        assert!(T::is_supported());
        let count = rows.len() / self.inputs;
        let mut out = Vec::with_capacity(count * self.outputs);
        let width = self.inputs.next_multiple_of(T::TOGETHER);
        let rows = &*T::rows(rows, self.inputs, width);
        let target = Out(out.as_mut_ptr());
        let panels = self.panels.par_chunks_exact(COLUMNS * width).enumerate();
        panels.for_each(|(number, panel)| {
            let column = number * COLUMNS;
            let columns = COLUMNS.min(self.outputs - column);
            // SAFETY: the assertion above; `rows` holds `count` rows of `width` numbers, the panel
            // `width` inputs, and `out` has room for `count` rows of `outputs` numbers, of which
            // this thread alone writes to these columns.
            unsafe {
                let out = target.start().add(column);
                by_blocks(rows, width, count, panel, out, self.outputs, columns);
            }
        });
        // SAFETY: every row has its numbers of every panel.
        unsafe { out.set_len(count * self.outputs) };
        out
    }
}

/// A matrix of either type.
#[derive(Debug)]
pub struct Packed(Either);

#[derive(Debug)]
enum Either {
    F32(PackedMatrix<f32>),
    Bf16(PackedMatrix<bf16>),
}

impl Packed {
    /// Lays out a matrix of plain numbers. None where this processor has no instructions for their
    /// type.
    pub fn new(matrix: &Tensor) -> Option<Self> {
        let (_, inputs) = matrix.dims2().ok()?;
        let (storage, layout) = matrix.storage_and_layout();
        let (Storage::Cpu(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets())
        else {
            return None;
        };
        match storage {
            CpuStorage::F32(values) if f32::is_supported() => Some(Self(Either::F32(
                PackedMatrix::new(&values[start..end], inputs),
            ))),
            CpuStorage::BF16(values) if bf16::is_supported() => Some(Self(Either::Bf16(
                PackedMatrix::new(&values[start..end], inputs),
            ))),
            _ => None,
        }
    }

    /// Outputs, the rows of the matrix.
    pub fn outputs(&self) -> usize {
        match &self.0 {
            Either::F32(matrix) => matrix.outputs,
            Either::Bf16(matrix) => matrix.outputs,
        }
    }

    /// `rows · matrixᵀ`, `(count, outputs)`.
    pub fn product(&self, rows: &[f32]) -> Vec<f32> {
        match &self.0 {
            Either::F32(matrix) => matrix.product(rows),
            Either::Bf16(matrix) => matrix.product(rows),
        }
    }

    /// Lays out rows of f32 of `inputs` numbers. Whether the processor has instructions to multiply
    /// with them is not asked.
    pub fn of_f32(values: &[f32], inputs: usize) -> Self {
        Self(Either::F32(PackedMatrix::new(values, inputs)))
    }

    /// Whether its numbers are f32.
    pub fn is_f32(&self) -> bool {
        matches!(self.0, Either::F32(_))
    }

    /// Inputs, the width of a row.
    pub fn inputs(&self) -> usize {
        match &self.0 {
            Either::F32(matrix) => matrix.inputs,
            Either::Bf16(matrix) => matrix.inputs,
        }
    }

    /// One panel as f32, `(inputs, COLUMNS)`; columns beyond the last output are zero.
    pub fn panel(&self, number: usize) -> Cow<'_, [f32]> {
        match &self.0 {
            Either::F32(matrix) => Cow::Borrowed(matrix.panel(number)),
            Either::Bf16(matrix) => {
                let pairs = matrix.panel(number);
                let mut panel = vec![0.0; pairs.len()];
                vectorised(
                    #[inline(always)]
                    || {
                        let (pairs, _) = pairs.as_chunks::<{ 2 * COLUMNS }>();
                        let (out, _) = panel.as_chunks_mut::<{ 2 * COLUMNS }>();
                        for (out, pair) in out.iter_mut().zip(pairs) {
                            for column in 0..COLUMNS {
                                out[column] = widened(pair[2 * column]);
                                out[COLUMNS + column] = widened(pair[2 * column + 1]);
                            }
                        }
                    },
                );
                panel.truncate(matrix.inputs * COLUMNS);
                Cow::Owned(panel)
            }
        }
    }

    /// `rows · matrixᵀ`, `(count, outputs)`, in f32 by panels that `change` may change first, given their
    /// numbers.
    pub fn product_by_panels(
        &self,
        rows: &[f32],
        change: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Vec<f32> {
        let (inputs, outputs) = (self.inputs(), self.outputs());
        let count = rows.len() / inputs;
        // A panel's memory is taken again for the next: fresh memory costs as much as the work.
        let of_panel = |panel: &mut Vec<f32>, number: usize| {
            panel.clear();
            panel.extend_from_slice(&self.panel(number));
            change(number, panel);
            let mut out = vec![0.0; count * COLUMNS];
            panel_product(rows, inputs, panel, &mut out);
            out
        };
        let panels = (0..outputs.div_ceil(COLUMNS)).into_par_iter();
        let panels: Vec<Vec<f32>> = panels.map_init(Vec::new, of_panel).collect();
        let mut values = vec![0.0; count * outputs];
        let out_rows = values.par_chunks_exact_mut(outputs).enumerate();
        out_rows.for_each(|(row, out)| {
            for (out, panel) in out.chunks_mut(COLUMNS).zip(&panels) {
                out.copy_from_slice(&panel[row * COLUMNS..][..out.len()]);
            }
        });
        values
    }

    /// All panels, in runs of about so many numbers.
    pub fn runs_of_panels(&self, numbers: usize) -> impl Iterator<Item = Range<usize>> {
        let panels = self.outputs().div_ceil(COLUMNS);
        let at_once = (numbers / (COLUMNS * self.inputs())).max(1);
        (0..panels)
            .step_by(at_once)
            .map(move |first| first..panels.min(first + at_once))
    }

    /// The matrix's rows in some panels, as f32.
    pub fn rows(&self, panels: Range<usize>) -> Vec<f32> {
        let inputs = self.inputs();
        let first = panels.start * COLUMNS;
        let count = self.outputs().min(panels.end * COLUMNS) - first;
        let mut rows = vec![0.0; count * inputs];
        let of_panels = rows.par_chunks_mut(COLUMNS * inputs).zip(panels);
        of_panels.for_each(|(rows, number)| {
            let panel = self.panel(number);
            for (column, row) in rows.chunks_exact_mut(inputs).enumerate() {
                let numbers = panel.iter().skip(column).step_by(COLUMNS);
                row.iter_mut().zip(numbers).for_each(|(out, x)| *out = *x);
            }
        });
        rows
    }
}

/// A bf16 as f32, without a look at what it is.
#[inline(always)]
fn widened(number: bf16) -> f32 {
    f32::from_bits(u32::from(number.to_bits()) << 16)
}

/// Rows of `inner` numbers times a panel, `(inner, COLUMNS)`, on the caller's thread: sums up as
/// [`Packed::product`] does.
pub(super) fn panel_product(rows: &[f32], inner: usize, panel: &[f32], out: &mut [f32]) {
    let count = out.len() / COLUMNS;
    assert!(rows.len() >= count * inner && panel.len() >= inner * COLUMNS);
    if !f32::is_supported() {
        if inner > 0 {
            product(
                ViewMut::new(out, count, COLUMNS, COLUMNS),
                View::new(rows, count, inner, inner),
                View::new(panel, inner, COLUMNS, COLUMNS),
                false,
                1,
            );
        }
        return;
    }
    let out = &mut out[..count * COLUMNS];
    // SAFETY: the assertion above, and `out` holds `count` rows of all columns.
    unsafe {
        by_blocks(
            rows,
            inner,
            count,
            panel,
            out.as_mut_ptr(),
            COLUMNS,
            COLUMNS,
        )
    };
}

/// Rows of `width` numbers times a panel.
///
/// # Safety
/// The processor has the instructions; `rows` holds `count` rows of `width` numbers, `panel` `width`
/// inputs, and `out` has room for `count` rows of `columns` numbers that begin `out_stride` apart.
unsafe fn by_blocks<T: Number>(
    rows: &[T],
    width: usize,
    count: usize,
    panel: &[T],
    out: *mut f32,
    out_stride: usize,
    columns: usize,
) {
    let at_once = BLOCK_BYTES / (COLUMNS * size_of::<T>());
    let at_once = (at_once / T::TOGETHER * T::TOGETHER).max(T::TOGETHER);
    for first in (0..width).step_by(at_once) {
        let inner = at_once.min(width - first);
        for row in (0..count).step_by(ROWS) {
            // SAFETY: the caller's; the first block writes what later ones add to.
            unsafe {
                let block = Block {
                    rows: rows.as_ptr().add(row * width + first),
                    stride: width,
                    panel: panel.as_ptr().add(first * COLUMNS),
                    inner,
                };
                let out = out.add(row * out_stride);
                let kernel = match count - row {
                    1 => T::kernel::<1>,
                    2 => T::kernel::<2>,
                    3 => T::kernel::<3>,
                    4 => T::kernel::<4>,
                    5 => T::kernel::<5>,
                    6 => T::kernel::<6>,
                    7 => T::kernel::<7>,
                    _ => T::kernel::<ROWS>,
                };
                kernel(block, out, out_stride, columns, first > 0);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;
    use std::borrow::Cow;

    use half::bf16;
    use rayon::prelude::*;

    use super::{Block, COLUMNS, LANES, Number};

    const VECTORS: usize = COLUMNS / LANES;

    /// Writes the sums of `N` rows, or adds them to what is there.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn write<const N: usize>(
        sums: &[[__m512; VECTORS]; N],
        out: *mut f32,
        out_stride: usize,
        columns: usize,
        adds: bool,
    ) {
        for (row, sums) in sums.iter().enumerate() {
            for (vector, sum) in sums.iter().enumerate() {
                let first = vector * LANES;
                let count = columns.saturating_sub(first).min(LANES);
                let mask = ((1_u32 << count) - 1) as __mmask16;
                // SAFETY: the mask leaves out what is not in the row.
                unsafe {
                    let to = out.add(row * out_stride + first.min(columns));
                    let sum = if adds {
                        _mm512_add_ps(*sum, _mm512_maskz_loadu_ps(mask, to))
                    } else {
                        *sum
                    };
                    _mm512_mask_storeu_ps(to, mask, sum);
                }
            }
        }
    }

    impl Number for f32 {
        fn is_supported() -> bool {
            is_x86_feature_detected!("avx512f")
        }

        const TOGETHER: usize = 1;

        fn rows(rows: &[f32], _inner: usize, _width: usize) -> Cow<'_, [f32]> {
            Cow::Borrowed(rows)
        }

        #[target_feature(enable = "avx512f")]
        unsafe fn kernel<const N: usize>(
            block: Block<f32>,
            out: *mut f32,
            out_stride: usize,
            columns: usize,
            adds: bool,
        ) {
            let mut sums = [[_mm512_setzero_ps(); VECTORS]; N];
            // SAFETY: the caller's.
            unsafe {
                let mut panel = block.panel;
                for at in 0..block.inner {
                    let weights: [__m512; VECTORS] =
                        std::array::from_fn(|vector| _mm512_loadu_ps(panel.add(vector * LANES)));
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let value = _mm512_set1_ps(*block.rows.add(row * block.stride + at));
                        for (sum, weights) in sums.iter_mut().zip(weights) {
                            *sum = _mm512_fmadd_ps(value, weights, *sum);
                        }
                    }
                    panel = panel.add(COLUMNS);
                }
                write(&sums, out, out_stride, columns, adds);
            }
        }
    }

    impl Number for bf16 {
        fn is_supported() -> bool {
            is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f")
        }

        const TOGETHER: usize = 2;

        fn rows(rows: &[f32], inner: usize, width: usize) -> Cow<'_, [bf16]> {
            let mut out = vec![bf16::ZERO; rows.len() / inner * width];
            out.par_chunks_exact_mut(width)
                .zip(rows.par_chunks_exact(inner))
                .for_each(|(out, row)| {
                    // SAFETY: whoever multiplies has asked `is_supported`.
                    unsafe { round(row, out) };
                });
            Cow::Owned(out)
        }

        #[target_feature(enable = "avx512f,avx512bf16")]
        unsafe fn kernel<const N: usize>(
            block: Block<bf16>,
            out: *mut f32,
            out_stride: usize,
            columns: usize,
            adds: bool,
        ) {
            let mut sums = [[_mm512_setzero_ps(); VECTORS]; N];
            // SAFETY: the caller's. Vectors of bf16 are plain bits.
            unsafe {
                let mut panel = block.panel.cast::<i32>();
                for pair in 0..block.inner / 2 {
                    let weights: [__m512bh; VECTORS] = std::array::from_fn(|vector| {
                        std::mem::transmute(_mm512_loadu_si512(panel.add(vector * LANES).cast()))
                    });
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let values = block.rows.add(row * block.stride + 2 * pair);
                        let values = values.cast::<i32>().read_unaligned();
                        let values: __m512bh = std::mem::transmute(_mm512_set1_epi32(values));
                        for (sum, weights) in sums.iter_mut().zip(weights) {
                            *sum = _mm512_dpbf16_ps(*sum, values, weights);
                        }
                    }
                    panel = panel.add(COLUMNS);
                }
                write(&sums, out, out_stride, columns, adds);
            }
        }
    }

    /// Rounds to the nearest bf16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn round(row: &[f32], out: &mut [bf16]) {
        let (vectors, rest) = row.as_chunks::<LANES>();
        for (values, out) in vectors.iter().zip(out.chunks_exact_mut(LANES)) {
            // SAFETY: both hold a vector's numbers.
            unsafe {
                let rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(values.as_ptr()));
                let rounded: __m256i = std::mem::transmute(rounded);
                _mm256_storeu_si256(out.as_mut_ptr().cast(), rounded);
            }
        }
        for (value, out) in rest.iter().zip(&mut out[row.len() - rest.len()..]) {
            *out = bf16::from_f32(*value);
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod elsewhere {
    use std::borrow::Cow;

    use half::bf16;

    use super::{Block, Number};

    macro_rules! unsupported {
        ($number:ty, $together:expr) => {
            impl Number for $number {
                fn is_supported() -> bool {
                    false
                }

                const TOGETHER: usize = $together;

                fn rows(_: &[f32], _: usize, _: usize) -> Cow<'_, [Self]> {
                    Cow::Borrowed(&[])
                }

                unsafe fn kernel<const N: usize>(
                    _: Block<Self>,
                    _: *mut f32,
                    _: usize,
                    _: usize,
                    _: bool,
                ) {
                }
            }
        };
    }

    unsupported!(f32, 1);
    unsupported!(bf16, 2);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole numbers small enough that every type and order of summation is exact.
    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        let number = |at: usize| ((at * 7919 + seed) % 13) as f32 - 6.0;
        (0..count).map(number).collect()
    }

    fn products_agree<T: Number>(of: impl Fn(f32) -> T) {
        if !T::is_supported() {
            eprintln!("not tested: this processor has not the instructions");
            return;
        }
        for (count, outputs, inputs) in [
            (1, 1, 1),
            (7, 47, 3),
            (8, 48, 16),
            (9, 49, 17),
            (30, 150, 1025),
            (3, 5, 2051),
        ] {
            let rows = numbers(count * inputs, 1);
            let matrix = numbers(outputs * inputs, 5);
            let laid_out: Vec<T> = matrix.iter().map(|value| of(*value)).collect();
            let product = PackedMatrix::new(&laid_out, inputs).product(&rows);
            assert_eq!(product.len(), count * outputs);
            for (row, products) in rows.chunks(inputs).zip(product.chunks(outputs)) {
                for (weights, product) in matrix.chunks(inputs).zip(products) {
                    let exact: f32 = row.iter().zip(weights).map(|(a, b)| a * b).sum();
                    assert_eq!(*product, exact, "{count} {outputs} {inputs}");
                }
            }
        }
        assert!(PackedMatrix::new(&[of(1.0); 6], 3).product(&[]).is_empty());
    }

    #[test]
    fn products_are_exact_where_sums_are() {
        products_agree(|value| value);
        products_agree(bf16::from_f32);
    }
}
