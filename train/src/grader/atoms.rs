//! The smallest parts of an answer: numbers, variables, groups and brackets, commands with
//! arguments, matrices. The second half of the grammar in `parser.rs`.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Zero};

use super::expression::{Bracket, Expr, Function};
use super::lexer::{Lexed, Token};
use super::parser::{Parser, product_of};

/// Largest power of ten in a number's notation; measured values go to 10^±99.
const POWER_OF_TEN_MAX: i32 = 400;

impl Parser {
    pub(super) fn atom(&mut self) -> Option<Expr> {
        let token = self.peek()?.clone();
        match token {
            Token::Number(digits) => self.number(&digits),
            Token::Letter(name) => {
                self.at += 1;
                self.variable(&name)
            }
            Token::Word(word) => {
                self.at += 1;
                Some(Expr::Symbol(word))
            }
            Token::Function(function) => {
                self.at += 1;
                self.deeper(|parser| parser.application(function))
            }
            Token::Command(name) => {
                self.at += 1;
                self.deeper(|parser| parser.command(name))
            }
            Token::Begin(name) => {
                self.at += 1;
                self.deeper(|parser| parser.matrix(&name))
            }
            Token::Sign(sign) => {
                self.at += 1;
                self.deeper(|parser| parser.bracketed(sign))
            }
            Token::End(_) | Token::RowBreak => None,
        }
    }

    fn number(&mut self, digits: &str) -> Option<Expr> {
        self.at += 1;
        if self.take_sign('_') {
            return Some(Expr::Based { digits: digits.to_owned(), base: self.subscript()? });
        }
        let (value, is_decimal) = read_number(digits)?;
        if digits.contains('.') && self.peek() == Some(&Token::Command("overline")) {
            self.at += 1;
            return self.repeating(digits, &value);
        }
        if !is_decimal && let Some(fraction) = self.mixed_fraction() {
            return Some(Expr::Number { value: value + fraction, is_decimal: false });
        }
        Some(Expr::Number { value, is_decimal })
    }

    /// `0.1\overline{6}`: the digits that repeat.
    fn repeating(&mut self, before: &str, value: &BigRational) -> Option<Expr> {
        let Expr::Number { value: period, .. } = self.argument()? else {
            return None;
        };
        let Some(Token::Number(digits)) = self.tokens.get(self.at - 2).map(|lexed| &lexed.token)
        else {
            return None;
        };
        let ten = |power: usize| Some(BigInt::from(10).pow(u32::try_from(power).ok()?));
        let decimals = before.split_once('.').map_or(0, |(_, decimals)| decimals.len());
        let nines = ten(digits.len())? - 1;
        let value = value + period / BigRational::from(nines * ten(decimals)?);
        Some(Expr::Number { value, is_decimal: false })
    }

    /// The fraction of `1\frac{4}{5}` or `1 4/5`, all digits.
    fn mixed_fraction(&mut self) -> Option<BigRational> {
        let start = self.at;
        let fraction = match self.peek() {
            Some(Token::Command("frac")) => {
                self.at += 1;
                self.arguments().and_then(|(above, below)| {
                    Some((whole(&above)?, whole(&below)?)).filter(|parts| parts.0 < parts.1)
                })
            }
            Some(Token::Number(_)) if self.tokens[self.at].is_spaced => self.plain_fraction(),
            _ => None,
        };
        if fraction.is_none() {
            self.at = start;
        }
        fraction.map(|(above, below)| above / below)
    }

    fn plain_fraction(&mut self) -> Option<(BigRational, BigRational)> {
        let above = self.whole_number()?;
        if !self.take_sign('/') {
            return None;
        }
        let below = self.whole_number()?;
        (!below.is_zero() && above < below).then_some((above, below))
    }

    fn whole_number(&mut self) -> Option<BigRational> {
        let Some(Token::Number(digits)) = self.peek() else {
            return None;
        };
        let (value, is_decimal) = read_number(digits)?;
        self.at += 1;
        (!is_decimal).then_some(value)
    }

    fn variable(&mut self, name: &str) -> Option<Expr> {
        let mut name = name.to_owned();
        if self.take_sign('_') {
            name = format!("{name}_{}", self.subscript()?);
        }
        while self.take_sign('\'') {
            name.push('\'');
        }
        if self.take_zero_argument() {
            name.push_str("(0)");
        }
        Some(match name.as_str() {
            "pi" => Expr::Pi,
            "e" => Expr::Euler,
            "i" | "imath" => Expr::Imaginary,
            _ => Expr::Symbol(name),
        })
    }

