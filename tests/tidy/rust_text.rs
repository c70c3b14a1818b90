//! A Rust file reduced to its product code: comments blanked, the tests at its foot cut off.
//! Strings stay, since rules look into them. Knows just enough of the language for that.

/// The text without comments and without what follows `#[cfg(test)]`; lines keep their numbers.
pub(crate) fn product_code(source: &str) -> String {
    let code = without_comments(source);
    match code.lines().position(|line| line.trim_start().starts_with("#[cfg(test)]")) {
        Some(first) => code.lines().take(first).collect::<Vec<_>>().join("\n"),
        None => code,
    }
}

/// The text with every comment gone, doc comments included.
pub(crate) fn without_comments(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let (kept, length) = match next_piece(rest) {
            Piece::Comment(length) => (newlines(&rest[..length]), length),
            Piece::Literal(length) => (rest[..length].to_owned(), length),
            Piece::Other => (first.to_string(), first.len_utf8()),
        };
        code.push_str(&kept);
        rest = &rest[length..];
    }
    code
}

enum Piece {
    /// This many bytes are a comment.
    Comment(usize),
    /// This many bytes are a string, raw string or character.
    Literal(usize),
    /// One character of anything else.
    Other,
}

fn next_piece(rest: &str) -> Piece {
    if rest.starts_with("//") {
        Piece::Comment(rest.find('\n').unwrap_or(rest.len()))
    } else if rest.starts_with("/*") {
        Piece::Comment(block_comment_length(rest))
    } else if let Some(length) = raw_string_length(rest) {
        Piece::Literal(length)
    } else if rest.starts_with('"') {
        Piece::Literal(quoted_length(rest, '"'))
    } else if rest.starts_with("'\\") || rest.chars().nth(2) == Some('\'') && rest.starts_with('\'')
    {
        Piece::Literal(quoted_length(rest, '\''))
    } else {
        Piece::Other
    }
}

/// Length of a block comment, which may hold others.
fn block_comment_length(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// Length of `r"…"` or `r#"…"#` at the start, if one stands there.
fn raw_string_length(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('r')?;
    let hashes = after.bytes().take_while(|byte| *byte == b'#').count();
    let body = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let opening = 1 + hashes + 1;
    Some(body.find(&end).map_or(rest.len(), |at| opening + at + end.len()))
}

/// Length of a literal in these quotes, escapes skipped.
fn quoted_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return at + quote.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

fn newlines(text: &str) -> String {
    "\n".repeat(text.matches('\n').count())
}

#[test]
fn comments_go_and_strings_stay() {
    let cases = [
        ("let a = 1; // one\nb", "let a = 1; \nb"),
        ("/* a /* b */ c */d", "d"),
        ("/// doc\nfn f() {}", "\nfn f() {}"),
        ("\"// not\" // is", "\"// not\" "),
        ("\"\\\"// not\"// is", "\"\\\"// not\""),
        ("r#\"// \" not\"# // is", "r#\"// \" not\"# "),
        ("'\"' // is\n'\\''// is", "'\"' \n'\\''"),
        ("fn f<'a>(x: &'a str) // is", "fn f<'a>(x: &'a str) "),
        ("/* two\nlines */x", "\nx"),
    ];
    for (source, expected) in cases {
        assert_eq!(without_comments(source), expected, "{source}");
    }
}

#[test]
fn tests_at_the_foot_are_cut_off() {
    assert_eq!(product_code("a\n#[cfg(test)]\nmod tests {}\n"), "a");
    assert_eq!(product_code("a // #[cfg(test)]\nb"), "a \nb");
}
