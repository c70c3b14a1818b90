//! Tokens as a tree: lists, relations, sums, products, powers; what those are made of is in
//! `atoms.rs`. What does not parse is no fault: such an answer is compared as text.

use num_rational::BigRational;

use super::expression::{Bracket, Expr, Relation};
use super::lexer::{Lexed, Token};
use super::limits::{DEPTH_MAX, LEFT_NESTED_MAX};

/// The tree of a whole answer.
pub(super) fn parse(tokens: &[Lexed]) -> Option<Expr> {
    let mut parser = Parser { tokens: tokens.to_vec(), at: 0, depth: 0, left_nested: 0, bars: 0 };
    let expr = parser.list()?;
    (parser.at == parser.tokens.len()).then_some(expr)
}

pub(super) struct Parser {
    /// Arguments without braces take one digit of a number, so the tokens change.
    pub(super) tokens: Vec<Lexed>,
    pub(super) at: usize,
    depth: usize,
    /// Operators so far that put all before them one level deeper.
    left_nested: usize,
    /// Open `|`: the next one closes.
    pub(super) bars: usize,
}

impl Parser {
    pub(super) fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|lexed| &lexed.token)
    }

    pub(super) fn peek_sign(&self) -> Option<char> {
        match self.peek() {
            Some(Token::Sign(sign)) => Some(*sign),
            _ => None,
        }
    }

    pub(super) fn take_sign(&mut self, sign: char) -> bool {
        let is_there = self.peek_sign() == Some(sign);
        self.at += usize::from(is_there);
        is_there
    }

    /// Runs a rule one level deeper; too deep is not parsed.
    pub(super) fn deeper<Out>(
        &mut self,
        rule: impl FnOnce(&mut Self) -> Option<Out>,
    ) -> Option<Out> {
        if self.depth >= DEPTH_MAX {
            return None;
        }
        self.depth += 1;
        let out = rule(self);
        self.depth -= 1;
        out
    }

    /// Counts an operator that makes what stands before it a part; too many are not parsed.
    fn nest_left(&mut self) -> Option<()> {
        self.left_nested += 1;
        (self.left_nested <= LEFT_NESTED_MAX).then_some(())
    }

    /// Relations between commas. Repeated commas, as in `1, 2, and 3`, count once.
    pub(super) fn list(&mut self) -> Option<Expr> {
        let first = self.relation()?;
        let mut items = vec![first];
        while self.peek_sign() == Some(',') {
            while self.take_sign(',') {}
            items.push(self.relation()?);
        }
        Some(match items.len() {
            1 => items.remove(0),
            _ => Expr::Sequence { open: Bracket::Bare, close: Bracket::Bare, items },
        })
    }

    fn relation(&mut self) -> Option<Expr> {
        let first = self.union()?;
        let (mut operands, mut relations) = (vec![first], Vec::new());
        while let Some(relation) = self.take_relation() {
            relations.push(relation);
            operands.push(self.union()?);
        }
        Some(match operands.len() {
            1 => operands.remove(0),
            _ => Expr::Chain(operands, relations),
        })
    }

    fn take_relation(&mut self) -> Option<Relation> {
        let relation = match self.peek_sign()? {
            '=' => Relation::Equal,
            '≠' => Relation::Unequal,
            '<' => Relation::Less,
            '≤' => Relation::LessEqual,
            '>' => Relation::Greater,
            '≥' => Relation::GreaterEqual,
            '∈' => Relation::In,
            _ => return None,
        };
        self.at += 1;
        Some(relation)
    }

    fn union(&mut self) -> Option<Expr> {
        let mut parts = vec![self.sum()?];
        while self.take_sign('∪') {
            parts.push(self.sum()?);
        }
        Some(if parts.len() == 1 { parts.remove(0) } else { Expr::Union(parts) })
    }

    pub(super) fn sum(&mut self) -> Option<Expr> {
        self.deeper(|parser| {
            let mut terms = Vec::new();
            if matches!(parser.peek_sign(), Some('±' | '∓')) {
                terms.push(Expr::Number { value: BigRational::default(), is_decimal: false });
            } else {
                terms.push(parser.product()?);
            }
            while let Some(sign @ ('+' | '-' | '±' | '∓')) = parser.peek_sign() {
                parser.at += 1;
                let right = parser.product()?;
                match sign {
                    '+' => terms.push(right),
                    '-' => terms.push(Expr::Negative(right.into())),
                    _ => {
                        parser.nest_left()?;
                        let left = Box::new(sum_of(std::mem::take(&mut terms)));
                        let plus_first = sign == '±';
                        terms.push(Expr::PlusMinus { left, right: right.into(), plus_first });
                    }
                }
            }
            Some(sum_of(terms))
        })
    }

    pub(super) fn product(&mut self) -> Option<Expr> {
        let mut factors = vec![self.signed()?];
        loop {
            if self.take_sign('*') {
                factors.push(self.signed()?);
            } else if self.take_sign('/') {
                self.nest_left()?;
                let divisor = self.signed()?;
                let dividend = product_of(std::mem::take(&mut factors));
                factors.push(Expr::Quotient(dividend.into(), divisor.into()));
            } else if self.starts_factor() {
                // Two numbers side by side are no product.
                if self.is_number(self.at) && self.is_number(self.at - 1) {
                    return None;
                }
                factors.push(self.power()?);
            } else {
                return Some(product_of(factors));
            }
        }
    }

    /// A factor with signs in front of it.
    fn signed(&mut self) -> Option<Expr> {
        if self.take_sign('-') {
            let rest = self.deeper(Self::signed)?;
            return Some(Expr::Negative(rest.into()));
        }
        if self.take_sign('+') {
            return self.deeper(Self::signed);
        }
        self.power()
    }

    /// An atom, what stands raised behind it, and what it is raised to.
    pub(super) fn power(&mut self) -> Option<Expr> {
        let mut base = self.atom()?;
        loop {
            base = match self.peek_sign() {
                Some('!') => Expr::Apply(super::expression::Function::Factorial, base.into()),
                Some('°') => Expr::Degrees(base.into()),
                Some('%') => Expr::Percent(base.into()),
                _ => break,
            };
            self.at += 1;
            self.nest_left()?;
        }
        if self.take_sign('^') {
            let exponent = self.deeper(Self::exponent)?;
            return Some(Expr::Power(base.into(), exponent.into()));
        }
        Some(base)
    }

    /// `x^{..}`, `x^2`, `x^-2`, `x^y^z`.
    fn exponent(&mut self) -> Option<Expr> {
        if self.peek_sign() == Some('{') {
            let exponent = self.argument()?;
            if self.take_sign('^') {
                let upper = self.deeper(Self::exponent)?;
                return Some(Expr::Power(exponent.into(), upper.into()));
            }
            return Some(exponent);
        }
        self.signed()
    }

    fn is_number(&self, at: usize) -> bool {
        matches!(self.tokens.get(at), Some(Lexed { token: Token::Number(_), .. }))
    }

    /// Whether an implicit product goes on here.
    fn starts_factor(&self) -> bool {
        match self.peek() {
            Some(Token::Sign(sign)) => match sign {
                '(' | '[' | '{' | '⌊' | '⌈' | '∞' => true,
                '|' => self.bars == 0,
                _ => false,
            },
            Some(Token::End(_) | Token::RowBreak) | None => false,
            Some(_) => true,
        }
    }
}

pub(super) fn sum_of(mut terms: Vec<Expr>) -> Expr {
    if terms.len() == 1 { terms.remove(0) } else { Expr::Sum(terms) }
}

pub(super) fn product_of(mut factors: Vec<Expr>) -> Expr {
    if factors.len() == 1 { factors.remove(0) } else { Expr::Product(factors) }
}
