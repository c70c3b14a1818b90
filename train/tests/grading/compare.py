#!/usr/bin/env python3
"""Holds the grader against the Python package math-verify, an independent judge.

    python -m venv VENV && VENV/bin/pip install math-verify
    cargo build -p relay-train
    VENV/bin/python train/tests/grading/compare.py --data FOLDER --grader target/debug/relay-train

Makes pairs (gold, answer) from the gold answers of the six benchmark sets in FOLDER and from
answers of its own (seeded), of three kinds: the gold answer itself, a rewriting that means the
same, and a near miss that does not. Both judges grade every pair in a box. Printed: how many pairs
of each kind, how often the judges agree, how often the grader says what the pair was made for, and
every disagreement with its explanation. Exits with 1 if fewer than 99 % agree, if there are too
few pairs, or if a disagreement is not explained.
"""

import argparse
import json
import logging
import random
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

PAIRS_MIN, NOT_INTEGERS_MIN, NEAR_MISSES_MIN, AGREEMENT_MIN = 5000, 2000, 1000, 0.99

# Why the judges differ, by a pattern of "gold ||| answer". Read from the cases, one by one.
EXPLANATIONS = [
    (r"\de[+-]?\d", "math-verify reads 4.5e33 as 4.5 times Euler's e times 33"),
    (r"_\{?\d\}? \|\|\| \d+_", "math-verify drops the base: 204_5 and 204_7 are both 204 to it"),
    (r"\(.*\)\$? \|\|\| \[.*\]$", "math-verify does not tell [a, b] from (a, b) where it is no interval"),
    (r"\\lambda\^\{5\}|P_\{0\}|\\zeta", "a formula that math-verify does not find equal to itself in its time"),
    (r"E_\{1\}|m_\{\\max \}", "math-verify does not parse it and compares texts, in which blanks count"),
    (r"\\gamma\^", "math-verify reads gamma to a power as a function that is infinite there"),
    (r"where \$b\$ is", "math-verify reads the first equation only and drops the condition"),
    (r"\\cup\\\{1\\\}|t\(0", "a misprint in the gold answer (`$.` within it, a letter before an interval)"),
    (r"N=n ?\$? \|\|\|", "math-verify reads N as n, and n=n and n=n+1 as the same equation"),
    (r"^-2,-2 |^16,3,1,1 ", "math-verify takes a list for a set, in which repeated values are one"),
]


def boxed(text):
    """The inside of the last box of a worked solution."""
    start = text.rfind("\\boxed{") + len("\\boxed{")
    depth = 1
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start:at]
    return ""


def gold_answers(folder):
    """(set, gold answer) of all six sets."""
    def rows(name):
        with open(folder / f"{name}.jsonl", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines if line.strip()]

    for row in rows("math500"):
        yield "math500", row["answer"]
    for row in rows("minerva"):
        yield "minerva", boxed(row["solution"])
    for row in rows("gsm8k-test"):
        yield "gsm8k", row["answer"].split("####")[-1].strip()
    for row in rows("olympiadbench"):
        yield "olympiad", row["final_answer"][0].strip()
    for name in ("aime24", "aime25"):
        for row in rows(name):
            yield name, str(row["answer"])


INTEGER = re.compile(r"^-?\d+$")
FRACTION = re.compile(r"^(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}$")
DECIMAL = re.compile(r"^-?\d*\.\d+$")


def plain(gold):
    """A gold answer without dollar signs around it, and without separators if it is a number."""
    text = gold.strip().strip("$").strip()
    if re.fullmatch(r"(\\\$)?\d{1,3}(,(\\!)?\s*\d{3})+", text):
        return re.sub(r"\D", "", text)
    return text


