//! Numbers: exact fractions as long as they can be, complex `f64` beyond. Every operation is
//! paid for from a purse of work, so that no answer can keep the grader busy.

use num_bigint::BigInt;
use num_complex::Complex64;
use num_rational::BigRational;
use num_traits::{One, Pow, Signed, ToPrimitive, Zero};

use super::limits::{EXACT_BITS_MAX, FACTORIAL_MAX, ROOT_INDEX_MAX, WORK_MAX};

/// What a pair of answers may still cost.
#[derive(Debug)]
pub(super) struct Work {
    left: u64,
}

impl Work {
    pub(super) fn new() -> Self {
        Self { left: WORK_MAX }
    }

    /// Pays; `None` once the purse is empty.
    pub(super) fn pay(&mut self, steps: u64) -> Option<()> {
        self.left = self.left.checked_sub(steps)?;
        Some(())
    }

    /// Pays for one operation on these numbers: about the square of their words.
    fn pay_for(&mut self, values: [&BigRational; 2]) -> Option<()> {
        let words: u64 = values.iter().map(|value| bits(value) / 64 + 1).sum();
        self.pay(50 + 4 * words * words)
    }
}

fn bits(value: &BigRational) -> u64 {
    value.numer().bits() + value.denom().bits()
}

/// The value of an expression.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Exact(BigRational),
    /// Finite, and known to about 13 digits.
    Float(Complex64),
}

impl Value {
    pub(super) fn whole(number: i64) -> Self {
        Self::Exact(BigRational::from(BigInt::from(number)))
    }

    pub(super) fn real(number: f64) -> Option<Self> {
        Self::complex(Complex64::new(number, 0.0))
    }

    /// A float, unless it is infinite or no number.
    pub(super) fn complex(number: Complex64) -> Option<Self> {
        number.is_finite().then_some(Self::Float(number))
    }

    pub(super) fn to_complex(&self) -> Option<Complex64> {
        match self {
            Self::Exact(value) => {
                let real = value.to_f64().filter(|real| real.is_finite())?;
                Some(Complex64::new(real, 0.0))
            }
            Self::Float(value) => Some(*value),
        }
    }

    /// The value as a fraction, if it is exact.
    pub(super) fn exact(&self) -> Option<&BigRational> {
        match self {
            Self::Exact(value) => Some(value),
            Self::Float(_) => None,
        }
    }

    /// The value as a small whole number, if it is one.
    fn small_whole(&self) -> Option<i64> {
        self.exact().filter(|value| value.is_integer())?.to_i64()
    }

    fn is_zero(&self) -> bool {
        match self {
            Self::Exact(value) => value.is_zero(),
            Self::Float(value) => value.norm() == 0.0,
        }
    }

    /// Keeps an exact result while it is small enough, else its float.
    fn kept(value: BigRational) -> Option<Self> {
        if bits(&value) <= EXACT_BITS_MAX {
            return Some(Self::Exact(value));
        }
        Self::real(value.to_f64()?)
    }

    pub(super) fn add(&self, other: &Self, work: &mut Work) -> Option<Self> {
        match (self, other) {
            (Self::Exact(one), Self::Exact(two)) => {
                work.pay_for([one, two])?;
                Self::kept(one + two)
            }
            _ => Self::complex(self.to_complex()? + other.to_complex()?),
        }
    }

    pub(super) fn multiply(&self, other: &Self, work: &mut Work) -> Option<Self> {
        match (self, other) {
            (Self::Exact(one), Self::Exact(two)) => {
                work.pay_for([one, two])?;
                Self::kept(one * two)
            }
            _ => Self::complex(self.to_complex()? * other.to_complex()?),
        }
    }

    pub(super) fn divide(&self, other: &Self, work: &mut Work) -> Option<Self> {
        if other.is_zero() {
            return None;
        }
        match (self, other) {
            (Self::Exact(one), Self::Exact(two)) => {
                work.pay_for([one, two])?;
                Self::kept(one / two)
            }
            _ => Self::complex(self.to_complex()? / other.to_complex()?),
        }
    }

    pub(super) fn negate(&self) -> Self {
        match self {
            Self::Exact(value) => Self::Exact(-value),
            Self::Float(value) => Self::Float(-value),
        }
    }

    pub(super) fn power(&self, exponent: &Self, work: &mut Work) -> Option<Self> {
        if self.is_zero() {
            let exponent = exponent.to_complex()?;
            return match (exponent.re > 0.0, exponent.norm() == 0.0) {
                (true, _) => Some(Self::whole(0)),
                (_, true) => Some(Self::whole(1)),
                _ => None,
            };
        }
        match (self.exact(), exponent.exact()) {
            (Some(base), Some(exponent)) => Self::exact_power(base, exponent, work),
            _ => Self::complex(self.to_complex()?.powc(exponent.to_complex()?)),
        }
    }

