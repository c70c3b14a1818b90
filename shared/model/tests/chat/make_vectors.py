#!/usr/bin/env python3
"""Makes reference renderings of chat templates with transformers, for `tests/chat.rs`.

Run by hand, in an environment with transformers and jinja2; CI installs neither:

    make_vectors.py                      writes vectors.json beside this script, from templates.json
                                         and conversations.json
    make_vectors.py --folder F --out O   renders the conversations with the template of a model's
                                         folder F (its tokenizer_config.json) and writes O

A rendering is a text, or null where the template refuses the conversation. Of a long conversation,
which follows a rule that tests/chat.rs has too, only the length and a checksum are kept.
"""

import argparse
import datetime
import json
import pathlib

import tokenizers
import transformers
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).resolve().parent
# What `strftime_now` tells; tests/chat.rs gives the same.
NOW = datetime.datetime(2024, 7, 6, 8, 9, 5)


TURNS = 400
WORDS = ["relay", "the", "answer", "<", "é", "1 < 2", "\n", "  ", "日本", "👍🏽", "{{ x }}", "ends", "</think>"]


def words(index):
    chosen = [WORDS[(index * 31 + at * at * 7 + at) % len(WORDS)] for at in range(60)]
    return f"{index}: " + " ".join(chosen)


def long_conversation():
    messages = [{"role": "system", "content": "Be brief."}]
    for turn in range(TURNS):
        messages.append({"role": "user", "content": words(2 * turn)})
        messages.append({"role": "assistant", "content": words(2 * turn + 1)})
    return {"messages": messages[:-1]}


def checksum(text):
    """FNV-1a of 64 bits."""
    digest = 0xCBF29CE484222325
    for byte in text.encode():
        digest = (digest ^ byte) * 0x100000001B3 % 2**64
    return {"bytes": len(text.encode()), "checksum": f"{digest:016x}"}


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def special_text(config, name):
    value = config.get(name)
    return value.get("content") if isinstance(value, dict) else value


def tokenizer_with(bos, eos):
    model = tokenizers.models.WordLevel({"?": 0}, unk_token="?")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(model), bos_token=bos, eos_token=eos
    )


def render(tokenizer, template, conversation):
    options = dict(conversation.get("variables", {}))
    if "thinking" in conversation:
        options["enable_thinking"] = conversation["thinking"]
    try:
        return tokenizer.apply_chat_template(
            conversation["messages"],
            chat_template=template,
            tools=conversation.get("tools"),
            documents=conversation.get("documents"),
            add_generation_prompt=conversation.get("add_generation_prompt", True),
            tokenize=False,
            **options,
        )
    except Exception as error:  # whatever the template raises is a refusal
        print(f"    refused: {type(error).__name__}: {error}")
        return None


def render_all(template, bos, eos, conversations):
    tokenizer = tokenizer_with(bos, eos)
    renderings = {}
    for conversation in conversations:
        print(f"  {conversation['name']}")
        renderings[conversation["name"]] = render(tokenizer, template, conversation)
    return renderings


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "vectors.json")
    arguments = parser.parse_args()
    chat_template_utils.datetime = FixedClock
    conversations = json.loads((HERE / "conversations.json").read_text(encoding="utf-8"))
    if arguments.folder:
        config = json.loads((arguments.folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        template = config["chat_template"]
        bos, eos = special_text(config, "bos_token"), special_text(config, "eos_token")
        vectors = render_all(template, bos, eos, conversations)
    else:
        templates = json.loads((HERE / "templates.json").read_text(encoding="utf-8"))
        vectors = {}
        for name, lines in templates.items():
            print(name)
            template = "\n".join(lines)
            vectors[name] = render_all(template, "<s>", "<|im_end|>", conversations)
            long = render(tokenizer_with("<s>", "<|im_end|>"), template, long_conversation())
            vectors[name]["long"] = checksum(long)
    text = json.dumps(vectors, ensure_ascii=False, indent=1)
    arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
