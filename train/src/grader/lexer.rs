//! LaTeX and plain text as tokens. Spacing and sizing commands are gone, synonyms are one token,
//! and digits with thousands separators are one number. Knows no grammar: any text has tokens.

use super::expression::Function;
use super::latex::{Meaning, meaning, plain_sign};
use super::limits::DEPTH_MAX;

/// How commas between digits are read where both are possible: `1,234` is a number and a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Commas {
    /// `1,234` is 1234, unless it stands in brackets.
    Group,
    /// `1,234` is 1 and 234.
    Separate,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// Digits, perhaps with a point and a power of ten behind `e`.
    Number(String),
    /// A variable: a letter, or the name of a Greek one.
    Letter(String),
    /// Text, in lower case.
    Word(String),
    /// A function by its name.
    Function(Function),
    /// A command with arguments.
    Command(&'static str),
    /// Everything that is one character: operators, brackets, relations.
    Sign(char),
    /// The start of an environment, such as a matrix, and its end.
    Begin(String),
    End(String),
    /// `\\`, between the rows of a matrix.
    RowBreak,
}

/// A token, and whether white space stands before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lexed {
    pub(super) token: Token,
    pub(super) is_spaced: bool,
}

/// Tokens of a text.
pub(super) fn tokens(text: &str, commas: Commas) -> Vec<Lexed> {
    let mut lexer = Lexer { commas, brackets: 0, depth: 0, is_spaced: false, tokens: Vec::new() };
    lexer.read(text);
    join_degrees(lexer.tokens)
}

struct Lexer {
    commas: Commas,
    /// Open brackets before this place.
    brackets: usize,
    /// Texts within texts.
    depth: usize,
    is_spaced: bool,
    tokens: Vec<Lexed>,
}

impl Lexer {
    fn push(&mut self, token: Token) {
        self.tokens.push(Lexed { token, is_spaced: self.is_spaced });
        self.is_spaced = false;
    }

    fn read(&mut self, text: &str) {
        let mut at = 0;
        while let Some(first) = text[at..].chars().next() {
            let rest = &text[at..];
            at += match first {
                _ if first.is_whitespace() || first == '~' || first == '$' => {
                    self.is_spaced = true;
                    first.len_utf8()
                }
                '\\' => self.read_command(rest),
                '0'..='9' => self.read_number(text, at),
                '.' if starts_with_digit(&rest[1..]) => self.read_number(text, at),
                _ if first.is_ascii_alphabetic() => self.read_letters(rest),
                _ => self.read_sign(rest, first),
            };
        }
    }

    fn read_sign(&mut self, rest: &str, first: char) -> usize {
        const PAIRS: [(&str, char); 6] =
            [("**", '^'), ("<=", '≤'), (">=", '≥'), ("==", '='), ("+/-", '±'), ("+-", '±')];
        if let Some((pair, sign)) = PAIRS.iter().find(|(pair, _)| rest.starts_with(pair)) {
            self.push(Token::Sign(*sign));
            return pair.len();
        }
        match first {
            '(' | '[' => self.brackets += 1,
            ')' | ']' => self.brackets = self.brackets.saturating_sub(1),
            _ => {}
        }
        let sign = match first {
            ':' => '/',
            ';' => ',',
            _ => plain_sign(first).unwrap_or(first),
        };
        let token = match sign {
            'π' => Token::Letter("pi".into()),
            '√' => Token::Command("root"),
            '²' | '³' => {
                self.push(Token::Sign('^'));
                Token::Number(if sign == '²' { "2" } else { "3" }.into())
            }
            _ if sign.is_alphabetic() => Token::Letter(sign.into()),
            _ => Token::Sign(sign),
        };
        // A full stop that ends no number ends the sentence.
        if token != Token::Sign('.') {
            self.push(token);
        }
        first.len_utf8()
    }

