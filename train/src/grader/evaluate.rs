//! What a tree is worth, with its variables at given points. Where something has no value (a
//! quotient by nothing, a number too large, work that is too much) the whole has none.

use num_bigint::BigInt;
use num_complex::Complex64;
use num_rational::BigRational;

use super::expression::{Expr, Function};
use super::value::{Value, Work};

/// At how many points expressions with variables are compared.
pub(super) const POINTS: usize = 6;

/// A different small prime for each variable; the points move them about.
const PRIMES: [i64; super::limits::SYMBOLS_MAX] =
    [3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97];

/// Values of variables at one of the points.
pub(super) struct Point<'names> {
    names: &'names [&'names str],
    index: usize,
    is_whole: bool,
}

impl<'names> Point<'names> {
    /// The point with this index for these variables. `is_whole` gives them whole values, for
    /// expressions with factorials, floors and the like.
    pub(super) fn new(names: &'names [&'names str], index: usize, is_whole: bool) -> Self {
        Self { names, index, is_whole }
    }

    /// Some points are positive, since logarithms like that, some negative, some mixed.
    fn value(&self, name: &str) -> Option<Value> {
        let place = self.names.iter().position(|known| *known == name)?;
        let is_reversed = self.index % 2 == 1;
        let prime = *PRIMES.get(if is_reversed { self.names.len() - 1 - place } else { place })?;
        let shift = [1, 4, 2, 9, 6, 3].get(self.index).copied()?;
        let whole = if self.is_whole { prime + shift - 2 } else { prime + shift };
        let denominator =
            if self.is_whole { 1 } else { [7, 11, 3, 13, 2, 5].get(self.index).copied()? };
        let is_negative =
            !self.is_whole && (self.index == 3 || (self.index == 4 && place % 2 == 0));
        let numerator = BigInt::from(if is_negative { -whole } else { whole });
        Some(Value::Exact(BigRational::new(numerator, BigInt::from(denominator))))
    }
}

/// The value of a tree at a point.
pub(super) fn evaluate(expr: &Expr, point: &Point<'_>, work: &mut Work) -> Option<Value> {
    work.pay(50)?;
    match expr {
        Expr::Number { value, .. } => Some(Value::Exact(value.clone())),
        Expr::Symbol(name) => point.value(name),
        Expr::Pi => Value::real(std::f64::consts::PI),
        Expr::Euler => Value::real(std::f64::consts::E),
        Expr::Imaginary => Value::complex(Complex64::i()),
        Expr::Sum(terms) => fold(terms, Value::whole(0), point, work, super::value::Value::add),
        Expr::Product(factors) => {
            fold(factors, Value::whole(1), point, work, |product, factor, work| {
                product.multiply(factor, work)
            })
        }
        Expr::Negative(part) => Some(evaluate(part, point, work)?.negate()),
        Expr::Quotient(above, below) => {
            let (above, below) = both(above, below, point, work)?;
            above.divide(&below, work)
        }
        Expr::Power(base, exponent) => {
            let (base, exponent) = both(base, exponent, point, work)?;
            base.power(&exponent, work)
        }
        Expr::Root(index, radicand) => {
            let (index, radicand) = both(index, radicand, point, work)?;
            index.root_of(&radicand, work)
        }
        Expr::Binomial(above, below) => {
            let (above, below) = both(above, below, point, work)?;
            above.binomial(&below, work)
        }
        Expr::LogBase(base, argument) => {
            let (base, argument) = both(base, argument, point, work)?;
            logarithm(&argument)?.divide(&logarithm(&base)?, work)
        }
        Expr::Apply(function, argument) => {
            let argument = evaluate(argument, point, work)?;
            apply(*function, &argument, work)
        }
        Expr::Degrees(part) => {
            let part = evaluate(part, point, work)?;
            part.multiply(&Value::real(std::f64::consts::PI / 180.0)?, work)
        }
        Expr::Percent(part) => evaluate(part, point, work)?.divide(&Value::whole(100), work),
        Expr::Infinity
        | Expr::Based { .. }
        | Expr::PlusMinus { .. }
        | Expr::Sequence { .. }
        | Expr::Union(_)
        | Expr::Matrix(_)
        | Expr::Chain(..) => None,
    }
}

fn both(one: &Expr, two: &Expr, point: &Point<'_>, work: &mut Work) -> Option<(Value, Value)> {
    Some((evaluate(one, point, work)?, evaluate(two, point, work)?))
}

fn fold(
    parts: &[Expr],
    start: Value,
    point: &Point<'_>,
    work: &mut Work,
    step: impl Fn(&Value, &Value, &mut Work) -> Option<Value>,
) -> Option<Value> {
    let mut total = start;
    for part in parts {
        let value = evaluate(part, point, work)?;
        total = step(&total, &value, work)?;
    }
    Some(total)
}

fn logarithm(value: &Value) -> Option<Value> {
    Value::complex(value.to_complex()?.ln())
}

fn apply(function: Function, argument: &Value, work: &mut Work) -> Option<Value> {
    let inverse = |value: Complex64| Value::complex(value.inv());
    match function {
        Function::Factorial => return argument.factorial(work),
        Function::Floor => return argument.floor(),
        Function::Ceil => return Some(argument.negate().floor()?.negate()),
        Function::Abs => {
            if let Some(exact) = argument.exact() {
                return Some(Value::Exact(num_traits::Signed::abs(exact)));
            }
        }
        _ => {}
    }
    let x = argument.to_complex()?;
    match function {
        Function::Sin => Value::complex(x.sin()),
        Function::Cos => Value::complex(x.cos()),
        Function::Tan => Value::complex(x.tan()),
        Function::Cot => inverse(x.tan()),
        Function::Sec => inverse(x.cos()),
        Function::Csc => inverse(x.sin()),
        Function::Arcsin => Value::complex(x.asin()),
        Function::Arccos => Value::complex(x.acos()),
        Function::Arctan => Value::complex(x.atan()),
        Function::Sinh => Value::complex(x.sinh()),
        Function::Cosh => Value::complex(x.cosh()),
        Function::Tanh => Value::complex(x.tanh()),
        Function::Log => Value::complex(x.ln()),
        Function::Lg => Value::complex(x.ln() / std::f64::consts::LN_10),
        Function::Exp => Value::complex(x.exp()),
        Function::Abs => Value::real(x.norm()),
        Function::Floor | Function::Ceil | Function::Factorial => None,
    }
}
