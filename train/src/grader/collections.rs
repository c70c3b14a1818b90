//! When two lists, sets, tuples, intervals, matrices, equations or inequalities mean the same.

use super::compare::Comparison;
use super::expression::{Bracket, Expr, Relation};
use super::limits::{ITEMS_MAX, PLUS_MINUS_MAX};

/// A collection's elements, and whether their order counts.
enum Collection {
    /// A tuple or an interval.
    Ordered(Bracket, Bracket, Vec<Expr>),
    /// A list in running text, or the values of a `±`.
    List(Vec<Expr>),
    /// A set, or a union of intervals.
    Set(Vec<Expr>),
}

impl Collection {
    fn of(expr: &Expr) -> Option<Self> {
        match expr {
            Expr::Sequence { open: Bracket::Bare, items, .. } => {
                Some(Self::List(items.iter().flat_map(signs_apart).collect()))
            }
            Expr::Sequence { open: Bracket::Curly, items, .. } => {
                Some(Self::Set(items.iter().flat_map(signs_apart).collect()))
            }
            Expr::Sequence { open, close, items } => {
                let last = items.len().saturating_sub(1);
                let side = |bracket: Bracket, index: usize| match items.get(index) {
                    Some(item) if is_infinite(item) => Bracket::Round,
                    _ => bracket,
                };
                Some(Self::Ordered(side(*open, 0), side(*close, last), items.clone()))
            }
            Expr::Union(parts) => Some(Self::Set(parts.clone())),
            _ => {
                let values = signs_apart(expr);
                let is_apart = values.len() > 1 && !values.iter().any(has_sign);
                is_apart.then_some(Self::List(values))
            }
        }
    }
}

fn is_infinite(expr: &Expr) -> bool {
    match expr {
        Expr::Infinity => true,
        Expr::Negative(part) => **part == Expr::Infinity,
        _ => false,
    }
}

/// Whether there is a `±` in it; a tuple's own are left to its elements.
fn has_sign(expr: &Expr) -> bool {
    !matches!(expr, Expr::Sequence { .. })
        && expr.any(&|part| matches!(part, Expr::PlusMinus { .. }))
}

/// The values that an expression with `±` stands for; itself if it has none.
fn signs_apart(expr: &Expr) -> Vec<Expr> {
    let mut values = vec![expr.clone()];
    for _ in 0..PLUS_MINUS_MAX {
        if !values.iter().any(has_sign) {
            break;
        }
        values = values
            .iter()
            .flat_map(|value| [value.with_sign(true), value.with_sign(false)])
            .collect();
    }
    values
}

impl Comparison {
    /// Compares where one of the two is a collection or a matrix.
    pub(super) fn same_collection(&mut self, gold: &Expr, answer: &Expr) -> Option<bool> {
        if let (Expr::Matrix(gold), Expr::Matrix(answer)) = (gold, answer) {
            let has_shape = gold.iter().map(Vec::len).eq(answer.iter().map(Vec::len));
            return Some(has_shape && self.same_in_order(&gold.concat(), &answer.concat()));
        }
        Some(match (Collection::of(gold), Collection::of(answer)) {
            (None, None) => return None,
            (
                Some(Collection::Ordered(gold_open, gold_close, gold)),
                Some(Collection::Ordered(open, close, answer)),
            ) => (gold_open, gold_close) == (open, close) && self.same_in_order(&gold, &answer),
            // A tuple whose brackets were left out.
            (
                Some(Collection::Ordered(Bracket::Round, Bracket::Round, gold)),
                Some(Collection::List(answer)),
            )
            | (
                Some(Collection::List(gold)),
                Some(Collection::Ordered(Bracket::Round, Bracket::Round, answer)),
            ) => self.same_in_order(&gold, &answer),
            (Some(Collection::List(gold)), Some(Collection::List(answer))) => {
                self.same_in_any_order(&gold, &answer)
            }
            (
                Some(Collection::List(gold) | Collection::Set(gold)),
                Some(Collection::List(answer) | Collection::Set(answer)),
            ) => {
                let (gold, answer) = (self.distinct(gold), self.distinct(answer));
                self.same_in_any_order(&gold, &answer)
            }
            (Some(Collection::List(gold) | Collection::Set(gold)), None) => {
                gold.len() == 1 && self.same(&gold[0], answer)
            }
            (None, Some(Collection::List(answer) | Collection::Set(answer))) => {
                answer.len() == 1 && self.same(gold, &answer[0])
            }
            (Some(Collection::Ordered(_, _, items)), None) => self.same_vector(&items, answer),
            (None, Some(Collection::Ordered(_, _, items))) => self.same_vector(&items, gold),
            _ => false,
        })
    }

