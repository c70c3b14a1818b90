//! Which instruction set this process computes with: found out once, when an engine is made.
//!
//! A kernel is written once, generic over [`Simd`], and compiled for each instruction set here.
//! Knows nothing of what kernels compute.

use std::fmt;
use std::sync::LazyLock;

#[cfg(target_arch = "x86_64")]
use crate::avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use crate::avx512::Avx512;
use crate::portable::Portable;
use crate::simd::Simd;

/// The environment variable that forces an instruction set.
const VARIABLE: &str = "RELAY_CPU";

/// What programs' help says of it, where threads are chosen.
pub const CPU_HELP: &str =
    "The variable RELAY_CPU forces an instruction set: portable, avx2 or avx512";

/// An instruction set that this machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu(Set);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

/// A forced instruction set that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CpuError {
    /// No instruction set has this name.
    Unknown(String),
    /// This machine does not have it.
    Unsupported(&'static str),
}

impl fmt::Display for CpuError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => write!(
                formatter,
                "{VARIABLE}={name} names no instruction set: use portable, avx2 or avx512, or unset it"
            ),
            Self::Unsupported(name) => write!(
                formatter,
                "{VARIABLE}={name}, but this machine does not have it: use {}, or unset it",
                Cpu::best().name()
            ),
        }
    }
}

impl std::error::Error for CpuError {}

impl Cpu {
    /// The widest instruction set at hand.
    pub fn best() -> Self {
        Self::avx512().or_else(Self::avx2).unwrap_or(Self::PORTABLE)
    }

    /// What is forced, else the widest at hand: for loops that no engine has made. Looked up once in a
    /// process; a name that forces nothing is refused where a model is loaded.
    pub fn of_process() -> Self {
        static CPU: LazyLock<Cpu> =
            LazyLock::new(|| Cpu::from_environment().unwrap_or_else(|_| Cpu::best()));
        *CPU
    }

    /// Plain Rust, on every machine.
    pub const PORTABLE: Self = Self(Set::Portable);

    /// AVX2 with FMA and F16C, where the machine has them.
    pub fn avx2() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        return Avx2::detect().map(|token| Self(Set::Avx2(token)));
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// AVX-512 with VNNI, where the machine has it.
    pub fn avx512() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        return Avx512::detect().map(|token| Self(Set::Avx512(token)));
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// All instruction sets at hand but plain Rust: what tests hold against it.
    #[cfg(test)]
    pub(crate) fn others() -> Vec<Self> {
        [Self::avx2(), Self::avx512()].into_iter().flatten().collect()
    }

    /// What `name` forces, or the best where it is `None`.
    ///
    /// # Errors
    /// [`CpuError`] if there is no such instruction set, or not here.
    pub fn named(name: Option<&str>) -> Result<Self, CpuError> {
        match name {
            // What is set to nothing is how some launchers leave it unset.
            None | Some("") => Ok(Self::best()),
            Some("portable") => Ok(Self::PORTABLE),
            Some("avx2") => Self::avx2().ok_or(CpuError::Unsupported("avx2")),
            Some("avx512") => Self::avx512().ok_or(CpuError::Unsupported("avx512")),
            Some(other) => Err(CpuError::Unknown(other.to_owned())),
        }
    }

    /// What the environment variable `RELAY_CPU` forces, or the best where it is not set.
    ///
    /// # Errors
    /// [`CpuError`] if there is no such instruction set, or not here.
    pub fn from_environment() -> Result<Self, CpuError> {
        let name = std::env::var_os(VARIABLE).map(|name| name.to_string_lossy().into_owned());
        Self::named(name.as_deref())
    }

    /// The name that forces it.
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(_) => "avx512",
        }
    }

    /// Runs a kernel compiled for this instruction set.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Set::Portable => kernel.run(Portable),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(token) => token.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(token) => token.run(kernel),
        }
    }
}

/// A computation with its arguments, to be compiled once for each instruction set.
pub(crate) trait Kernel {
    /// What it gives.
    type Output;

    /// Computes. Must be `#[inline(always)]`, and so must all it calls with `simd`: only then is
    /// it compiled with the features of its caller.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_forces_an_instruction_set() {
        assert_eq!(Cpu::named(None), Ok(Cpu::best()));
        assert_eq!(Cpu::named(Some("")), Ok(Cpu::best()));
        assert_eq!(Cpu::named(Some("portable")), Ok(Cpu::PORTABLE));
        assert_eq!(Cpu::named(Some("avx2")).ok(), Cpu::avx2());
        assert_eq!(Cpu::named(Some("avx512")).ok(), Cpu::avx512());
        for cpu in Cpu::others() {
            assert_eq!(Cpu::named(Some(cpu.name())), Ok(cpu));
        }
        let message = Cpu::named(Some("avx1024")).unwrap_err().to_string();
        assert!(message.contains("avx1024"), "{message}");
        for choice in ["RELAY_CPU", "portable", "avx2", "avx512"] {
            assert!(message.contains(choice) && CPU_HELP.contains(choice), "{message}");
        }
        assert_eq!(Cpu::PORTABLE.name(), "portable");
    }

    #[test]
    fn a_refusal_says_what_can_be_had() {
        let message = CpuError::Unsupported("avx512").to_string();
        assert!(message.contains("RELAY_CPU=avx512"), "{message}");
        assert!(message.contains(&format!("use {},", Cpu::best().name())), "{message}");
    }
}
