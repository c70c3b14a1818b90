//! One table of texts and what the scanner must make of them. (The scanner reads single bytes, so
//! a token border is invisible to it; `machine_table.rs` splits texts over every token border.)

#![allow(clippy::unwrap_used)]

use relay::command::{
    BLANKS_BEFORE_MAX, Command, HELD_BYTES_MAX, Scanner, open_overlap, write_command,
};

/// Ordinary text, the commands' n with the blanks they took, and how many broke the grammar.
fn scan(text: &str) -> (String, Vec<(u32, usize)>, u32) {
    let mut scanner = Scanner::default();
    let (mut held, mut plain, mut commands, mut malformed) =
        (Vec::new(), Vec::new(), Vec::new(), 0);
    for byte in text.bytes() {
        held.push(byte);
        let scan = scanner.push(byte);
        plain.extend(held.drain(..scan.settled_bytes));
        malformed += scan.malformed;
        if let Some(Command { tokens, length_bytes, blanks_bytes }) = scan.command {
            assert_eq!(held.len(), length_bytes + blanks_bytes, "{text:?}");
            held.clear();
            commands.push((tokens, blanks_bytes));
        }
        assert_eq!(held.len(), scanner.held_bytes(), "{text:?}");
        assert!(held.len() <= HELD_BYTES_MAX);
    }
    let end = scanner.end();
    plain.extend(held.drain(..end.settled_bytes));
    assert!(held.is_empty());
    (String::from_utf8(plain).unwrap(), commands, malformed + end.malformed)
}

/// A text, what of it is ordinary, the commands (n, blanks taken), how many break the grammar.
type Row<'a> = (&'a str, &'a str, &'a [(u32, usize)], u32);

#[test]
fn grammar_table() {
    let blanks = |count| " ".repeat(count);
    let long_blanks = format!("a{}<call>3</call>", blanks(BLANKS_BEFORE_MAX + 2));
    let table: &[Row<'_>] = &[
        ("plain text", "plain text", &[], 0),
        ("<call>5</call>", "", &[(5, 0)], 0),
        ("a <call>5</call>b", "ab", &[(5, 1)], 0),
        ("a \t <call>5</call>", "a", &[(5, 3)], 0),
        ("a\n<call>5</call>", "a\n", &[(5, 0)], 0),
        ("a\n <call>5</call>", "a\n", &[(5, 1)], 0),
        ("<call> 007 </call>", "", &[(7, 0)], 0),
        ("<call>\n\t 12 \n</call>", "", &[(12, 0)], 0),
        ("<call>99999</call>", "", &[(99_999, 0)], 0),
        ("<call>00000</call>", "", &[(0, 0)], 0),
        ("<call>0</call>", "", &[(0, 0)], 0),
        ("<call>        1        </call>", "", &[(1, 0)], 0),
        ("<call>         1</call>", "<call>         1</call>", &[], 1),
        ("<call>1         </call>", "<call>1         </call>", &[], 1),
        ("<call>123456</call>", "<call>123456</call>", &[], 1),
        ("<call></call>", "<call></call>", &[], 1),
        ("<call>  </call>", "<call>  </call>", &[], 1),
        ("<call>abc</call>", "<call>abc</call>", &[], 1),
        ("<call>-5</call>", "<call>-5</call>", &[], 1),
        ("<call>5.0</call>", "<call>5.0</call>", &[], 1),
        ("<call>5 5</call>", "<call>5 5</call>", &[], 1),
        ("<call>٣</call>", "<call>٣</call>", &[], 1),
        ("<call>5\r</call>", "<call>5\r</call>", &[], 1),
        ("<call>5\u{a0}</call>", "<call>5\u{a0}</call>", &[], 1),
        ("<call>5", "<call>5", &[], 1),
        ("<call>5</call", "<call>5</call", &[], 1),
        ("<call", "<call", &[], 0),
        ("</call>", "</call>", &[], 0),
        ("<Call>5</Call>", "<Call>5</Call>", &[], 0),
        ("< call>5</call>", "< call>5</call>", &[], 0),
        ("<<call>5</call>", "<", &[(5, 0)], 0),
        ("<ca<call>5</call>", "<ca", &[(5, 0)], 0),
        ("<call><call>5</call>", "<call>", &[(5, 0)], 1),
        ("<call>5<call>6</call>", "<call>5", &[(6, 0)], 1),
        ("<call>  <call>6</call>", "<call>", &[(6, 2)], 1),
        ("<call>5</call></call>", "</call>", &[(5, 0)], 0),
        ("<call>1</call><call>2</call>", "", &[(1, 0), (2, 0)], 0),
        ("<call>1</call> x <call>2</call>", " x", &[(1, 0), (2, 1)], 0),
        ("`<call>5</call>`", "``", &[(5, 0)], 0),
        (&long_blanks, "a  ", &[(3, BLANKS_BEFORE_MAX)], 0),
        ("a  b", "a  b", &[], 0),
        ("end  ", "end  ", &[], 0),
    ];
    for (text, plain, commands, malformed) in table {
        assert_eq!(scan(text), ((*plain).to_owned(), commands.to_vec(), *malformed), "{text:?}");
    }
}

#[test]
fn what_is_written_is_read() {
    for tokens in [0, 1, 9, 10, 99_999] {
        assert_eq!(scan(&write_command(tokens)), (String::new(), vec![(tokens, 0)], 0));
    }
}

#[test]
fn text_is_released_as_soon_as_it_cannot_be_a_command() {
    let mut scanner = Scanner::default();
    let settled: Vec<usize> =
        "a <calx".bytes().map(|byte| scanner.push(byte).settled_bytes).collect();
    assert_eq!(settled, [1, 0, 0, 0, 0, 0, 6]);
}

#[test]
fn overlap_with_the_opening_tag() {
    for (text, overlap) in
        [("", 0), ("a", 0), ("<", 1), ("x<ca", 3), ("<call", 5), ("<call>", 0), ("<ca<", 1)]
    {
        assert_eq!(open_overlap(text.as_bytes()), overlap, "{text:?}");
    }
}