    fn read_command(&mut self, rest: &str) -> usize {
        let after = &rest[1..];
        if after.starts_with('\\') {
            self.push(Token::RowBreak);
            return 2;
        }
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let one = after.chars().next().map_or(0, char::len_utf8);
        let name = &after[..if letters > 0 { letters } else { one }];
        let length = 1 + name.len();
        let rest = &rest[length..];
        match (name, meaning(name)) {
            ("begin" | "end", _) => return length + self.read_environment(name, rest),
            ("$", _) => self.push(Token::Word("dollars".into())),
            ("dot" | "ddot" | "hat" | "bar" | "vec" | "tilde", _) => {
                return length + self.read_accented(name, rest);
            }
            (_, Meaning::Text) => return length + self.read_text(rest),
            (_, Meaning::Command(command)) => self.push(Token::Command(command)),
            (_, Meaning::Sign(sign)) => {
                self.brackets += usize::from(matches!(sign, '⦃' | '('));
                self.brackets -= usize::from(matches!(sign, '⦄' | ')') && self.brackets > 0);
                self.push(Token::Sign(sign));
            }
            (_, Meaning::Nothing) => {
                self.is_spaced |= name != "!";
                // A bracket that is not shown: `\left.`
                let is_hidden = matches!(name, "left" | "right") && rest.starts_with('.');
                return length + usize::from(is_hidden);
            }
            (_, Meaning::Letter) => self.push(match Function::named(name) {
                Some(function) => Token::Function(function),
                None => Token::Letter(name.trim_start_matches("var").into()),
            }),
        }
        length
    }

    /// `\begin{name}`, for arrays with the alignment of their columns.
    fn read_environment(&mut self, command: &str, rest: &str) -> usize {
        let Some((name, mut length)) = group_at(rest) else {
            return 0;
        };
        let is_begin = command == "begin";
        if is_begin && name == "array" {
            length += group_at(&rest[length..]).map_or(0, |group| group.1);
        }
        let name = name.to_owned();
        self.push(if is_begin { Token::Begin(name) } else { Token::End(name) });
        length
    }

    /// A variable with something above it, as `\dot{x}`.
    fn read_accented(&mut self, accent: &str, rest: &str) -> usize {
        let Some((inside, length)) = group_at(rest) else {
            return 0;
        };
        self.push(Token::Letter(format!("{accent} {inside}")));
        length
    }