    /// The argument of `I(0)`: as a product it would be nothing at all.
    fn take_zero_argument(&mut self) -> bool {
        let is_there = matches!(
            self.tokens.get(self.at..self.at + 3),
            Some([
                Lexed { token: Token::Sign('('), .. },
                Lexed { token: Token::Number(digits), .. },
                Lexed { token: Token::Sign(')'), .. },
            ]) if digits == "0"
        );
        self.at += if is_there { 3 } else { 0 };
        is_there
    }

    /// A subscript as text.
    fn subscript(&mut self) -> Option<String> {
        let mut text = String::new();
        let is_group = self.take_sign('{');
        loop {
            match self.peek()? {
                Token::Sign('}') if is_group => {
                    self.at += 1;
                    return Some(text);
                }
                Token::Number(part) | Token::Letter(part) | Token::Word(part) => {
                    text.push_str(part);
                }
                Token::Function(function) => text.push_str(function.name()),
                Token::Sign(sign) if is_group => text.push(*sign),
                _ => return None,
            }
            self.at += 1;
            if !is_group {
                return Some(text);
            }
        }
    }

    /// `\sin^2 x`, `\log_2(x)`, `\exp{x}`: behind the name a base, a power, then the argument.
    fn application(&mut self, function: Function) -> Option<Expr> {
        let base = if self.take_sign('_') { Some(self.argument()?) } else { None };
        let power = if self.take_sign('^') { Some(self.argument()?) } else { None };
        let argument = match self.peek_sign() {
            Some('(' | '{' | '[' | '⌊' | '⌈') => self.atom()?,
            _ => self.bare_argument()?,
        };
        let applied = match base {
            Some(base) if function == Function::Log => Expr::LogBase(base.into(), argument.into()),
            Some(_) => return None,
            None => Expr::Apply(function, argument.into()),
        };
        Some(match power {
            Some(power) => Expr::Power(applied.into(), power.into()),
            None => applied,
        })
    }

    /// The argument of `\sin 2\pi t`: factors up to the next operator or function.
    fn bare_argument(&mut self) -> Option<Expr> {
        let mut factors = Vec::new();
        if self.take_sign('-') {
            let rest = self.deeper(Self::bare_argument)?;
            return Some(Expr::Negative(rest.into()));
        }
        while matches!(self.peek(), Some(Token::Number(_) | Token::Letter(_) | Token::Command(_)))
            || (factors.is_empty() && matches!(self.peek(), Some(Token::Function(_))))
            || (factors.is_empty() && self.peek_sign() == Some('|'))
        {
            factors.push(self.power()?);
        }
        (!factors.is_empty()).then(|| product_of(factors))
    }

    fn command(&mut self, name: &str) -> Option<Expr> {
        match name {
            "frac" => {
                let (above, below) = self.arguments()?;
                Some(Expr::Quotient(above.into(), below.into()))
            }
            "binom" => {
                let (above, below) = self.arguments()?;
                Some(Expr::Binomial(above.into(), below.into()))
            }
            "sqrt" => {
                let index = if self.take_sign('[') {
                    let index = self.sum()?;
                    self.take_sign(']').then_some(index)?
                } else {
                    two()
                };
                let radicand = self.argument()?;
                Some(Expr::Root(index.into(), radicand.into()))
            }
            "root" => Some(Expr::Root(two().into(), self.power()?.into())),
            "overline" => Some(Expr::Symbol(format!("overline {}", self.subscript()?))),
            "emptyset" => Some(empty_set()),
            _ => None,
        }
    }

    fn arguments(&mut self) -> Option<(Expr, Expr)> {
        Some((self.argument()?, self.argument()?))
    }

    /// The argument of a command: a group, or else one character.
    pub(super) fn argument(&mut self) -> Option<Expr> {
        if self.take_sign('{') {
            let inside = self.deeper(Self::list)?;
            return self.take_sign('}').then_some(inside);
        }
        if let Some(Token::Number(digits)) = self.peek()
            && digits.len() > 1
            && digits.bytes().all(|byte| byte.is_ascii_digit())
        {
            let (first, rest) = digits.split_at(1);
            let value = BigRational::from(first.parse::<BigInt>().ok()?);
            self.tokens[self.at] =
                Lexed { token: Token::Number(rest.to_owned()), is_spaced: false };
            return Some(Expr::Number { value, is_decimal: false });
        }
        if self.take_sign('-') {
            let rest = self.deeper(Self::argument)?;
            return Some(Expr::Negative(rest.into()));
        }
        self.deeper(Self::atom)
    }

