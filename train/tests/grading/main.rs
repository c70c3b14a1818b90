//! The grader as its callers see it: which answers mean the same, which do not, and that no answer
//! costs a panic or a second. Answers of our own making, in the forms that the benchmark sets use.

use std::time::{Duration, Instant};

use relay_train::grader::{Verdict, grade, is_equal};

/// Gold answer, and what means the same.
const SAME: &[(&str, &[&str])] = &[
    (
        "42",
        &[
            "42",
            "42.0",
            "42.",
            "$42$",
            "x = 42",
            "\\frac{84}{2}",
            "42 \\text{ cm}",
            "6 \\cdot 7",
            "+42",
        ],
    ),
    ("-7", &["-7", "−7", "- 7", "-\\frac{7}{1}", "3-10"]),
    (
        "12500",
        &["12,500", "12,\\!500", "12{,}500", "12 500", "12\\,500", "1.25 \\times 10^4", "1.25e4"],
    ),
    ("10,\\!080", &["10080", "10,080"]),
    ("1,234,567", &["1234567", "1 234 567"]),
    (
        "\\frac{1}{2}",
        &["0.5", ".5", "1/2", "\\frac12", "\\dfrac{2}{4}", "\\tfrac 12", "50\\%", "2^{-1}", "1:2"],
    ),
    ("\\frac{1}{3}", &["0.333333", "0.3333333333", "\\frac{2}{6}", "0.\\overline{3}"]),
    ("-\\frac{3}{4}", &["\\frac{-3}{4}", "\\frac{3}{-4}", "-0.75", "-3/4"]),
    ("1\\frac{4}{5}", &["9/5", "1.8", "1 4/5", "1 \\frac45", "1+\\frac{4}{5}"]),
    ("62.5%", &["62.5\\%", "0.625", "62.5", "\\frac{5}{8}", "62.5 \\text{ percent}"]),
    (
        "3\\sqrt{13}",
        &["\\sqrt{117}", "3 \\cdot 13^{1/2}", "\\sqrt{13}\\cdot 3", "3√13", "3*sqrt(13)"],
    ),
    ("\\sqrt[3]{7}", &["7^{1/3}", "7^{\\frac{1}{3}}", "\\sqrt[3]7"]),
    ("\\frac{\\sqrt{3}}{3}", &["\\frac{1}{\\sqrt{3}}", "\\frac1{\\sqrt3}"]),
    ("288\\pi", &["288π", "\\pi \\cdot 288", "2 \\cdot 144 \\pi", "904.778684"]),
    ("2^{1009}", &["2 \\cdot 2^{1008}", "4^{504} \\cdot 2"]),
    ("\\frac{100!}{2^{50}}", &["100!/2^{50}"]),
    ("\\binom{10}{3}", &["120", "\\dbinom{10}{7}"]),
    ("6 - 5i", &["-5i + 6", "6-5 i", "\\frac{12-10i}{2}"]),
    (
        "90^\\circ",
        &["90", "90^{\\circ}", "90°", "90 degrees", "90\\text{ degrees}", "\\frac{\\pi}{2}"],
    ),
    ("\\$36", &["36", "$36", "36 dollars", "\\$36.00"]),
    ("15\\mbox{ cm}^2", &["15", "15 \\text{ square centimeters}", "15\\text{ cm}^{2}", "15 cm^2"]),
    ("2.8", &["2.8 \\mathrm{~m}", "2.8 m", "2.8 \\text{ m/s}"]),
    ("2.8 \\mathrm{~m}", &["2.8", "2.8 m", "2.8 \\text{ meters}"]),
    ("0", &["\\sin \\pi", "\\sqrt{2} \\cdot \\sqrt{2} - 2", "\\ln 1", "-0"]),
    ("p - q", &["-q + p", "-(q-p)"]),
    ("x^2-1", &["(x-1)(x+1)", "x^2 - 1", "x^{2}-1", "-1+x**2"]),
    ("\\frac{1}{2n+2}", &["\\frac{1}{2(n+1)}", "1/(2n+2)", "0.5/(n+1)"]),
    ("\\frac{x+1}{x}", &["1 + \\frac{1}{x}", "1+x^{-1}"]),
    (
        "\\lfloor n/2 \\rfloor",
        &["\\left\\lfloor \\frac{n}{2} \\right\\rfloor", "\\lceil \\frac{n-1}{2} \\rceil"],
    ),
    ("\\frac{n!}{2(n-2)!}", &["\\binom{n}{2}", "n(n-1)/2"]),
    ("\\cot x", &["\\frac{\\cos x}{\\sin x}", "1/\\tan(x)"]),
    ("\\log_2 n", &["\\frac{\\ln n}{\\ln 2}", "\\log_{2}(n)"]),
    ("\\frac{\\cos 2t}{15}+C_1 e^t", &["C_{1} e^{t} + \\frac{1}{15}\\cos(2t)"]),
    ("I(0) e^{-\\frac{t}{RC}}", &["I(0) e^{-t/(R C)}"]),
    ("|x|", &["\\left|x\\right|", "\\lvert x \\rvert", "\\sqrt{x^2}"]),
    (
        "(3, \\frac{\\pi}{2})",
        &["\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\pi/2)", "3, \\frac{\\pi}{2}"],
    ),
    ("(3,331),(1,1006)", &["(1,1006), (3,331)"]),
    ("(3,4]", &["\\left(3, 4\\right]", "3 < x \\le 4", "x \\in (3,4]"]),
    ("(2,\\infty)", &["x > 2", "(2, +\\infty)", "(2,\\infty]"]),
    ("(-\\infty, 2) \\cup (3, \\infty)", &["(3,\\infty)\\cup(-\\infty,2)", "x<2 \\text{ or } x>3"]),
    ("1,-2", &["-2,1", "\\{1,-2\\}", "-2 \\text{ and } 1", "x=1 \\text{ or } x=-2", "x = 1, -2"]),
    ("\\{1\\pm\\sqrt{5},-2\\}", &["-2, 1+\\sqrt5, 1-\\sqrt5", "\\{-2, 1 \\pm \\sqrt{5}\\}"]),
    ("\\pm 3", &["3,-3", "-3, 3"]),
    (
        "\\begin{pmatrix} 1/5 \\\\ -2 \\end{pmatrix}",
        &["\\begin{bmatrix}0.2\\\\-2\\end{bmatrix}", "(\\frac15, -2)"],
    ),
    ("x=5", &["5", "x = 5", "5=x"]),
    ("f(x)=2x", &["2x", "f(x) = x \\cdot 2"]),
    ("y = 2x + 3", &["y=3+2x", "2x - y + 3 = 0", "y-2x=3"]),
    ("k \\geqslant 2", &["k \\ge 2", "2 \\le k", "[2, \\infty)"]),
    ("x + y \\le 3", &["3 \\ge x+y", "2x+2y \\leq 6"]),
    ("52_8", &["52_{8}", "52"]),
    ("\\text{Evelyn}", &["Evelyn", "evelyn", "\\textbf{Evelyn}"]),
    ("\\text{even}", &["even", "\\text{Even}"]),
    ("\\text{(C)}", &["C", "(C)", "c", "\\textbf{(C)}\\ 12", "C. 12", "option C"]),
    ("5.4 \\text{ cents}", &["5.4", "5.4 cents"]),
];

