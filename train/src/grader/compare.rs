//! When two answers mean the same: first as text, then as trees in all their readings. Numbers and
//! expressions are compared here, lists and relations in `collections.rs`.

use num_complex::Complex64;
use num_rational::BigRational;
use num_traits::{Signed, ToPrimitive, Zero};

use super::evaluate::{POINTS, Point, evaluate};
use super::expression::{Expr, Function};
use super::lexer::{Commas, tokens};
use super::limits::{ANSWER_BYTES_MAX, SYMBOLS_MAX};
use super::parser::parse;
use super::units::{self, Unit};
use super::value::{Value, Work};

/// Two floats are the same value up to this share of the larger.
const FLOAT_SHARE: f64 = 1e-10;
/// What is this near to an exact nothing is nothing.
const FLOAT_ZERO: f64 = 1e-12;
/// A decimal stands for a longer value that rounds to it at six decimal places.
const ROUNDED: f64 = 5e-7;
/// And differs from it by no more than this share: small numbers are not all the same.
const ROUNDED_SHARE: f64 = 1e-5;
/// At least so many points have to agree, where an expression is undefined at others.
const AGREEING_POINTS_MIN: usize = 2;

/// Whether two answers are the same text but for spacing, `$` and `\text{…}` around it; words
/// whatever their case.
pub(super) fn is_same_text(gold: &str, answer: &str) -> bool {
    let (gold, answer) = (bare_text(gold), bare_text(answer));
    let is_word = gold.len() > 1 && gold.bytes().all(|byte| byte.is_ascii_alphabetic());
    !gold.is_empty() && (gold == answer || (is_word && gold.eq_ignore_ascii_case(&answer)))
}

fn bare_text(text: &str) -> String {
    let mut text = text.trim_matches(|c: char| c.is_whitespace() || c == '$' || c == '.');
    for command in ["\\text{", "\\textbf{", "\\mathrm{", "\\mbox{"] {
        let inside = text.strip_prefix(command).and_then(|text| text.strip_suffix('}'));
        text = inside.filter(|text| !text.contains(['{', '}'])).unwrap_or(text);
    }
    let mut bare = String::with_capacity(text.len());
    for word in text.split(|c: char| c.is_whitespace() || c == '$') {
        // `4 2` is not 42.
        let is_digit = |c: char| c.is_ascii_digit();
        if bare.ends_with(is_digit) && word.starts_with(is_digit) {
            bare.push(' ');
        }
        bare.push_str(word);
    }
    bare
}

/// Whether two answers mean the same in one of their readings each.
pub(super) fn is_same_meaning(gold: &str, answer: &str) -> bool {
    if gold.len().max(answer.len()) > ANSWER_BYTES_MAX {
        return false;
    }
    let mut comparison = Comparison { work: Work::new() };
    let answers = readings(answer, true);
    readings(gold, false).iter().any(|gold| {
        answers
            .iter()
            .any(|answer| gold.may_equal(answer) && comparison.same(&gold.expr, &answer.expr))
    })
}

/// One way to read an answer.
struct Reading {
    expr: Expr,
    unit: Option<Unit>,
    /// A single letter was taken for a unit, which only stands where no variable is asked for.
    has_letter_unit: bool,
}

impl Reading {
    fn may_equal(&self, answer: &Self) -> bool {
        let is_closed = |reading: &Self| !reading.expr.any(&|part| matches!(part, Expr::Symbol(_)));
        let contradicts = match (&self.unit, &answer.unit) {
            (Some(one), Some(two)) => one.contradicts(two),
            _ => false,
        };
        !contradicts && (!answer.has_letter_unit || is_closed(self))
    }
}

/// All readings; `letters_too` tries single letters at the end as units, which a gold answer's
/// never are: `6m` is six times m.
fn readings(text: &str, letters_too: bool) -> Vec<Reading> {
    let grouped = tokens(text, Commas::Group);
    let separate = tokens(text, Commas::Separate);
    let mut readings = Vec::new();
    let is_one = grouped == separate;
    for tokens in [Some(&grouped), (!is_one).then_some(&separate)].into_iter().flatten() {
        let plain = units::split(tokens, false);
        let lettered = units::split(tokens, true);
        let differs = letters_too && lettered.value.len() != plain.value.len();
        for (measured, has_letter_unit) in
            [Some((plain, false)), differs.then_some((lettered, true))].into_iter().flatten()
        {
            let expr = parse(measured.value);
            readings.extend(expr.map(|expr| Reading {
                expr,
                unit: measured.unit,
                has_letter_unit,
            }));
        }
    }
    readings
}

/// Compares trees and pays for it.
pub(super) struct Comparison {
    work: Work,
}

impl Comparison {
    /// Whether two trees mean the same, the first as the one asked for.
    pub(super) fn same(&mut self, gold: &Expr, answer: &Expr) -> bool {
        if self.work.pay(100).is_none() {
            return false;
        }
        if gold == answer {
            return true;
        }
        if let Some(is_same) = self.same_relation(gold, answer) {
            return is_same;
        }
        if let Some(is_same) = self.same_collection(gold, answer) {
            return is_same;
        }
        self.same_marked(gold, answer) || self.same_value(gold, answer)
    }

    /// Degrees and percent signs may be left out; both also have a value of their own.
    fn same_marked(&mut self, gold: &Expr, answer: &Expr) -> bool {
        match (unmarked(gold), unmarked(answer)) {
            (None, None) => false,
            (Some(gold), Some(answer)) => self.same_value(&gold, &answer),
            (Some(gold), None) => self.same_value(&gold, answer),
            (None, Some(answer)) => self.same_value(gold, &answer),
        }
    }