    /// What a bracket or another sign opens; the sign itself is taken.
    fn bracketed(&mut self, sign: char) -> Option<Expr> {
        match sign {
            '{' => {
                let inside = self.list()?;
                self.take_sign('}').then_some(inside)
            }
            '⦃' if self.take_sign('⦄') => Some(empty_set()),
            '⦃' => {
                let items = items_of(self.list()?);
                let (open, close) = (Bracket::Curly, Bracket::Curly);
                self.take_sign('⦄').then_some(Expr::Sequence { open, close, items })
            }
            '(' | '[' => self.sequence(sign),
            '|' => {
                self.bars += 1;
                let inside = self.sum();
                self.bars -= 1;
                let inside = inside?;
                self.take_sign('|').then(|| Expr::Apply(Function::Abs, inside.into()))
            }
            '⌊' => {
                let inside = self.sum()?;
                self.take_sign('⌋').then(|| Expr::Apply(Function::Floor, inside.into()))
            }
            '⌈' => {
                let inside = self.sum()?;
                self.take_sign('⌉').then(|| Expr::Apply(Function::Ceil, inside.into()))
            }
            '∞' => Some(Expr::Infinity),
            '∠' => self.atom(),
            _ => None,
        }
    }

    /// A tuple, an interval, or a group if there is only one thing in it.
    fn sequence(&mut self, sign: char) -> Option<Expr> {
        let bars = std::mem::take(&mut self.bars);
        let inside = self.list();
        self.bars = bars;
        let items = items_of(inside?);
        let open = if sign == '(' { Bracket::Round } else { Bracket::Square };
        let close = match self.peek_sign()? {
            ')' => Bracket::Round,
            ']' => Bracket::Square,
            _ => return None,
        };
        self.at += 1;
        if items.len() > 1 {
            return Some(Expr::Sequence { open, close, items });
        }
        let inside = items.into_iter().next()?;
        match (&inside, self.peek_sign()) {
            (Expr::Number { value, .. }, Some('_')) => {
                self.at += 1;
                Some(Expr::Based { digits: value.to_string(), base: self.subscript()? })
            }
            _ => (open == close).then_some(inside),
        }
    }

    /// The rows up to `\end`.
    fn matrix(&mut self, name: &str) -> Option<Expr> {
        if !name.ends_with("matrix") && name != "array" {
            return None;
        }
        let mut rows = vec![Vec::new()];
        loop {
            let row = rows.last_mut()?;
            row.push(self.sum()?);
            if self.take_sign('&') {
                continue;
            }
            if self.peek() == Some(&Token::RowBreak) {
                self.at += 1;
                if !matches!(self.peek(), Some(Token::End(_))) {
                    rows.push(Vec::new());
                    continue;
                }
            }
            let is_end = matches!(self.peek(), Some(Token::End(end)) if end == name);
            self.at += 1;
            return is_end.then_some(Expr::Matrix(rows));
        }
    }
}

fn two() -> Expr {
    Expr::Number { value: BigRational::from(BigInt::from(2)), is_decimal: false }
}

fn empty_set() -> Expr {
    Expr::Sequence { open: Bracket::Curly, close: Bracket::Curly, items: Vec::new() }
}

/// The elements of a bare list, or the one thing that is none.
fn items_of(inside: Expr) -> Vec<Expr> {
    match inside {
        Expr::Sequence { open: Bracket::Bare, items, .. } => items,
        other => vec![other],
    }
}

fn whole(expr: &Expr) -> Option<BigRational> {
    match expr {
        Expr::Number { value, is_decimal: false } if !value.is_zero() => Some(value.clone()),
        _ => None,
    }
}

/// The value of digits as the lexer gives them, and whether they are a decimal.
fn read_number(text: &str) -> Option<(BigRational, bool)> {
    let (mantissa, power) = match text.split_once(['e', 'E']) {
        Some((mantissa, power)) => (mantissa, power.parse::<i32>().ok()?),
        None => (text, 0),
    };
    if power.abs() > POWER_OF_TEN_MAX {
        return None;
    }
    let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: BigInt = format!("0{before}{after}").parse().ok()?;
    let scale = power - i32::try_from(after.len()).ok()?;
    let factor = BigInt::from(10).pow(scale.unsigned_abs());
    let value = if scale < 0 {
        BigRational::new(digits, factor)
    } else {
        BigRational::new(digits * factor, BigInt::one())
    };
    Some((value, !after.is_empty() || power != 0))
}
