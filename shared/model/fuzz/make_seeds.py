"""Makes the seed corpus of the target gguf_header: small files, each with another feature.

    python make_seeds.py        (writes seeds/gguf_header beside itself)
"""

import pathlib
import struct

FOLDER = pathlib.Path(__file__).parent / "seeds" / "gguf_header"

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


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, data in seeds():
        (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    main()
