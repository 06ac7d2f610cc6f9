//! Products of matrices that lie anywhere in memory.

use std::ops::Deref;

use gemm::Parallelism;

/// A matrix of `rows` × `columns` in a slice, a row's numbers one after another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix<S> {
    values: S,
    rows: usize,
    columns: usize,
    row_stride: usize,
}

/// A matrix that is read.
pub(super) type View<'a> = Matrix<&'a [f32]>;

/// A matrix that is written to.
pub(super) type ViewMut<'a> = Matrix<&'a mut [f32]>;

impl<S: Deref<Target = [f32]>> Matrix<S> {
    /// Rows that begin `row_stride` numbers apart.
    ///
    /// # Panics
    /// When the slice is too short.
    pub(super) fn new(values: S, rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(end(rows, columns, row_stride) <= values.len());
        Self {
            values,
            rows,
            columns,
            row_stride,
        }
    }
}

fn end(rows: usize, columns: usize, row_stride: usize) -> usize {
    match rows {
        0 => 0,
        rows => (rows - 1) * row_stride + columns,
    }
}

/// `out = a · b`, or with `adds` `out += a · b`.
pub(super) fn product(out: ViewMut, a: View, b: View, adds: bool, threads: usize) {
    assert!(a.columns == b.rows && out.rows == a.rows && out.columns == b.columns);
    run(out, a, (b, false), b.rows, adds, 1.0, threads);
}

/// `out = scale · a · bᵀ`.
pub(super) fn product_transposed(out: ViewMut, a: View, b: View, scale: f32, threads: usize) {
    assert!(a.columns == b.columns && out.rows == a.rows && out.columns == b.rows);
    run(out, a, (b, true), b.columns, false, scale, threads);
}

fn run(
    out: ViewMut,
    a: View,
    (b, is_transposed): (View, bool),
    inner: usize,
    adds: bool,
    scale: f32,
    threads: usize,
) {
    let parallelism = match threads {
        1 => Parallelism::None,
        threads => Parallelism::Rayon(threads),
    };
    let (b_column, b_row) = if is_transposed {
        (b.row_stride as isize, 1)
    } else {
        (1, b.row_stride as isize)
    };
    // SAFETY: the views' slices hold all that their shapes say (`new`), the shapes fit together
    // (the callers' assertions), and `out` is borrowed alone.
    unsafe {
        gemm::gemm(
            out.rows,
            out.columns,
            inner,
            out.values.as_mut_ptr(),
            1,
            out.row_stride as isize,
            adds,
            a.values.as_ptr(),
            1,
            a.row_stride as isize,
            b.values.as_ptr(),
            b_column,
            b_row,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_of_the_definition() {
        let a: Vec<f32> = (0..12).map(|x| x as f32).collect();
        let b: Vec<f32> = (0..8).map(|x| (x * x) as f32).collect();
        // a is 2 × 3 with rows 5 apart, b 2 × 3 with rows 4 apart.
        let (a, b) = (View::new(&a, 2, 3, 5), View::new(&b, 2, 3, 4));
        let mut out = vec![-1.0; 7];
        product_transposed(ViewMut::new(&mut out, 2, 2, 4), a, b, 2.0, 1);
        // [0 1 2] [5 6 7] times [0 1 4] [16 25 36], doubled.
        assert_eq!(out, [18.0, 194.0, -1.0, -1.0, 68.0, 964.0, -1.0]);
        let mut out = vec![1.0; 6];
        let a = View::new(&[1.0, 2.0, 3.0, 4.0], 2, 2, 2);
        product(ViewMut::new(&mut out, 2, 3, 3), a, b, true, 1);
        assert_eq!(out, [33.0, 52.0, 77.0, 65.0, 104.0, 157.0]);
        product(ViewMut::new(&mut out, 2, 3, 3), a, b, false, 1);
        assert_eq!(out, [32.0, 51.0, 76.0, 64.0, 103.0, 156.0]);
    }
}
