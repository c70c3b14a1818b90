//! What LaTeX commands stand for, as far as answers use them. A table and no more.

/// What a command becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Nothing: it only moves things about.
    Nothing,
    /// A sign that plain text has too.
    Sign(char),
    /// Its argument is text.
    Text,
    /// A command that the parser knows by this name.
    Command(&'static str),
    /// A letter, or a name used like one.
    Letter,
}

const NOTHING: &[&str] = &[
    "left",
    "right",
    "big",
    "bigl",
    "bigr",
    "Big",
    "Bigl",
    "Bigr",
    "bigg",
    "Bigg",
    "biggl",
    "biggr",
    "displaystyle",
    "textstyle",
    "limits",
    "nolimits",
    "quad",
    "qquad",
    "boxed",
    "fbox",
    "hline",
    "space",
    "thinspace",
    ",",
    "!",
    ";",
    ":",
    " ",
    "(",
    ")",
    "[",
    "]",
    "phantom",
    "bf",
    "rm",
];

const TEXT: &[&str] = &[
    "text",
    "textbf",
    "textit",
    "textrm",
    "textnormal",
    "mbox",
    "hbox",
    "mathrm",
    "mathbf",
    "mathit",
    "mathsf",
    "mathbb",
    "mathcal",
    "boldsymbol",
    "bm",
    "operatorname",
    "rm",
];

const SIGNS: &[(&str, char)] = &[
    ("cdot", '*'),
    ("times", '*'),
    ("ast", '*'),
    ("div", '/'),
    ("le", '≤'),
    ("leq", '≤'),
    ("leqslant", '≤'),
    ("ge", '≥'),
    ("geq", '≥'),
    ("geqslant", '≥'),
    ("lt", '<'),
    ("gt", '>'),
    ("ne", '≠'),
    ("neq", '≠'),
    ("in", '∈'),
    ("cup", '∪'),
    ("pm", '±'),
    ("mp", '∓'),
    ("lbrace", '⦃'),
    ("rbrace", '⦄'),
    ("{", '⦃'),
    ("}", '⦄'),
    ("langle", '('),
    ("rangle", ')'),
    ("lbrack", '['),
    ("rbrack", ']'),
    ("vert", '|'),
    ("lvert", '|'),
    ("rvert", '|'),
    ("mid", '|'),
    ("circ", '°'),
    ("degree", '°'),
    ("prime", '\''),
    ("%", '%'),
    ("approx", '='),
    ("simeq", '='),
    ("equiv", '='),
    ("colon", '/'),
    ("lfloor", '⌊'),
    ("rfloor", '⌋'),
    ("lceil", '⌈'),
    ("rceil", '⌉'),
    ("infty", '∞'),
    ("setminus", '∖'),
    ("backslash", '∖'),
];

/// Commands of the parser's own, and the names they go by in LaTeX.
const COMMANDS: &[(&str, &str)] = &[
    ("frac", "frac"),
    ("dfrac", "frac"),
    ("tfrac", "frac"),
    ("cfrac", "frac"),
    ("sqrt", "sqrt"),
    ("binom", "binom"),
    ("dbinom", "binom"),
    ("tbinom", "binom"),
    ("overline", "overline"),
    ("emptyset", "emptyset"),
    ("varnothing", "emptyset"),
];

/// What a command with this name (without its backslash) stands for.
pub(super) fn meaning(name: &str) -> Meaning {
    let sign = SIGNS.iter().find(|(latex, _)| *latex == name);
    let command = COMMANDS.iter().find(|(latex, _)| *latex == name);
    match (sign, command) {
        (Some(&(_, sign)), _) => Meaning::Sign(sign),
        (_, Some(&(_, command))) => Meaning::Command(command),
        _ if TEXT.contains(&name) => Meaning::Text,
        _ if NOTHING.contains(&name) => Meaning::Nothing,
        _ => Meaning::Letter,
    }
}

/// Characters beyond ASCII that stand for a sign.
pub(super) fn plain_sign(character: char) -> Option<char> {
    Some(match character {
        '−' | '–' | '—' => '-',
        '×' | '·' | '⋅' | '∗' => '*',
        '÷' | '∶' => '/',
        '⟨' => '(',
        '⟩' => ')',
        '≈' => '=',
        '′' | '’' => '\'',
        '≤' | '≥' | '≠' | '∈' | '∪' | '±' | '∓' | '°' | '∞' | '⌊' | '⌋' | '⌈' | '⌉' | '∖' => {
            character
        }
        _ => return None,
    })
}
