//! Owns the judgement whether an answer is right: one grader for rewards and for evaluation.
//!
//! [`grade`] takes the gold answer and a whole response, finds the answer in it (`extract`) and
//! compares the two as mathematics (`compare`), not as text. Must not know who wrote the
//! response, what a reward is, or which benchmark a problem comes from.
//!
//! | File | Holds |
//! |---|---|
//! | `extract.rs` | where in a response the answer stands |
//! | `choice.rs` | answers that are a letter, (A) to (E) |
//! | `lexer.rs`, `latex.rs` | LaTeX and plain text as tokens, thousands separators included |
//! | `units.rs` | units behind a value |
//! | `expression.rs`, `parser.rs`, `atoms.rs` | tokens as a tree |
//! | `value.rs`, `evaluate.rs` | a tree as a number: exact where it can be, else a complex `f64` |
//! | `compare.rs`, `collections.rs` | when two trees mean the same |
//!
//! How equality is decided: numbers exactly, as fractions of big integers; closed expressions with
//! roots, π, e, i and the usual functions by their value to ten digits; expressions with variables
//! by their values at six fixed points (rational ones, so that polynomials and their quotients are
//! compared exactly). Lists without brackets and sets have no order, tuples and intervals have one.
//!
//! A hostile answer costs neither a panic nor a second: what is longer, deeper or larger than
//! `limits` allows is compared as text only.

mod atoms;
mod choice;
mod collections;
mod compare;
mod evaluate;
mod expression;
mod extract;
mod latex;
mod lexer;
mod parser;
mod units;
mod value;

pub use extract::extract;

mod limits {
    /// Longest answer that is read as mathematics. The longest gold answer of the six benchmark
    /// sets has under 300 bytes.
    pub(super) const ANSWER_BYTES_MAX: usize = 4096;
    /// Deepest nesting of groups, signs and powers: a bracket counts
    /// twice. Each level is a few frames of the stack.
    pub(super) const DEPTH_MAX: usize = 100;
    /// Most quotients, signs of `±` and marks behind a factor: each takes all before it into its
    /// operand, and trees are walked by recursion, so that a chain of them is as deep as it is long.
    pub(super) const LEFT_NESTED_MAX: usize = 200;
    /// Largest exact numerator or denominator, in bits; 1000! has 8,530.
    pub(super) const EXACT_BITS_MAX: u64 = 16_384;
    /// Largest factorial and binomial coefficient that is multiplied out.
    pub(super) const FACTORIAL_MAX: u32 = 1500;
    /// Largest n of an n-th root that is looked for exactly.
    pub(super) const ROOT_INDEX_MAX: u32 = 64;
    /// Most different variables in a pair of answers.
    pub(super) const SYMBOLS_MAX: usize = 24;
    /// Most elements of a list that is compared in any order.
    pub(super) const ITEMS_MAX: usize = 64;
    /// Most `\pm` in an answer: each doubles the readings.
    pub(super) const PLUS_MINUS_MAX: usize = 3;
    /// All arithmetic for one pair of answers, in steps of about a nanosecond: a tree's node costs
    /// some, a big product or quotient the square of its 64-bit words.
    pub(super) const WORK_MAX: u64 = 20_000_000;
}

/// What the grader says of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the answer found means the same as the gold answer.
    pub correct: bool,
    /// The answer found, as written; `None` where the response gives none.
    pub extracted: Option<String>,
}

/// Judges a response against the gold answer. A response without an answer is wrong.
pub fn grade(gold: &str, response: &str) -> Verdict {
    let extracted = extract(response);
    let correct = extracted.is_some_and(|answer| is_equal(gold, answer));
    Verdict { correct, extracted: extracted.map(str::to_owned) }
}

/// Whether an answer means the same as the gold answer, both without text around them. A gold
/// answer may itself stand in a box or behind `####`.
///
/// Not symmetric: the gold answer decides what is asked for. `x=5` is right where 5 is asked for;
/// where an equation such as `2x+z=1` is asked for, its right side is not.
pub fn is_equal(gold: &str, answer: &str) -> bool {
    let gold = extract::marked(gold).unwrap_or(gold);
    compare::is_same_text(gold, answer)
        || match choice::letter_asked(gold) {
            Some(letter) => choice::letter_chosen(answer) == Some(letter),
            None => compare::is_same_meaning(gold, answer),
        }
}