    /// A tuple and a matrix of one row or column.
    fn same_vector(&mut self, items: &[Expr], other: &Expr) -> bool {
        match other {
            Expr::Matrix(rows) if rows.len() == 1 || rows.iter().all(|row| row.len() == 1) => {
                self.same_in_order(items, &rows.concat())
            }
            _ => false,
        }
    }

    fn same_in_order(&mut self, gold: &[Expr], answer: &[Expr]) -> bool {
        gold.len() == answer.len()
            && gold.iter().zip(answer).all(|(gold, answer)| self.same(gold, answer))
    }

    /// Each element of one has its own in the other. Sameness is transitive but for roundings, so
    /// that taking the first that fits is enough.
    fn same_in_any_order(&mut self, gold: &[Expr], answer: &[Expr]) -> bool {
        if gold.len() != answer.len() || gold.len() > ITEMS_MAX {
            return false;
        }
        let mut left: Vec<&Expr> = answer.iter().collect();
        gold.iter().all(|gold| {
            let found = left.iter().position(|answer| self.same(gold, answer));
            found.map(|at| left.swap_remove(at)).is_some()
        })
    }

    fn distinct(&mut self, items: Vec<Expr>) -> Vec<Expr> {
        if items.len() > ITEMS_MAX {
            return items;
        }
        let mut distinct: Vec<Expr> = Vec::with_capacity(items.len());
        for item in items {
            if !distinct.iter().any(|known| self.same(known, &item)) {
                distinct.push(item);
            }
        }
        distinct
    }

    /// Compares where one of the two is an equation, an inequality or `x ∈ A`.
    pub(super) fn same_relation(&mut self, gold: &Expr, answer: &Expr) -> Option<bool> {
        let (gold_side, answer_side) = (Chained::of(gold), Chained::of(answer));
        Some(match (gold_side, answer_side) {
            (None, None) => return None,
            (Some(Chained::Member(gold)), _) => self.same(gold, answer),
            (_, Some(Chained::Member(answer))) => self.same(gold, answer),
            (Some(Chained::Equation(gold)), Some(Chained::Equation(answer))) => {
                self.same_equation(gold, answer)
            }
            // What an equation of the answer comes to, whatever is left of it.
            (None, Some(Chained::Equation(operands))) => {
                let is_turned = operands.last().is_some_and(is_name) && !is_name(&operands[0]);
                let value = if is_turned { operands.first() } else { operands.last() };
                value.is_some_and(|value| self.same(gold, value))
            }
            // The value of a name that is asked for may be given alone.
            (Some(Chained::Equation(operands)), None) => {
                let value = operands.last().filter(|_| is_name(&operands[0]));
                value.is_some_and(|value| self.same(value, answer))
            }
            (Some(Chained::Inequality), Some(Chained::Inequality)) => {
                self.same_inequality(gold, answer)
            }
            (Some(Chained::Inequality), None) => {
                as_interval(gold).is_some_and(|gold| self.same(&gold, answer))
            }
            (None, Some(Chained::Inequality)) => {
                as_interval(answer).is_some_and(|answer| self.same(gold, &answer))
            }
            _ => false,
        })
    }

    fn same_equation(&mut self, gold: &[Expr], answer: &[Expr]) -> bool {
        let ([gold_left, .., gold_right], [left, .., right]) = (gold, answer) else {
            return false;
        };
        let is_assignment = is_name(gold_left) && is_name(left);
        (is_assignment && self.same(gold_left, left) && self.same(gold_right, right))
            || self.is_multiple(&difference(gold_left, gold_right), &difference(left, right), false)
    }

