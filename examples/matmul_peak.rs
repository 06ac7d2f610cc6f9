//! What this machine's processor can do at most: large products of f32 matrices by the gemm crate, on
//! all cores, in operations a second. Prints one number, the best of many rounds.

use std::time::{Duration, Instant};

use gemm::Parallelism;

fn main() {
    let mut best: f64 = 0.0;
    for (rows, columns, inner) in [(1024, 1024, 1024), (2048, 2048, 2048), (1024, 4096, 512)] {
        let a = vec![0.5_f32; rows * inner];
        let b = vec![0.25_f32; columns * inner];
        let mut out = vec![0.0_f32; rows * columns];
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(2) {
            let round = Instant::now();
            // SAFETY: `a` is rows × inner, `b` columns × inner, `out` rows × columns.
            unsafe {
                gemm::gemm(
                    rows,
                    columns,
                    inner,
                    out.as_mut_ptr(),
                    1,
                    columns as isize,
                    false,
                    a.as_ptr(),
                    1,
                    inner as isize,
                    b.as_ptr(),
                    inner as isize,
                    1,
                    0.0_f32,
                    1.0,
                    false,
                    false,
                    false,
                    Parallelism::Rayon(0),
                );
            }
            let operations = 2.0 * (rows * columns * inner) as f64;
            best = best.max(operations / round.elapsed().as_secs_f64());
        }
    }
    println!("{best}");
}