    /// Whether two expressions have the same value: at all points, if they have variables.
    fn same_value(&mut self, gold: &Expr, answer: &Expr) -> bool {
        if let Some(is_same) = same_based(gold, answer) {
            return is_same;
        }
        let names = names_of(&[gold, answer]);
        if names.len() > SYMBOLS_MAX {
            return false;
        }
        if names.is_empty() {
            let values = self.values(gold, answer, &Point::new(&names, 0, false));
            return values.is_some_and(|(one, two)| {
                is_close(&one, &two) || is_rounded(gold, answer, &one, &two)
            });
        }
        let is_whole = wants_whole(gold) || wants_whole(answer);
        let mut agreeing = 0;
        for index in 0..POINTS {
            match self.values(gold, answer, &Point::new(&names, index, is_whole)) {
                Some((one, two)) if is_close(&one, &two) => agreeing += 1,
                Some(_) => return false,
                None => {}
            }
        }
        agreeing >= AGREEING_POINTS_MIN
    }

    fn values(&mut self, one: &Expr, two: &Expr, point: &Point<'_>) -> Option<(Value, Value)> {
        Some((evaluate(one, point, &mut self.work)?, evaluate(two, point, &mut self.work)?))
    }

    /// Whether two differences vanish together: one is the other times a constant, a positive one
    /// if `is_directed`. So `y=2x+3` is `2x-y+3=0`.
    pub(super) fn is_multiple(&mut self, gold: &Expr, answer: &Expr, is_directed: bool) -> bool {
        let names = names_of(&[gold, answer]);
        if names.is_empty() || names.len() > SYMBOLS_MAX {
            return false;
        }
        let mut ratios: Vec<Complex64> = Vec::new();
        for index in 0..POINTS {
            let values = self.values(gold, answer, &Point::new(&names, index, false));
            let ratio = values.and_then(|(one, two)| {
                let ratio = two.divide(&one, &mut self.work)?.to_complex()?;
                (ratio.norm() > 0.0).then_some(ratio)
            });
            ratios.extend(ratio);
        }
        let Some(first) = ratios.first().copied() else {
            return false;
        };
        let is_positive = first.re > 0.0 && first.im.abs() <= FLOAT_SHARE * first.re;
        ratios.len() >= AGREEING_POINTS_MIN
            && ratios.iter().all(|ratio| (ratio - first).norm() <= FLOAT_SHARE * first.norm())
            && (!is_directed || is_positive)
    }
}

fn names_of<'tree>(exprs: &[&'tree Expr]) -> Vec<&'tree str> {
    let mut names = Vec::new();
    for expr in exprs {
        expr.symbols(&mut names);
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// A value without its degree or percent sign; a minus may stand before it.
fn unmarked(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::Degrees(part) | Expr::Percent(part) => Some((**part).clone()),
        Expr::Negative(part) => Some(Expr::Negative(unmarked(part)?.into())),
        _ => None,
    }
}

/// Digits to a base equal themselves, with the base or without; nothing else.
fn same_based(gold: &Expr, answer: &Expr) -> Option<bool> {
    match (gold, answer) {
        (Expr::Based { digits, .. }, Expr::Number { value, .. })
        | (Expr::Number { value, .. }, Expr::Based { digits, .. }) => {
            Some(value.to_string() == *digits)
        }
        (Expr::Based { .. }, _) | (_, Expr::Based { .. }) => Some(false),
        _ => None,
    }
}

/// Whether an expression means something at whole numbers only.
fn wants_whole(expr: &Expr) -> bool {
    let has_symbol = |part: &Expr| part.any(&|part| matches!(part, Expr::Symbol(_)));
    expr.any(&|part| match part {
        Expr::Apply(Function::Factorial | Function::Floor | Function::Ceil, inside) => {
            has_symbol(inside)
        }
        Expr::Binomial(above, below) => has_symbol(above) || has_symbol(below),
        _ => false,
    })
}

fn is_close(one: &Value, two: &Value) -> bool {
    if let (Value::Exact(one), Value::Exact(two)) = (one, two) {
        return one == two;
    }
    let (Some(first), Some(second)) = (one.to_complex(), two.to_complex()) else {
        return false;
    };
    let is_nothing = |value: &Value| value.exact().is_some_and(Zero::is_zero);
    let difference = (first - second).norm();
    if is_nothing(one) || is_nothing(two) {
        difference <= FLOAT_ZERO
    } else {
        difference <= FLOAT_SHARE * first.norm().max(second.norm())
    }
}

/// Whether one of the answers is a decimal that rounds the other, at six places or more.
fn is_rounded(gold: &Expr, answer: &Expr, one: &Value, two: &Value) -> bool {
    let has_decimal =
        |expr: &Expr| expr.any(&|part| matches!(part, Expr::Number { is_decimal: true, .. }));
    if has_decimal(gold) == has_decimal(answer) {
        return false;
    }
    let difference = match (one, two) {
        (Value::Exact(one), Value::Exact(two)) => size(&(one - two)),
        _ => one.to_complex().zip(two.to_complex()).map(|(one, two)| (one - two).norm()),
    };
    let larger = one.to_complex().map(num_complex::Complex::norm);
    difference.zip(larger).is_some_and(|(difference, larger)| {
        difference <= ROUNDED && difference <= ROUNDED_SHARE * larger
    })
}

fn size(value: &BigRational) -> Option<f64> {
    value.abs().to_f64()
}