    /// The argument of `\text` and the like. What is more than words in it is read as the rest is.
    fn read_text(&mut self, rest: &str) -> usize {
        let Some((text, length)) = group_at(rest) else {
            return 0;
        };
        let inside = text;
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '~');
        let is_plain = |c: char| c.is_alphabetic() || c.is_whitespace() || "-'.".contains(c);
        let letters = text.chars().filter(|c| c.is_alphabetic()).count();
        // A letter set off by a blank is a unit: `2.8 \mathrm{~m}`.
        let is_set_off = letters == 1 && inside.len() > text.len();
        if (letters > 1 || is_set_off) && text.chars().all(is_plain) {
            self.push_word(text);
        } else if self.depth < DEPTH_MAX {
            self.depth += 1;
            self.read(text);
            self.depth -= 1;
        }
        length
    }

    fn push_word(&mut self, text: &str) {
        match (text, Function::named(text)) {
            ("or" | "and", _) => self.push(Token::Sign(',')),
            (_, Some(function)) if text != "sec" => self.push(Token::Function(function)),
            _ => {
                let words: Vec<&str> = text.split_whitespace().collect();
                let words = words.join(" ");
                let is_one = words.chars().count() == 1;
                self.push(Token::Word(if is_one { words } else { words.to_lowercase() }));
            }
        }
    }

    /// Letters without a backslash: a function, a word, or variables side by side.
    fn read_letters(&mut self, rest: &str) -> usize {
        let length = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let run = &rest[..length];
        if run == "np" && rest[length..].starts_with('.') {
            return length + 1;
        }
        let is_before_digit = starts_with_digit(&rest[length..]);
        let is_last = rest[length..].trim_end_matches(['.', '$', ' ']).is_empty();
        match (run, Function::named(run)) {
            ("sec", _) if is_last => self.push(Token::Word(run.into())),
            (_, Some(function)) => self.push(Token::Function(function)),
            ("sqrt", _) => self.push(Token::Command("root")),
            ("inf" | "infinity" | "oo", _) => self.push(Token::Sign('∞')),
            ("pi", _) => self.push(Token::Letter("pi".into())),
            ("or" | "and", _) => self.push(Token::Sign(',')),
            ("cm" | "mm" | "km" | "kg" | "ft" | "mph" | "hrs" | "min" | "sec" | "lbs", _)
                if !is_before_digit =>
            {
                self.push(Token::Word(run.into()));
            }
            _ => match Function::before_variables(run) {
                Some((function, variables)) => {
                    self.push(Token::Function(function));
                    self.push_variables(variables);
                }
                None if length >= 4 => self.push(Token::Word(run.to_lowercase())),
                None => self.push_variables(run),
            },
        }
        length
    }

    fn push_variables(&mut self, run: &str) {
        for letter in run.chars() {
            self.push(Token::Letter(letter.into()));
        }
    }

    fn read_number(&mut self, text: &str, at: usize) -> usize {
        let (mut digits, mut length) = self.whole_part(text, at);
        let rest = &text[at..];
        if rest[length..].starts_with('.') {
            let decimals = digits_at(&rest[length + 1..]);
            digits.push('.');
            digits.push_str(decimals);
            length += 1 + decimals.len();
        }
        if let Some(power) = power_of_ten_at(&rest[length..]) {
            digits.push_str(power);
            length += power.len();
        }
        self.push(Token::Number(digits));
        length
    }

    /// The digits before the point, with groups of three joined, and how long they are.
    fn whole_part(&self, text: &str, at: usize) -> (String, usize) {
        let first = digits_at(&text[at..]);
        let alone = (first.to_owned(), first.len());
        let in_list = text[..at].trim_end().ends_with(',')
            && text[..at].trim_end_matches([',', ' ']).ends_with(|c: char| c.is_ascii_digit());
        if first.is_empty() || first.len() > 3 || first.starts_with('0') || in_list {
            return alone;
        }
        let (mut digits, mut length) = alone.clone();
        while let Some((separator, group)) = group_of_three_at(&text[at + length..]) {
            let joins = match separator {
                "," => {
                    self.commas == Commas::Group && (self.brackets == 0 || group.starts_with('0'))
                }
                _ => true,
            };
            if !joins {
                break;
            }
            digits.push_str(group);
            length += separator.len() + group.len();
        }
        let goes_on = text[at + length..].strip_prefix(',').is_some_and(starts_with_digit);
        if goes_on { alone } else { (digits, length) }
    }
}

/// A separator and three digits, no more.
fn group_of_three_at(text: &str) -> Option<(&'static str, &str)> {
    const SEPARATORS: [&str; 8] = [",\\! ", ",\\!", "\\!,\\!", "{,}", ",", "\\,", "\\ ", " "];
    let separator = SEPARATORS.into_iter().find(|separator| text.starts_with(separator))?;
    let group = digits_at(&text[separator.len()..]);
    (group.len() == 3).then_some((separator, group))
}

fn power_of_ten_at(text: &str) -> Option<&str> {
    let rest = text.strip_prefix(['e', 'E'])?;
    let signs = usize::from(rest.starts_with(['+', '-']));
    let digits = digits_at(&rest[signs..]);
    let after = rest[signs + digits.len()..].chars().next();
    let is_power = !digits.is_empty() && !after.is_some_and(char::is_alphabetic);
    is_power.then_some(&text[..1 + signs + digits.len()])
}

fn digits_at(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len())]
}

fn starts_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

/// The inside of the braces that follow, and how many bytes they take with what is before them.
fn group_at(text: &str) -> Option<(&str, usize)> {
    let start = text.len() - text.trim_start().len();
    let mut open = 0_usize;
    for (at, byte) in text.bytes().enumerate().skip(start) {
        match byte {
            b'{' => open += 1,
            b'}' if open <= 1 => return (open == 1).then(|| (&text[start + 1..at], at + 1)),
            b'}' => open -= 1,
            _ if open == 0 => return None,
            _ => {}
        }
    }
    None
}

