#!/usr/bin/env python3
"""Makes expressions.json beside this script, for `tests/chat.rs`: what Jinja2 makes of expressions
with numbers, `round`, `title` and escaped texts, set up as transformers sets it up.

Run by hand, in an environment with jinja2; CI installs none.
"""

import json
import pathlib

from jinja2.sandbox import ImmutableSandboxedEnvironment

VARIABLES = {
    "small": 0.00001,
    "large": 1e16,
    "half": 0.5,
    "tool": {"default": 1e-7, "range": [0.5, 2e20, [1e15]], "name": "it's <a>"},
    "rows": [{"x": 1e-5}, {"x": 2.5}],
    "words": "it's (a) ÉTÉ-day\t<b> of\u001cß ΑΣ ǆ [x]{y}",
}

NUMBERS = [
    "1e16", "1e15", "1e22", "-1e16", "0.0001", "0.00001", "1.5e-7", "1.0", "-0.0", "1e400", "-1e400",
    "1e400 - 1e400", "7 / 2", "8 / 2", "0.1 + 0.2", "2 ** 0.5", "2 ** -1", "10.0 ** 20", "1e16 | int",
    "3 | float", "'1e-5' | float", "small", "large", "half", "tool", "tool.range", "(small, 1)",
    "(large,)", "[]", "{}", "{'a': {'b': [large]}}", "[true, none, 1.5, 'x', large]", "small | string",
    "tool | string", "[small, large, 1] | join(', ')", "rows | join(', ')", "rows | map(attribute='x') | list",
    "rows | join('-', attribute='x')", "rows | map(attribute='x') | join(' ')", "tool.items() | list",
    "[small] | e", "small | title", "small | tojson", "[large, half] | tojson", "half ~ 1.0",
    "[half, small] | sum", "[small, half] | max", "small | abs", "large == 1e16", "large > 5",
    "small is number", "large is float", "large | string | length", "namespace(x=small).x",
]  # fmt: skip
ROUNDED = [
    "42 | round", "42.55 | round", "42.55 | round(1)", "42.55 | round(1, 'floor')",
    "42.55 | round(1, 'ceil')", "42 | round(1, 'floor')", "42 | round(0, 'ceil')", "-42 | round(method='floor')",
    "1234 | round(-2)", "1250 | round(-2)", "1350 | round(-2)", "1234 | round(-2, 'ceil')",
    "1234 | round(-2, 'floor')", "2.5 | round", "3.5 | round", "-2.5 | round", "2.675 | round(2)",
    "true | round", "true | round(1, 'ceil')", "false | round(method='floor')", "0.5 | round(0, 'ceil')",
    "-0.5 | round(0, 'ceil')", "1e22 | round(1, 'floor')", "2.0 | round | int", "'2' | round", "none | round",
    "2.5 | round(0, 'up')", "2 | round(0, 'up')", "1234.5 | round(-2)", "1234.5 | round(-2, 'ceil')",
    "(7 / 2) | round | string", "42 | round(precision=1, method='ceil')", "10 | round(2) / 4",
]  # fmt: skip
TITLES = [
    "words | title", "'HELLO wORLD' | title", "'don\\'t' | title", "'a_b.c/d' | title", "5 | title",
    "none | title", "missing | title", "true | title", "[1, 'b c'] | title", "'' | title", "'  a  b' | title",
    "'a--b' | title", "'\\u1e9e a\\u2028b' | title", "words | capitalize", "words | upper", "words | lower",
    "('<b>' | safe | title) + '<'",
]  # fmt: skip
ESCAPED = [
    "words | e", "words | escape", "'\\'\"&<>' | e", "none | e", "5 | e", "missing | e", "['<', \"'\"] | e",
    "{'a<': '\\''} | e", "'<' | e | e", "'<' | safe | e", "'<' | safe | forceescape", "'<' | e | forceescape",
    "'<' | e | length", "'<' | e == '&lt;'", "'<' | e ~ '<'", "'<' | e + '<'", "'<' + '<' | e",
    "'<' | escape + '>' + '&'", "'<a>' | e | upper", "'<a>' | e | lower", "'< a ' | e | trim + '<'",
    "['<', '>' | e] | join('<')", "['<' | e, '>'] | join", "'<' | e in '&lt;b'",
    "tool.name | e", "tool | e", "('<' | e)[0]", "('<' | e).upper()", "('<' | e) * 2", "'<' | string | e",
    "'<' | forceescape + '<'", "'a' | e is string", "'<' | tojson", "'<' | e | tojson", "'<' | e | safe + '<'",
]  # fmt: skip


def render(environment, source):
    try:
        return environment.from_string(source).render(**VARIABLES)
    except Exception as error:  # whatever it raises is a refusal
        print(f"refused: {source}: {type(error).__name__}: {error}")
        return None


def main():
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    # As transformers has it.
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    sources = ["{{ " + text + " }}" for text in NUMBERS + ROUNDED + TITLES + ESCAPED]
    expressions = {source: render(environment, source) for source in sources}
    text = json.dumps({"variables": VARIABLES, "expressions": expressions}, ensure_ascii=False, indent=1)
    path = pathlib.Path(__file__).resolve().parent / "expressions.json"
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