    fn exact_power(base: &BigRational, exponent: &BigRational, work: &mut Work) -> Option<Self> {
        let (over, under) = (exponent.numer().to_i64(), exponent.denom().to_u32());
        let (Some(over), Some(under)) = (over, under) else {
            return Self::float_power(base, exponent);
        };
        if under > ROOT_INDEX_MAX {
            return Self::float_power(base, exponent);
        }
        if under > 1 {
            let root = Self::whole(i64::from(under)).root_of(&Self::Exact(base.clone()), work)?;
            return root.power(&Self::whole(over), work);
        }
        let result_bits = bits(base).saturating_mul(over.unsigned_abs());
        if base.is_one() || result_bits <= EXACT_BITS_MAX + 64 {
            work.pay(50 + result_bits * result_bits / 1024)?;
            let power = base.pow(i32::try_from(over).unwrap_or(1));
            return Self::kept(power);
        }
        Self::float_power(base, exponent)
    }

    fn float_power(base: &BigRational, exponent: &BigRational) -> Option<Self> {
        let (base, exponent) = (base.to_f64()?, exponent.to_f64()?);
        Self::complex(if base < 0.0 && exponent.fract() != 0.0 {
            Complex64::new(base, 0.0).powf(exponent)
        } else {
            Complex64::new(base.powf(exponent), 0.0)
        })
    }

    /// The root with index `self` of a radicand: the real one where there is one, exact where it
    /// is a fraction.
    pub(super) fn root_of(&self, radicand: &Self, work: &mut Work) -> Option<Self> {
        let index = self.small_whole().and_then(|index| u32::try_from(index).ok());
        let Some(index @ 1..=ROOT_INDEX_MAX) = index else {
            return radicand.power(&Self::whole(1).divide(self, work)?, work);
        };
        let degree = f64::from(index);
        let Some(exact) = radicand.exact() else {
            return Self::complex(radicand.to_complex()?.powf(1.0 / degree));
        };
        let is_real = !exact.is_negative() || index % 2 == 1;
        if !is_real {
            return Self::complex(radicand.to_complex()?.powf(1.0 / degree));
        }
        work.pay_for([exact, exact])?;
        work.pay(u64::from(index) * bits(exact))?;
        let (over, under) = (exact.numer().nth_root(index), exact.denom().nth_root(index));
        if Pow::pow(&over, index) == *exact.numer() && Pow::pow(&under, index) == *exact.denom() {
            return Some(Self::Exact(BigRational::new(over, under)));
        }
        let real = exact.to_f64()?;
        Self::real(real.abs().powf(1.0 / degree).copysign(real))
    }

    pub(super) fn factorial(&self, work: &mut Work) -> Option<Self> {
        let n = self.small_whole().and_then(|n| u32::try_from(n).ok());
        let n = n.filter(|n| *n <= FACTORIAL_MAX)?;
        work.pay(50 + u64::from(n) * u64::from(n))?;
        Self::kept(BigRational::from((1..=n).fold(BigInt::one(), |product, n| product * n)))
    }

    /// The binomial coefficient of `self` over `lower`, both whole and not negative.
    pub(super) fn binomial(&self, lower: &Self, work: &mut Work) -> Option<Self> {
        let as_count = |value: &Self| value.small_whole().and_then(|n| u32::try_from(n).ok());
        let (n, k) = (as_count(self)?, as_count(lower)?);
        if n > FACTORIAL_MAX {
            return None;
        }
        work.pay(50 + u64::from(n) * u64::from(n))?;
        let step = |product: BigInt, i: u32| product * (n - i) / (i + 1);
        let coefficient = if k > n { BigInt::zero() } else { (0..k).fold(BigInt::one(), step) };
        Self::kept(BigRational::from(coefficient))
    }

    pub(super) fn floor(&self) -> Option<Self> {
        match self {
            Self::Exact(value) => Some(Self::Exact(value.floor())),
            Self::Float(value) if value.im == 0.0 => Self::real(value.re.floor()),
            Self::Float(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_purse_ends_the_arithmetic() {
        let mut work = Work::new();
        let two = Value::whole(2);
        assert_eq!(two.add(&two, &mut work), Some(Value::whole(4)));
        assert!(work.pay(WORK_MAX).is_none(), "the sum was paid for");
        while work.pay(WORK_MAX / 100).is_some() {}
        while work.pay(1).is_some() {}
        assert_eq!(two.add(&two, &mut work), None);
        assert_eq!(two.power(&two, &mut work), None);
        assert_eq!(two.factorial(&mut work), None);
    }
}
