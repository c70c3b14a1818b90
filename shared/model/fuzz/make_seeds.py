"""Makes the seed corpora of the targets: small files, each with another feature.

    python make_seeds.py        (writes seeds/TARGET beside itself)
"""

import json
import pathlib
import struct

SEEDS = pathlib.Path(__file__).parent / "seeds"

# Type numbers of metadata values, and how each is packed.
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q",
           11: "<q", 12: "<d"}
# Type numbers of tensors: weights and bytes of a block.
BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
          12: (256, 144), 13: (256, 176), 14: (256, 210), 30: (1, 2)}


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def scalar(key, kind, value):
    return text(key) + struct.pack("<I", kind) + struct.pack(SCALARS[kind], value)


def string(key, value):
    return text(key) + struct.pack("<I", 8) + text(value)


def array(key, kind, values):
    raw = b"".join(text(v) if kind == 8 else struct.pack(SCALARS[kind], v) for v in values)
    return text(key) + struct.pack("<IIQ", 9, kind, len(values)) + raw


def tensor(name, kind, shape, offset):
    return (text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
            + struct.pack("<IQ", kind, offset))


def file(keys, tensors, data=b"", version=3, alignment=32):
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    head += b"".join(keys) + b"".join(tensors)
    return head + b"\0" * (-len(head) % alignment) + data


def seeds():
    name = string("general.architecture", "llama")
    yield "empty_model", file([], [])
    yield "version_2", file([name], [], version=2)
    yield "scalars", file([scalar(f"k{kind}", kind, 1) for kind in SCALARS], [])
    lists = [array(f"k{kind}", kind, [1, 0, 1]) for kind in SCALARS]
    yield "lists", file([*lists, array("texts", 8, ["a", "", "\u00e9"])], [])
    yield "alignment", file(
        [scalar("general.alignment", 4, 64)],
        [tensor("a", 0, [2], 0), tensor("b", 0, [1], 64)], b"\0" * 128, alignment=64)
    yield "part_of_a_split", file([scalar("split.count", 2, 3), scalar("split.no", 2, 0)], [])
    for kind, (weights, size) in BLOCKS.items():
        table = [tensor("t", kind, [weights, 2], 0)]
        yield f"type_{kind}", file([name], table, bytes(i % 64 for i in range(2 * size)))
    yield "unknown_type", file([name], [tensor("t", 10, [256], 0)], b"\0" * 84)


BLANK = "\u0120"
TOKENS = ["a", "b", BLANK, "ab", BLANK + "a", "1", "<|end|>", "<call>", "[PAD8]", "<0x0A>"]
MERGES = [("a", "b"), (BLANK, "a")]
CUT = r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"


def gguf_tokenizer(pre, *more):
    key = "tokenizer.ggml."
    return file([
        string(key + "model", "gpt2"), string(key + "pre", pre),
        array(key + "tokens", 8, TOKENS), array(key + "token_type", 5, [1] * 6 + [3, 4, 5, 6]),
        array(key + "merges", 8, [" ".join(pair) for pair in MERGES]),
        scalar(key + "bos_token_id", 4, 6), scalar(key + "eos_token_id", 4, 6), *more], [])


def folder_tokenizer(steps, merges, normalizer=None, post_processor=None):
    vocab = {token: id for id, token in enumerate(TOKENS[:6])}
    added = [{"id": id, "content": TOKENS[id], "single_word": False, "lstrip": False,
              "rstrip": False, "normalized": id == 7, "special": id == 6} for id in (6, 7)]
    whole = {"added_tokens": added, "normalizer": normalizer, "pre_tokenizer": steps,
             "post_processor": post_processor, "decoder": {"type": "ByteLevel"},
             "model": {"type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": True}}
    parts = [whole, {"eos_token": "<|end|>", "add_bos_token": False}, {"eos_token_id": [6, 5]},
             {"eos_token_id": 6}]
    return "\0".join(json.dumps(part, ensure_ascii=False) for part in parts).encode()


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def tokenizer_seeds():
    for pre in ["gpt-2", "smollm", "qwen2", "llama-bpe"]:
        yield f"gguf_{pre}", gguf_tokenizer(pre)
    yield "gguf_bos", gguf_tokenizer("gpt-2", scalar("tokenizer.ggml.add_bos_token", 7, 1))
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    bare = dict(level, use_regex=False)
    digits = {"type": "Digits", "individual_digits": True}
    split = {"type": "Split", "pattern": {"Regex": WORDS + CUT}, "behavior": "Isolated"}
    lines = [" ".join(pair) for pair in MERGES]
    begin = {"type": "TemplateProcessing",
             "single": [{"SpecialToken": {"id": "<|end|>"}}, {"Sequence": {"id": "A"}}],
             "special_tokens": {"<|end|>": {"ids": [6]}}}
    yield "folder_gpt2", folder_tokenizer(level, lines)
    yield "folder_smollm", folder_tokenizer(sequence(digits, level), MERGES)
    yield "folder_qwen2", folder_tokenizer(sequence(split, bare), lines, {"type": "NFC"})
    yield "folder_bos", folder_tokenizer(level, MERGES, None, begin)


def main():
    for target, files in [("gguf_header", seeds()), ("tokenizer_metadata", tokenizer_seeds())]:
        (SEEDS / target).mkdir(parents=True, exist_ok=True)
        for name, data in files:
            (SEEDS / target / name).write_bytes(data)


if __name__ == "__main__":
    main()