/// Gold answer, and what is near but means something else.
const DIFFERENT: &[(&str, &[&str])] = &[
    ("42", &["43", "-42", "42.5", "420", "4,2", "", "4 2", "(4,2)", "\\text{forty-two}", "42x"]),
    ("12500", &["1,2500", "12,50", "12.5"]),
    ("\\frac{1}{2}", &["\\frac{1}{3}", "2", "0.51", "\\frac{2}{1}", "12", "50"]),
    ("\\frac{1}{3}", &["0.333", "0.33334", "0.333334"]),
    ("0.15", &["0.1500001", "0.14", "15"]),
    ("1\\frac{4}{5}", &["\\frac{4}{5}", "1.45", "14/5"]),
    ("62.5%", &["6.25", "6250"]),
    ("3\\sqrt{13}", &["\\sqrt{39}", "3\\sqrt{14}", "3"]),
    ("\\sqrt[3]{7}", &["3\\sqrt{7}", "\\sqrt{7}"]),
    ("288\\pi", &["288", "289\\pi", "\\frac{288}{\\pi}"]),
    ("2^{1009}", &["2^{1009}+1", "2^{1008}", "2^{1009}-2^{10}"]),
    ("2.26e-10", &["2.27e-10", "2.26e-11", "0"]),
    ("6 - 5i", &["6+5i", "6-5", "5-6i"]),
    ("90^\\circ", &["91^\\circ", "90\\pi"]),
    ("5.4 \\text{ cents}", &["5.4 \\text{ dollars}", "5.5 \\text{ cents}"]),
    ("15\\mbox{ cm}^2", &["15 \\text{ cm}^3", "15 \\text{ inches}^2", "16 \\text{ cm}^2"]),
    ("6m", &["6", "5m", "6n"]),
    ("p - q", &["q - p", "p + q", "p"]),
    ("x^2-1", &["(x-1)^2", "x^2+1", "y^2-1", "x^3-1"]),
    ("\\frac{1}{2n+2}", &["\\frac{1}{2n}+2", "\\frac{1}{2n+1}"]),
    ("\\lfloor n/2 \\rfloor", &["\\lceil n/2 \\rceil", "n/2"]),
    ("I(0) e^{-t}", &["I(0) e^{-2t}", "0"]),
    ("(1,2)", &["(2,1)", "[1,2]", "\\{1,2\\}", "(1,2,3)", "(1,3)", "1"]),
    ("(3,4]", &["(3,4)", "[3,4]", "3 \\le x \\le 4"]),
    ("(-\\infty, 2) \\cup (3, \\infty)", &["(-\\infty, 2] \\cup (3, \\infty)", "(-\\infty, 2)"]),
    ("1,-2", &["1,2", "1", "1,-2,3", "1,1"]),
    ("1,1,2", &["1,2,2", "1,2"]),
    ("\\pm 3", &["3", "-3"]),
    (
        "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}",
        &[
            "\\begin{pmatrix} 1 & 3 \\\\ 2 & 4 \\end{pmatrix}",
            "\\begin{pmatrix} 1 & 2 & 3 & 4 \\end{pmatrix}",
        ],
    ),
    ("x=5", &["y=5", "6", "x"]),
    ("y = 2x + 3", &["y=2x-3", "2x+3=0", "y=3x+2"]),
    ("2x+z=1", &["1"]),
    ("k \\geqslant 2", &["k > 2", "k \\le 2", "k=2"]),
    ("x + y \\le 3", &["x + y \\ge 3", "x + y < 3", "x + y \\le 4", "x + y = 3"]),
    ("52_8", &["52_9", "42", "25_8"]),
    ("\\text{Evelyn}", &["Briana", "Evelyne", "5"]),
    ("\\text{even}", &["neve", "odd"]),
    ("\\text{(C)}", &["D", "(B)", "12", "Circle"]),
    ("10^{10^{10}}", &["10^{10^{10}}+1", "10^{10^{11}}", "\\infty"]),
];