def rewritings(gold, rng):
    """Ways to write the same answer, each with the name of what was done."""
    text = plain(gold)
    out = [("math mode", f"${text}$") if "$" not in text else ("as is", gold)]
    if INTEGER.match(text):
        number = int(text)
        out += [("point zero", f"{number}.0"), ("equation", f"x = {number}")]
        k = rng.randint(2, 9)
        out.append(("as a quotient", f"\\frac{{{number * k}}}{{{k}}}"))
        if abs(number) >= 1000:
            out.append(("separators", f"{number:,}"))
            out.append(("thin separators", f"{number:,}".replace(",", ",\\!")))
        out.append(("units", f"{number} \\text{{ {rng.choice(['cm', 'apples', 'dollars'])}}}"))
        return out
    fraction = FRACTION.match(text)
    if fraction:
        sign, over, under = fraction[1], int(fraction[2]), int(fraction[3])
        k = rng.randint(2, 5)
        out.append(("plain fraction", f"{sign}{over}/{under}"))
        out.append(("expanded", f"{sign}\\frac{{{over * k}}}{{{under * k}}}"))
        out.append(("dfrac", f"{sign}\\dfrac{{{over}}}{{{under}}}"))
        value = Fraction(over, under)
        if 10**6 % value.denominator == 0:
            out.append(("decimal", f"{sign}{over / under:.6f}"))
        if over > under and not sign and over % under:
            out.append(("mixed", f"{over // under}\\frac{{{over % under}}}{{{under}}}"))
        return out
    if DECIMAL.match(text):
        out.append(("trailing zero", text + "0"))
        value = Fraction(text)
        out.append(("as a fraction", f"\\frac{{{value.numerator}}}{{{value.denominator}}}"))
        return out
    if re.match(r"^[\d.]+e-?\d+$", text):
        mantissa, power = text.split("e")
        out.append(("power of ten", f"{mantissa} \\times 10^{{{int(power)}}}"))
    if "\\frac" in text:
        out.append(("dfrac", text.replace("\\frac", "\\dfrac")))
    if "^\\circ" in text or "^{\\circ}" in text:
        out.append(("no degrees", re.sub(r"\^\{?\\circ\}?", "", text)))
    if text.startswith("\\text{") and text.endswith("}"):
        out.append(("no text", text[6:-1]))
    if "pmatrix" in text:
        out.append(("bmatrix", text.replace("pmatrix", "bmatrix")))
    if "(" in text and "text" not in text and "\\left" not in text and text.count("(") == text.count(")"):
        out.append(("left right", text.replace("(", "\\left(").replace(")", "\\right)")))
    if "\\sqrt{" in text:
        out.append(("root as power", re.sub(r"\\sqrt\{(\w+)\}", r"(\1)^{\\frac{1}{2}}", text)))
    if re.fullmatch(r"-?[\w.]+(, ?-?[\w.]+)+", text):
        parts = [part.strip() for part in text.split(",")]
        out.append(("other order", ", ".join(reversed(parts))))
        out.append(("as a set", "\\{" + ", ".join(parts) + "\\}"))
    if not re.search(r"[=,$]|_\d|_\{\d|matrix|\\text|\\mbox|[a-z]{5}", text):
        out.append(("sum turned", f"0 + {text}") if not text.startswith("-") else ("as is", text))
    out.append(("spaces", re.sub(r"([+=,])", r" \1 ", text)))
    return out


def near_misses(gold, rng):
    """Answers close by that mean something else."""
    text = plain(gold)
    out = []
    if INTEGER.match(text):
        number = int(text)
        out.append(("one more", str(number + 1)))
        if number:
            out += [("ten times", str(number * 10)), ("sign", str(-number))]
        out.append(("a half more", f"{number}.5"))
        return out
    fraction = FRACTION.match(text)
    if fraction:
        sign, over, under = fraction[1], int(fraction[2]), int(fraction[3])
        out.append(("one part more", f"{sign}\\frac{{{over + 1}}}{{{under}}}"))
        out.append(("other parts", f"{sign}\\frac{{{over}}}{{{under + 1}}}"))
        if over != under:
            out.append(("upside down", f"{sign}\\frac{{{under}}}{{{over}}}"))
        out.append(("two places", f"{sign}{over / under:.2f}")
                   if round(over / under, 2) != over / under else ("twice", f"{sign}\\frac{{{2 * over}}}{{{under}}}"))
        return out
    numbers = list(re.finditer(r"(?<![\d.])\d+(?!\d*e)", text))
    if numbers:
        chosen = rng.choice(numbers)
        changed = str(int(chosen[0]) + rng.choice([1, 2, 10]))
        out.append(("one number changed", text[: chosen.start()] + changed + text[chosen.end() :]))
    if re.fullmatch(r"\([^()]*,[^()]*\)", text):
        first, rest = text[1:-1].split(",", 1)
        if first.strip() != rest.strip():
            out.append(("turned", f"({rest.strip()}, {first.strip()})"))
        out.append(("other brackets", f"[{text[1:-1]}]"))
    if re.fullmatch(r"-?[\w.]+(, ?-?[\w.]+)+", text):
        out.append(("one left out", text.rsplit(",", 1)[0]))
    if text.startswith("\\text{"):
        out.append(("another word", rng.choice(["\\text{north}", "\\text{odd}", "(D)", "Karla"])))
    if " + " in text:
        out.append(("minus for plus", text.replace(" + ", " - ", 1)))
    if not out:
        out.append(("twice", f"2({text})") if "=" not in text else ("one more", text + "+1"))
    return out


