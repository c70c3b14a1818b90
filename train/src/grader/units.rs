//! Units behind a value, such as `12 \text{ cm}^2` or `\$36`. They are set aside before a value is
//! compared; two known units that differ make two answers differ. Nothing is converted.

use super::lexer::{Lexed, Token};

/// Names of one unit, the first of them its own.
const UNITS: &[&[&str]] = &[
    &["m", "meter", "meters", "metre", "metres"],
    &["cm", "centimeter", "centimeters", "centimetre", "centimetres"],
    &["mm", "millimeter", "millimeters", "millimetres"],
    &["km", "kilometer", "kilometers", "kilometres"],
    &["nm", "nanometer", "nanometers"],
    &["in", "inch", "inches"],
    &["ft", "foot", "feet"],
    &["yd", "yard", "yards"],
    &["mi", "mile", "miles"],
    &["s", "sec", "second", "seconds"],
    &["min", "minute", "minutes"],
    &["h", "hr", "hrs", "hour", "hours"],
    &["day", "days"],
    &["week", "weeks"],
    &["month", "months"],
    &["year", "years", "yr"],
    &["g", "gram", "grams"],
    &["kg", "kilogram", "kilograms"],
    &["lb", "lbs", "pound", "pounds"],
    &["l", "L", "liter", "liters", "litre", "litres"],
    &["mL", "ml", "milliliter", "milliliters"],
    &["dollars", "dollar", "usd"],
    &["cents", "cent"],
    &["degrees", "degree", "deg"],
    &["percent", "pct"],
    &["rad", "radian", "radians"],
    &["mph", "miles per hour"],
    &["units", "unit"],
    &["J", "joule", "joules"],
    &["V", "volt", "volts"],
    &["eV"],
    &["Hz", "hertz"],
    &["K", "kelvin"],
    &["N", "newton", "newtons"],
    &["W", "watt", "watts"],
];

/// An answer's tokens without the unit, and the unit in a form of its own.
#[derive(Debug)]
pub(super) struct Measured<'tokens> {
    pub(super) value: &'tokens [Lexed],
    /// `None` where there is no unit.
    pub(super) unit: Option<Unit>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unit {
    name: String,
    is_known: bool,
}

impl Unit {
    /// Whether two units cannot be the same: both are known, and differ.
    pub(super) fn contradicts(&self, other: &Self) -> bool {
        self.is_known && other.is_known && self.name != other.name
    }
}

/// Splits a unit off: words behind the value (`cm^2`, `feet per second`), single letters only
/// where `letters_too`, since `6m` may be six times m. Text alone is no unit.
pub(super) fn split(tokens: &[Lexed], letters_too: bool) -> Measured<'_> {
    if let [Lexed { token: Token::Word(word), .. }, value @ ..] = tokens
        && !value.is_empty()
        && word == "dollars"
    {
        return Measured { value, unit: Some(read_unit(&tokens[..1])) };
    }
    let start = unit_start(tokens, letters_too);
    let is_value = start > 0 && start < tokens.len() && ends_value(&tokens[start - 1].token);
    if is_value {
        Measured { value: &tokens[..start], unit: Some(read_unit(&tokens[start..])) }
    } else {
        Measured { value: tokens, unit: None }
    }
}

/// Where the run of unit-like tokens at the end begins; the run begins with a name.
fn unit_start(tokens: &[Lexed], letters_too: bool) -> usize {
    let is_name = |token: &Token| match token {
        Token::Word(_) => true,
        Token::Letter(letter) => letters_too && is_known(letter),
        _ => false,
    };
    let mut start = tokens.len();
    let mut groups = 0_usize;
    for (at, lexed) in tokens.iter().enumerate().rev() {
        match &lexed.token {
            token if is_name(token) => start = at,
            Token::Sign('}') => groups += 1,
            Token::Sign('{') if groups > 0 => groups -= 1,
            Token::Sign('^' | '/' | '*' | '-') => {}
            Token::Number(digits) if digits.len() == 1 => {}
            _ => break,
        }
    }
    start
}

fn ends_value(token: &Token) -> bool {
    match token {
        Token::Number(_) | Token::Letter(_) => true,
        Token::Sign(sign) => ")]}⦄°!|%'".contains(*sign),
        _ => false,
    }
}

fn is_known(name: &str) -> bool {
    UNITS.iter().any(|names| names.contains(&name))
}

fn canonical(name: &str) -> Option<&'static str> {
    UNITS.iter().find(|names| names.contains(&name)).map(|names| names[0])
}

/// Writes a unit in one form: `square inches`, `inches^2` and `in^{2}` are `in^2`.
fn read_unit(tokens: &[Lexed]) -> Unit {
    let mut unit = Unit { name: String::new(), is_known: true };
    let mut power = None;
    for lexed in tokens {
        match &lexed.token {
            Token::Word(words) => match canonical(words) {
                Some(name) => unit.name.push_str(name),
                None => {
                    for word in words.split(' ') {
                        unit.push_word(word, &mut power);
                    }
                }
            },
            Token::Letter(letter) => unit.push_word(letter, &mut power),
            Token::Number(digits) => unit.name.push_str(digits),
            Token::Sign(sign) if !"{}*".contains(*sign) => unit.name.push(*sign),
            _ => {}
        }
    }
    unit.name.extend(power);
    unit
}

impl Unit {
    fn push_word(&mut self, word: &str, power: &mut Option<&'static str>) {
        match (word, canonical(word)) {
            ("square" | "sq", _) => *power = Some("^2"),
            ("cubic" | "cu", _) => *power = Some("^3"),
            ("per", _) => self.name.push('/'),
            (_, Some(name)) => self.name.push_str(name),
            (_, None) => {
                self.name.push_str(word);
                self.is_known = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lexer::{Commas, tokens};
    use super::*;

    #[test]
    fn units_are_set_aside() {
        for (text, value_tokens, unit) in [
            ("15\\mbox{ cm}^2", 1, "cm^2"),
            ("15 square centimeters", 1, "cm^2"),
            ("864 \\mbox{ inches}^2", 1, "in^2"),
            ("3 \\text{ feet per second}", 1, "ft/s"),
            ("3 \\text{ ft}/\\text{sec}", 1, "ft/s"),
            ("\\$36", 1, "dollars"),
            ("36 dollars", 1, "dollars"),
            ("\\frac{270}7\\text{ degrees}", 5, "degrees"),
            ("5 apples", 1, "apples"),
        ] {
            let tokens = tokens(text, Commas::Group);
            let measured = split(&tokens, false);
            assert_eq!(measured.value.len(), value_tokens, "{text}");
            assert_eq!(measured.unit.map(|unit| unit.name).as_deref(), Some(unit), "{text}");
        }
    }

    #[test]
    fn what_is_no_unit_stays() {
        for text in ["\\text{east}", "6m", "x=\\text{even}", "12", "2 + apples"] {
            assert!(split(&tokens(text, Commas::Group), false).unit.is_none(), "{text}");
        }
        assert!(split(&tokens("6m", Commas::Group), true).unit.is_some());
    }
}
