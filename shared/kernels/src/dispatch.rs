//! Plain loops compiled twice, for callers that hold no `Cpu`: looking through files, expanding
//! blocks, and narrowing each token's keys and values. They take AVX2 where the machine has it and
//! nothing forces plain Rust; wider registers would gain them nothing.
//!
//! Rust never fuses or reorders floating-point operations, so each compiled copy of a function
//! gives the same bits; wider registers only run more of its lanes at once.

#[cfg(target_arch = "x86_64")]
use crate::cpu::Cpu;

/// Whether AVX2 is here and may be used: every instruction set but plain Rust includes it.
#[cfg(target_arch = "x86_64")]
pub(crate) fn takes_avx2() -> bool {
    Cpu::of_process() != Cpu::PORTABLE
}

/// Defines `$name`, which runs `$body` compiled for AVX2 where that is taken, and plain elsewhere.
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
                if crate::dispatch::takes_avx2() {
                    // SAFETY: the one requirement is that the processor has AVX2, which every
                    // instruction set but plain Rust proves.
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

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_forced_is_taken_here_too() {
        if let Some(forced) = std::env::var_os("RELAY_CPU") {
            assert_eq!(takes_avx2(), forced != "portable" && Cpu::avx2().is_some());
            return;
        }
        // The environment is read once: a process of its own has another.
        let own = std::env::current_exe().unwrap();
        let mut forced = std::process::Command::new(own);
        forced.args(["--exact", "dispatch::tests::what_is_forced_is_taken_here_too"]);
        let output = forced.env("RELAY_CPU", "portable").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }
}