def polynomial(coefficients, variable="x"):
    """Coefficients by rising power as LaTeX."""
    terms = []
    for power, c in reversed(list(enumerate(coefficients))):
        if c:
            body = "" if power == 0 else variable if power == 1 else f"{variable}^{{{power}}}"
            factor = str(abs(c)) if abs(c) != 1 or power == 0 else ""
            terms.append(("-" if c < 0 else "+") + factor + body)
    return "".join(terms).lstrip("+") or "0"


def linear(a, b, variable="x"):
    return polynomial([b, a], variable)


def made(count, rng):
    """Pairs of our own: (kind, gold, rewriting, near miss)."""
    r = rng.randint
    for _ in range(count):
        a, b, c, d = (rng.choice([-1, 1]) * r(1, 12) for _ in range(4))
        p, q = r(2, 30), r(2, 30)
        match rng.choice(["poly", "root", "pi", "tuple", "interval", "set", "matrix", "complex",
                          "power", "log", "trig", "union", "percent", "mixed", "rational", "line",
                          "root sum", "binomial"]):
            case "poly":
                product = [b * d, a * d + b * c, a * c]
                wrong = [b * d, a * d + b * c + 1, a * c]
                yield ("poly", f"({linear(a, b)})({linear(c, d)})", polynomial(product), polynomial(wrong))
            case "root":
                k = r(2, 9)
                yield ("root", f"{k}\\sqrt{{{p}}}", f"\\sqrt{{{k * k * p}}}", f"\\sqrt{{{k * k * p + 1}}}")
            case "root sum":
                yield ("root sum", f"{p}+{q}\\sqrt{{3}}", f"{q}\\sqrt{{3}}+{p}", f"{p}-{q}\\sqrt{{3}}")
            case "pi":
                yield ("pi", f"\\frac{{{p}\\pi}}{{{q}}}", f"\\frac{{{p}}}{{{q}}}\\pi", f"\\frac{{{p + 1}\\pi}}{{{q}}}")
            case "tuple":
                yield ("tuple", f"({a}, \\frac{{{p}}}{{{q}}})", f"\\left({a}, {p}/{q}\\right)", f"({a}, \\frac{{{p}}}{{{q + 1}}})")
            case "interval":
                yield ("interval", f"[{a}, {a + p})", f"\\left[ {a}, {a + p} \\right)", f"[{a}, {a + p}]")
            case "set":
                yield ("set", f"\\{{{a}, {a + p}, {a - q}\\}}", f"\\{{{a - q}, {a}, {a + p}\\}}", f"\\{{{a - q}, {a}, {a + p + 1}\\}}")
            case "matrix":
                yield ("matrix", f"\\begin{{pmatrix}} {a} & {b} \\\\ {c} & {d} \\end{{pmatrix}}",
                       f"\\begin{{bmatrix}}{a}&{b}\\\\{c}&{d}\\end{{bmatrix}}",
                       f"\\begin{{pmatrix}} {a} & {b} \\\\ {c} & {d + 1} \\end{{pmatrix}}")
            case "complex":
                yield ("complex", f"{p} + {q}i", f"{q}i + {p}", f"{p} - {q}i")
            case "power":
                k = r(2, 6)
                yield ("power", f"{p}^{{{k}}}", str(p**k), str(p**k + 1))
            case "log":
                yield ("log", f"\\ln {p * q}", f"\\ln {p} + \\ln {q}", f"\\ln {p} + \\ln {q + 1}")
            case "trig":
                yield ("trig", f"{p}\\sin x \\cos x", f"\\frac{{{p}}}{{2}}\\sin 2x", f"\\frac{{{p + 1}}}{{2}}\\sin 2x")
            case "union":
                yield ("union", f"(-\\infty, {a}) \\cup ({a + p}, \\infty)", f"({a + p}, \\infty) \\cup (-\\infty, {a})",
                       f"(-\\infty, {a}] \\cup ({a + p}, \\infty)")
            case "percent":
                yield ("percent", f"{p}\\%", f"{p / 100}", f"{(p + 1) / 100}")
            case "mixed":
                q = r(2, 9)
                s = r(1, q - 1)
                yield ("mixed", f"{p}\\frac{{{s}}}{{{q}}}", f"\\frac{{{p * q + s}}}{{{q}}}", f"\\frac{{{p * s}}}{{{q}}}")
            case "rational":
                yield ("rational", f"\\frac{{x+{p}}}{{x+{q + 31}}}", f"1 - \\frac{{{q + 31 - p}}}{{x+{q + 31}}}",
                       f"1 + \\frac{{{q + 31 - p}}}{{x+{q + 31}}}")
            case "line":
                yield ("line", f"y = {linear(a, b)}", f"{linear(a, b)} = y", f"y = {linear(a, b + 1)}")
            case "binomial":
                yield ("binomial", f"\\binom{{{p + 2}}}{{2}}", str((p + 2) * (p + 1) // 2), str((p + 2) * (p + 1)))


def make_pairs(folder, seed):
    rng = random.Random(seed)
    pairs = []
    for name, gold in gold_answers(folder):
        pairs.append((name, "itself", gold, gold, True))
        what, answer = rng.choice(rewritings(gold, rng))
        pairs.append((name, what, gold, answer, True))
        what, answer = rng.choice(near_misses(gold, rng))
        pairs.append((name, what, gold, answer, False))
    for kind, gold, same, other in made(700, rng):
        pairs.append(("made", kind, gold, same, True))
        pairs.append(("made", kind, gold, other, False))
    return pairs


def grade(program, pairs):
    lines = "".join(
        json.dumps({"gold": gold, "response": f"The answer is $\\boxed{{{answer}}}$."}) + "\n"
        for _, _, gold, answer, _ in pairs
    )
    run = subprocess.run([program, "grade"], input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line)["correct"] for line in run.stdout.splitlines()]


def judge(pairs):
    from math_verify import LatexExtractionConfig, parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    config = [LatexExtractionConfig()]
    verdicts = []
    for number, (_, _, gold, answer, _) in enumerate(pairs, 1):
        read = [parse(f"$\\boxed{{{plain(text)}}}$", extraction_config=config) for text in (gold, answer)]
        verdicts.append(bool(verify(*read)))
        if number % 250 == 0:
            print(f"\r{number}/{len(pairs)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return verdicts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the six sets as JSONL")
    parser.add_argument("--grader", required=True, help="the relay-train program")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--ours-only", action="store_true", help="hold the grader against the pairs' own meaning only")
    arguments = parser.parse_args()

    pairs = make_pairs(arguments.data, arguments.seed)
    ours = grade(arguments.grader, pairs)
    print(f"pairs: {len(pairs)}")
    not_integers = sum(not INTEGER.match(plain(pair[2])) for pair in pairs)
    misses = sum(not pair[4] for pair in pairs)
    print(f"gold answer not an integer: {not_integers}; near misses: {misses}")
    unexpected = [(pair, verdict) for pair, verdict in zip(pairs, ours, strict=True) if verdict != pair[4]]
    for (name, what, gold, answer, meant), verdict in unexpected:
        print(f"  not as made: {name}, {what}: {gold} | {answer}: made {meant}, graded {verdict}")
    print(f"graded as the pair was made: {len(pairs) - len(unexpected)}/{len(pairs)}")
    if arguments.ours_only:
        return 0

    theirs = judge(pairs)
    kinds, unexplained = Counter(), 0
    for (name, what, gold, answer, meant), mine, other in zip(pairs, ours, theirs, strict=True):
        if mine == other:
            continue
        pair = f"{gold} ||| {answer}"
        reason = next((why for pattern, why in EXPLANATIONS if re.search(pattern, pair)), None)
        unexplained += reason is None
        kinds[reason or "NOT EXPLAINED"] += 1
        print(f"  {name}, {what}: {gold} | {answer}: made {meant}, grader {mine}, math-verify {other}: {reason}")
    different = sum(kinds.values())
    agreement = 1 - different / len(pairs)
    for reason, count in kinds.most_common():
        print(f"{count:4}  {reason}")
    print(f"agreement: {len(pairs) - different}/{len(pairs)} = {agreement:.2%}")
    enough = len(pairs) >= PAIRS_MIN and not_integers >= NOT_INTEGERS_MIN and misses >= NEAR_MISSES_MIN
    return 0 if enough and agreement >= AGREEMENT_MIN and not unexplained else 1


if __name__ == "__main__":
    sys.exit(main())
