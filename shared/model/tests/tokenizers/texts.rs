//! Texts of every kind that people write, and random ones.

use proptest::prelude::*;

/// Kinds of text, by name.
pub(crate) const NAMED: [(&str, &str); 14] = [
    ("words", "The answer goes on, as if nobody had changed; they'd say I'M exactly overhand."),
    ("code", "fn f(x: u32) -> u32 {\n    x\t+ 0x1F_u32 // é\n}\n\n\n\n"),
    ("line ends", "a\r\nb\rc\n\r\n\r\n  \r\n d \r \n"),
    ("digits", "1 12 123 1234 1234567 3.14159 ½ ٣٤٥ १२ Ⅻ x1y22z333"),
    ("emoji with joiners", "👩‍👩‍👧‍👦👍🏽🇩🇪❤️🏳️‍🌈 1️⃣"),
    ("cjk", "日本語の文章です。中文也有，한국어도 있습니다.\u{3000}漢字"),
    ("combining marks", "e\u{301}a\u{308}\u{323}n\u{303} \u{1100}\u{1161}\u{11A8} \u{338}x\u{338}"),
    ("composing to one", "\u{212B} \u{2126} \u{F900} \u{1E9B}\u{323}"),
    ("scripts", "Привет Γειά שלום مرحبا नमस्ते ไทย ქართული አማርኛ"),
    (
        "white space",
        "a  b   c\u{A0}\u{A0}d\u{2003}\u{2003} e\u{85}f\u{2028}\u{2029}\tg \u{B}h\u{C} ",
    ),
    ("case folding", "'S 'T 'RE 'VE 'M 'LL 'D '\u{17F} 'lL I'D"),
    ("control", "\0\u{1}\u{7F}\u{80}\u{AD}\u{200B}\u{FEFF}\u{FFFD}\u{E000}\u{10FFFF}"),
    ("nothing", ""),
    ("added texts", "<|im_start|>user\n<think><call>5</call></tool_call><|eot_id|><<|im_end|>>"),
];

/// Random texts made of such pieces.
pub(crate) fn random() -> impl Strategy<Value = String> {
    let added = ["<|endoftext|>", "<|im_end|>", "<call>", "<tool_call>", "<|eot_id|>", "<|", "|>"];
    let added = [added.as_slice(), &["<|reserved_special_token_1", "0|>", "<think>"]].concat();
    let piece = prop_oneof![
        prop::sample::select(NAMED.to_vec()).prop_map(|(_, text)| text.to_owned()),
        prop::sample::select(added).prop_map(str::to_owned),
        "[ \t\r\n]{1,5}",
        "[a-z]{1,8}",
        " ?(the|relay|answer|exactly|overhand|'ll|'S)",
        "[0-9]{1,9}",
        "[\u{300}-\u{337}\u{339}-\u{36F}]{1,3}",
        "[\u{4E00}-\u{4E40}\u{AC00}-\u{AC40}\u{1100}-\u{1180}]{1,4}",
        "\\PC{1,6}",
        prop::collection::vec(any::<char>(), 1..4).prop_map(|chars| chars.into_iter().collect()),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}