    fn same_inequality(&mut self, gold: &Expr, answer: &Expr) -> bool {
        if let (Some(gold), Some(answer)) = (as_interval(gold), as_interval(answer)) {
            return self.same(&gold, &answer);
        }
        let (Some((gold_less, gold_is_strict)), Some((less, is_strict))) =
            (as_positive(gold), as_positive(answer))
        else {
            return false;
        };
        gold_is_strict == is_strict && self.is_multiple(&gold_less, &less, true)
    }
}

/// A relation by what can be done with it.
enum Chained<'tree> {
    /// The set of `x ∈ A`.
    Member(&'tree Expr),
    /// The operands of `a = b = c`.
    Equation(&'tree [Expr]),
    Inequality,
}

impl<'tree> Chained<'tree> {
    fn of(expr: &'tree Expr) -> Option<Self> {
        let Expr::Chain(operands, relations) = expr else {
            return None;
        };
        Some(match relations.as_slice() {
            [Relation::In] => Self::Member(&operands[1]),
            relations if relations.iter().all(|relation| *relation == Relation::Equal) => {
                Self::Equation(operands)
            }
            _ => Self::Inequality,
        })
    }
}

/// Whether an expression only names something: `x`, `f(x)`, `m_{\max}`.
fn is_name(expr: &Expr) -> bool {
    match expr {
        Expr::Symbol(_) => true,
        Expr::Product(factors) => factors.iter().all(is_name),
        Expr::Sequence { items, .. } => items.iter().all(is_name),
        _ => false,
    }
}

fn difference(left: &Expr, right: &Expr) -> Expr {
    Expr::Sum(vec![left.clone(), Expr::Negative(Box::new(right.clone()))])
}

/// `a < b` as b − a, with whether equality is excluded.
fn as_positive(expr: &Expr) -> Option<(Expr, bool)> {
    let Expr::Chain(operands, relations) = expr else {
        return None;
    };
    let ([left, right], [relation]) = (operands.as_slice(), relations.as_slice()) else {
        return None;
    };
    match relation {
        Relation::Less => Some((difference(right, left), true)),
        Relation::LessEqual => Some((difference(right, left), false)),
        Relation::Greater => Some((difference(left, right), true)),
        Relation::GreaterEqual => Some((difference(left, right), false)),
        Relation::Equal | Relation::Unequal | Relation::In => None,
    }
}

/// `a < x ≤ b` as (a, b], `x > a` as (a, ∞).
fn as_interval(expr: &Expr) -> Option<Expr> {
    let Expr::Chain(operands, relations) = expr else {
        return None;
    };
    let side = |relation: Relation| match relation {
        Relation::Less | Relation::Greater => Some(Bracket::Round),
        Relation::LessEqual | Relation::GreaterEqual => Some(Bracket::Square),
        Relation::Equal | Relation::Unequal | Relation::In => None,
    };
    let is_rising = |relation: Relation| matches!(relation, Relation::Less | Relation::LessEqual);
    let least = Expr::Negative(Box::new(Expr::Infinity));
    let (open, close, low, high) = match (operands.as_slice(), relations.as_slice()) {
        ([low, name, high], [first, second])
            if is_name(name) && is_rising(*first) == is_rising(*second) =>
        {
            if is_rising(*first) {
                (side(*first)?, side(*second)?, low.clone(), high.clone())
            } else {
                (side(*second)?, side(*first)?, high.clone(), low.clone())
            }
        }
        ([name, bound], [relation]) if is_name(name) => {
            if is_rising(*relation) {
                (Bracket::Round, side(*relation)?, least, bound.clone())
            } else {
                (side(*relation)?, Bracket::Round, bound.clone(), Expr::Infinity)
            }
        }
        ([bound, name], [relation]) if is_name(name) => {
            if is_rising(*relation) {
                (side(*relation)?, Bracket::Round, bound.clone(), Expr::Infinity)
            } else {
                (Bracket::Round, side(*relation)?, least, bound.clone())
            }
        }
        _ => return None,
    };
    Some(Expr::Sequence { open, close, items: vec![low, high] })
}
