//! The widest vector instructions that the processor has, chosen at run time.

/// Runs `work` compiled for the widest vector instructions there are. What it calls must be
/// inlined into it, or is compiled as everything else is.
#[inline]
pub(super) fn vectorised<T>(work: impl FnOnce() -> T) -> T {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn by_avx512<T>(work: impl FnOnce() -> T) -> T {
            work()
        }

        #[target_feature(enable = "avx2,fma")]
        fn by_avx2<T>(work: impl FnOnce() -> T) -> T {
            work()
        }

        let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let has_avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        // SAFETY: the processor has what the functions are compiled for.
        if has_avx2 && has_avx512 {
            return unsafe { by_avx512(work) };
        }
        if has_avx2 {
            return unsafe { by_avx2(work) };
        }
    }
    work()
}
