//! One source, several instruction sets, for loops over whole files that are bound by memory. They
//! take the widest at hand, whatever is forced: the bits are the same.
//!
//! Rust never fuses or reorders floating-point operations, so each compiled copy of a function
//! gives the same bits; wider registers only run more of its lanes at once.

/// Defines `$name`, which runs `$body` compiled for the widest instruction set at hand.
macro_rules! for_each_instruction_set {
    ($(#[$doc:meta])* $visible:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) = $body:path) => {
        $(#[$doc])*
        $visible fn $name($($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                #[inline(never)]
                fn with_avx2($($arg: $type),*) {
                    $body($($arg),*);
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the one requirement is that the processor has AVX2, which was
                    // just asked.
                    #[expect(unsafe_code, reason = "calls a function compiled for AVX2")]
                    unsafe {
                        return with_avx2($($arg),*);
                    }
                }
            }
            $body($($arg),*);
        }
    };
}

pub(crate) use for_each_instruction_set;
