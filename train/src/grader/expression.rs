//! What an answer is made of, as a tree. Knows neither how it was written nor what it is worth.

use num_rational::BigRational;

/// A function of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Sin,
    Cos,
    Tan,
    Cot,
    Sec,
    Csc,
    Arcsin,
    Arccos,
    Arctan,
    Sinh,
    Cosh,
    Tanh,
    /// The natural logarithm; with a base in front of its argument, that one.
    Log,
    /// The logarithm to base 10.
    Lg,
    Exp,
    Abs,
    Floor,
    Ceil,
    Factorial,
}

const NAMES: &[(&str, Function)] = &[
    ("sin", Function::Sin),
    ("cos", Function::Cos),
    ("tan", Function::Tan),
    ("cot", Function::Cot),
    ("sec", Function::Sec),
    ("csc", Function::Csc),
    ("arcsin", Function::Arcsin),
    ("arccos", Function::Arccos),
    ("arctan", Function::Arctan),
    ("sinh", Function::Sinh),
    ("cosh", Function::Cosh),
    ("tanh", Function::Tanh),
    ("ln", Function::Log),
    ("log", Function::Log),
    ("lg", Function::Lg),
    ("exp", Function::Exp),
    ("abs", Function::Abs),
    ("floor", Function::Floor),
    ("ceil", Function::Ceil),
];

impl Function {
    /// The function with this name. (`sec` alone is a unit as often; nobody writes it without an
    /// argument.)
    pub(super) fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|entry| entry.1)
    }

    /// The first of its names.
    pub(super) fn name(self) -> &'static str {
        NAMES.iter().find(|(_, function)| *function == self).map_or("factorial", |entry| entry.0)
    }

    /// Splits letters such as `sinx` into a function and one or two variables.
    pub(super) fn before_variables(run: &str) -> Option<(Self, &str)> {
        let longest =
            NAMES.iter().filter(|(name, _)| run.starts_with(name)).max_by_key(|e| e.0.len());
        let (name, function) = longest?;
        let variables = &run[name.len()..];
        (variables.len() <= 2).then_some((*function, variables))
    }
}

/// How a sequence is bracketed on one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bracket {
    Round,
    Square,
    Curly,
    /// None: a list as in running text.
    Bare,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    Equal,
    Unequal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expr {
    /// A number as written; `is_decimal` says that it has a point or a power of ten.
    Number {
        value: BigRational,
        is_decimal: bool,
    },
    /// A variable, or a word: both only equal themselves.
    Symbol(String),
    Pi,
    Euler,
    Imaginary,
    Infinity,
    /// Digits to a base, such as 52 to base 8.
    Based {
        digits: String,
        base: String,
    },
    Sum(Vec<Expr>),
    Product(Vec<Expr>),
    Negative(Box<Expr>),
    Quotient(Box<Expr>, Box<Expr>),
    Power(Box<Expr>, Box<Expr>),
    /// The root with this index of a value.
    Root(Box<Expr>, Box<Expr>),
    /// `a ± b`; `plus_first` tells `\pm` from `\mp`.
    PlusMinus {
        left: Box<Expr>,
        right: Box<Expr>,
        plus_first: bool,
    },
    Apply(Function, Box<Expr>),
    /// The logarithm to a base of a value.
    LogBase(Box<Expr>, Box<Expr>),
    Binomial(Box<Expr>, Box<Expr>),
    Degrees(Box<Expr>),
    Percent(Box<Expr>),
    Sequence {
        open: Bracket,
        close: Bracket,
        items: Vec<Expr>,
    },
    Union(Vec<Expr>),
    Matrix(Vec<Vec<Expr>>),
    /// `a < b ≤ c`: one more operand than relations.
    Chain(Vec<Expr>, Vec<Relation>),
}

impl Expr {
    /// The parts of a tree, for walks that treat all kinds alike.
    pub(super) fn parts(&self) -> Vec<&Expr> {
        match self {
            Self::Number { .. }
            | Self::Symbol(_)
            | Self::Pi
            | Self::Euler
            | Self::Imaginary
            | Self::Infinity
            | Self::Based { .. } => Vec::new(),
            Self::Sum(parts)
            | Self::Product(parts)
            | Self::Union(parts)
            | Self::Sequence { items: parts, .. }
            | Self::Chain(parts, _) => parts.iter().collect(),
            Self::Negative(part)
            | Self::Apply(_, part)
            | Self::Degrees(part)
            | Self::Percent(part) => vec![part],
            Self::Quotient(one, other)
            | Self::Power(one, other)
            | Self::Root(one, other)
            | Self::LogBase(one, other)
            | Self::Binomial(one, other)
            | Self::PlusMinus { left: one, right: other, .. } => vec![one, other],
            Self::Matrix(rows) => rows.iter().flatten().collect(),
        }
    }

    /// Whether this or any part of it is so.
    pub(super) fn any(&self, is_so: &dyn Fn(&Expr) -> bool) -> bool {
        is_so(self) || self.parts().into_iter().any(|part| part.any(is_so))
    }

    /// The names of all variables and words in it, each time it stands there.
    pub(super) fn symbols<'tree>(&'tree self, into: &mut Vec<&'tree str>) {
        if let Self::Symbol(name) = self {
            into.push(name);
        }
        for part in self.parts() {
            part.symbols(into);
        }
    }

    /// Replaces each `±` by plus (`is_upper`) or by minus, and each `∓` by the other.
    pub(super) fn with_sign(&self, is_upper: bool) -> Expr {
        let sign = |part: &Expr| part.with_sign(is_upper);
        let all = |parts: &[Expr]| parts.iter().map(sign).collect();
        let boxed = |part: &Expr| Box::new(sign(part));
        match self {
            Self::PlusMinus { left, right, plus_first } => {
                let right = sign(right);
                let is_plus = *plus_first == is_upper;
                Self::Sum(vec![
                    sign(left),
                    if is_plus { right } else { Self::Negative(right.into()) },
                ])
            }
            Self::Sum(parts) => Self::Sum(all(parts)),
            Self::Product(parts) => Self::Product(all(parts)),
            Self::Negative(part) => Self::Negative(boxed(part)),
            Self::Quotient(one, other) => Self::Quotient(boxed(one), boxed(other)),
            Self::Power(one, other) => Self::Power(boxed(one), boxed(other)),
            Self::Root(one, other) => Self::Root(boxed(one), boxed(other)),
            Self::Apply(function, part) => Self::Apply(*function, boxed(part)),
            Self::Degrees(part) => Self::Degrees(boxed(part)),
            Self::Percent(part) => Self::Percent(boxed(part)),
            Self::Sequence { open, close, items } => {
                Self::Sequence { open: *open, close: *close, items: all(items) }
            }
            Self::Chain(parts, relations) => Self::Chain(all(parts), relations.clone()),
            Self::LogBase(one, other) => Self::LogBase(boxed(one), boxed(other)),
            Self::Binomial(one, other) => Self::Binomial(boxed(one), boxed(other)),
            Self::Union(parts) => Self::Union(all(parts)),
            Self::Matrix(rows) => Self::Matrix(rows.iter().map(|row| all(row)).collect()),
            Self::Number { .. }
            | Self::Symbol(_)
            | Self::Pi
            | Self::Euler
            | Self::Imaginary
            | Self::Infinity
            | Self::Based { .. } => self.clone(),
        }
    }
}