/// Writes `^\circ`, `^{\circ}` and the like as the one sign they show, and drops empty groups.
fn join_degrees(tokens: Vec<Lexed>) -> Vec<Lexed> {
    let is_raised = |sign: char| matches!(sign, '°' | '\'');
    let mut joined: Vec<Lexed> = Vec::with_capacity(tokens.len());
    for lexed in tokens {
        let signs = |count: usize| {
            let tail = joined.len().checked_sub(count).map(|start| &joined[start..]);
            tail.map(|tail| tail.iter().map(|lexed| as_sign(&lexed.token)).collect::<String>())
        };
        match as_sign(&lexed.token) {
            sign if is_raised(sign) && signs(1).as_deref() == Some("^") => {
                joined.pop();
            }
            '}' if signs(1).as_deref() == Some("{") => {
                joined.pop();
                continue;
            }
            '}' if signs(3).is_some_and(|tail| tail == "^{°" || tail == "^{'") => {
                let raised = joined.pop();
                joined.truncate(joined.len() - 2);
                joined.extend(raised);
                continue;
            }
            _ => {}
        }
        joined.push(lexed);
    }
    joined
}

fn as_sign(token: &Token) -> char {
    match token {
        Token::Sign(sign) => *sign,
        _ => ' ',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, commas: Commas) -> String {
        let shown = tokens(text, commas).into_iter().map(|lexed| match lexed.token {
            Token::Number(text) | Token::Letter(text) => text,
            Token::Word(word) => format!("\"{word}\""),
            Token::Function(function) => format!("{function:?}"),
            Token::Command(name) => format!("\\{name}"),
            Token::Sign(sign) => sign.into(),
            Token::Begin(name) => format!("begin {name}"),
            Token::End(name) => format!("end {name}"),
            Token::RowBreak => "row".into(),
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn texts_have_tokens() {
        for (text, expected) in [
            ("\\dfrac{1}{2}", "\\frac { 1 } { 2 }"),
            ("10,\\!080", "10080"),
            ("11,\\! 111,\\! 111,\\! 100", "11111111100"),
            ("58,500", "58500"),
            ("2{,}500", "2500"),
            ("1 000 000", "1000000"),
            ("1,2", "1 , 2"),
            ("3, 500", "3 , 500"),
            ("27,54,108,135", "27 , 54 , 108 , 135"),
            ("2500,7500", "2500 , 7500"),
            ("(3,331)", "( 3 , 331 )"),
            ("(1,000)", "( 1000 )"),
            (".35625", ".35625"),
            ("-1./3", "- 1. / 3"),
            ("42.", "42."),
            ("4.5e33", "4.5e33"),
            ("2e^x", "2 e ^ x"),
            ("90^\\circ", "90 °"),
            ("90^{\\circ}", "90 °"),
            ("5.3{ }^{\\circ} \\mathrm{C}", "5.3 ° C"),
            ("y^{\\prime}", "y '"),
            ("\\text{ or }", ","),
            ("\\text{(C)}", "( C )"),
            ("\\text{Evelyn Ray}", "\"evelyn ray\""),
            ("12 \\mathrm{~cm}", "12 \"cm\""),
            ("\\left. x \\right|", "x |"),
            ("abc even", "a b c \"even\""),
            ("sinx", "Sin x"),
            ("np.arcsin(10/13)", "Arcsin ( 10 / 13 )"),
            ("\\$36", "\"dollars\" 36"),
            ("x^2²", "x ^ 2 ^ 2"),
            ("\\{1\\}", "⦃ 1 ⦄"),
            ("\\begin{array}{cc}1 & 2\\\\3\\end{array}", "begin array 1 & 2 row 3 end array"),
        ] {
            assert_eq!(shown(text, Commas::Group), expected, "{text}");
        }
        assert_eq!(shown("58,500", Commas::Separate), "58 , 500");
        assert_eq!(shown("58,\\!500", Commas::Separate), "58500");
    }

    #[test]
    fn any_text_has_tokens() {
        for text in ["\\", "\\text{", "\\text", "\\begin", "\\é", "{}{}^{", "é$~", "\\left"] {
            tokens(text, Commas::Group);
        }
    }
}