#[test]
fn answers_that_mean_the_same_are_equal() {
    let with_itself = |(gold, answers): &(&'static str, &'static [&'static str])| {
        let gold = *gold;
        answers.iter().copied().chain([gold]).map(move |answer| (gold, answer)).collect::<Vec<_>>()
    };
    let missed: Vec<_> =
        SAME.iter().flat_map(with_itself).filter(|pair| !is_equal(pair.0, pair.1)).collect();
    assert!(missed.is_empty(), "the same, but not equal: {missed:#?}");
}

#[test]
fn gold_answers_may_be_marked() {
    assert!(is_equal("#### 18", "18.00"));
    assert!(is_equal("16 - 3 = 13\n#### 13", "13"));
    assert!(is_equal("so it is \\boxed{7}", "7"));
}

#[test]
fn near_misses_are_not_equal() {
    let pairs =
        DIFFERENT.iter().flat_map(|(gold, answers)| answers.iter().map(|answer| (*gold, *answer)));
    let taken: Vec<_> = pairs.filter(|pair| is_equal(pair.0, pair.1)).collect();
    assert!(taken.is_empty(), "different, but equal: {taken:#?}");
}

#[test]
fn a_response_without_an_answer_is_wrong() {
    let none = Verdict { correct: false, extracted: None };
    assert_eq!(grade("", ""), none);
    assert_eq!(grade("5", "it is 5"), none);
    let empty = Verdict { correct: false, extracted: Some(String::new()) };
    assert_eq!(grade("", "\\boxed{}"), empty);
    let found = Verdict { correct: true, extracted: Some("\\frac{1}{2}".into()) };
    assert_eq!(grade("0.5", "first \\boxed{3}, then $\\boxed{\\frac{1}{2}}$ cm"), found);
}

/// Answers made to be slow, deep or large, each with a gold answer that makes the grader look.
fn hostile() -> Vec<(String, String)> {
    let many = |text: &str, count: usize| text.repeat(count);
    let numbers = |from: u32, count: u32, write: &dyn Fn(u32) -> String| {
        (from..from + count).map(write).collect::<Vec<_>>().join(",")
    };
    let mut answers = vec![
        many("9", 1 << 20),
        many("9", 4000),
        format!("{}{}", many("(", 100_000), many(")", 100_000)),
        format!("{}1{}", many("(", 1500), many(")", 1500)),
        format!("{}1{}", many("{", 30), many("}", 30)),
        many("\\frac{", 600),
        many("\\sqrt", 800),
        many("-", 4000) + "1",
        many("|", 4000),
        many("\\text{", 600) + "5" + &many("}", 600),
        many("\\sin ", 700) + "x",
        many("\\sin -", 600) + "x",
        many("x^", 1500) + "x",
        many("9^", 1000) + "9",
        many("1/", 1500) + "2",
        "3".to_owned() + &many("!", 3000),
        "3".to_owned() + &many("%", 3000),
        many("x_", 1500),
        many("1\\pm ", 600) + "1",
        many("\\begin{pmatrix}", 200),
        "10^10^10".into(),
        "10^{10^{10}}".into(),
        "9^{9^{9^9}}".into(),
        "((1500!)^{9})^{9}!".into(),
        "(1000!)^{1000!}".into(),
        "\\sqrt[64]{10^{4000}}".into(),
        "10^{4000000000000000000000}".into(),
        "1e999999999".into(),
        "2^{-9999999999999999999}".into(),
        "0^{-1}".into(),
        "\\frac{1}{0}".into(),
        "\\log_1 5".into(),
        "\\binom{1500}{750}^{9}".into(),
        "1_{".into(),
    ];
    answers.push(numbers(4000, 300, &|n| format!("9^{{{n}}}")));
    answers.push(numbers(1, 500, &|n| format!("x^{n}")));
    answers.push((2..400).map(|n| format!("\\frac{{1}}{{{n}}}")).collect::<Vec<_>>().join("+"));
    answers.push((2..300).map(|n| format!("x^{{{n}}}")).collect::<Vec<_>>().join("*"));
    answers
        .push(('a'..='z').map(|letter| format!("{letter}^{{900}}")).collect::<Vec<_>>().concat());
    let turned = |answer: &String| {
        let parts: Vec<&str> = answer.rsplit(',').collect();
        (parts.join(","), answer.clone())
    };
    let mut pairs: Vec<_> = answers.iter().map(turned).collect();
    pairs.extend(answers.into_iter().map(|answer| ("5".into(), answer)));
    pairs
}

#[test]
fn hostile_answers_cost_neither_a_panic_nor_a_second() {
    for (gold, answer) in hostile() {
        let start = Instant::now();
        grade(&gold, &format!("\\boxed{{{answer}}}"));
        grade(&format!("{gold}+1"), &answer);
        let head = &answer[..answer.len().min(40)];
        assert!(start.elapsed() < Duration::from_secs(1), "{head}: {:?}", start.elapsed());
    }
}

/// What a build leaves of the frames differs; half of a test thread's stack leaves it room.
#[test]
fn hostile_answers_need_half_a_stack() {
    let judged = std::thread::Builder::new().stack_size(1 << 20).spawn(|| {
        for (gold, answer) in hostile() {
            grade(&gold, &format!("\\boxed{{{answer}}}"));
        }
    });
    judged.unwrap().join().unwrap();
}

#[test]
fn hostile_responses_are_searched_in_one_pass() {
    for part in ["{", "}", "\\boxed{", "\\boxed ", "\\boxed", "\\", "answer is ", "####", " {", "é"]
    {
        let response = part.repeat((1 << 20) / part.len());
        let start = Instant::now();
        grade("5", &response);
        assert!(start.elapsed() < Duration::from_secs(1), "{part}: {:?}", start.elapsed());
    }
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "[0-9a-z\\\\{}()\\[\\]^_+*/=<>|,.!%$& é°π∞-]{0,60}") {
        is_equal(&text, &text);
        is_equal("\\frac{x}{2}", &text);
        grade(&text, &text);
    }

    #[test]
    fn latex_without_a_grammar_does_not_panic(
        parts in proptest::collection::vec(
            proptest::sample::select(vec![
                "\\frac", "{", "}", "\\sqrt", "[", "]", "(", ")", "1", "x", "^", "_", "\\pm", ",", "=",
                "<", "\\text{", "\\begin{pmatrix}", "\\end{pmatrix}", "&", "\\\\", "!", "\\sin", "|", "-",
                "\\{", "\\}", "\\cup", "\\overline", "0.", "%", "\\infty", "\\binom", "e", "i", "'",
            ]),
            0..24,
        )
    ) {
        let text = parts.concat();
        proptest::prop_assert!(text.trim().is_empty() || text.contains('.') || is_equal(&text, &text));
        is_equal("1,2", &text);
    }
}
