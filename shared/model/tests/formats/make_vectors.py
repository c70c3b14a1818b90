"""Makes vectors.json: blocks of every weight format and what the `gguf` package expands them to.

    python make_vectors.py > vectors.json       (needs the packages gguf and numpy)

A case is one block, or 32 weights of a format without blocks. It stands as its bytes in hex, with
the bits of its first and last value and the 64-bit FNV-1a hash of all of its values' bytes (f32,
little-endian). The bytes come from a rule, so that a second run gives the same file.
"""

import hashlib
import json

import gguf
import numpy

# Bytes of a case, and where its 16-bit scales lie.
FORMATS = {
    "F32": (128, []),
    "F16": (64, []),
    "BF16": (64, []),
    "Q4_0": (18, [0]),
    "Q4_1": (20, [0, 2]),
    "Q5_0": (22, [0]),
    "Q5_1": (24, [0, 2]),
    "Q8_0": (34, [0]),
    "Q4_K": (144, [0, 2]),
    "Q5_K": (176, [0, 2]),
    "Q6_K": (210, [208]),
}
# Zeros, subnormal, smallest normal, one, and largest scales, and negative ones.
EDGE_SCALES = [0x0000, 0x8000, 0x0001, 0x03FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF]
RANDOM_CASES = 10
# Upper bytes of numbers that are infinite or none, sign apart.
NOT_FINITE = {"F32": (4, 3, 0x7F), "F16": (2, 1, 0x7C), "BF16": (2, 1, 0x7F)}


def random_bytes(name, count):
    blocks = (hashlib.sha256(f"{name} {i}".encode()).digest() for i in range(count // 32 + 1))
    return bytearray(b"".join(blocks)[:count])


def finite(name, data):
    """Clears an exponent bit of what would be no number."""
    if name in NOT_FINITE:
        width, at, mask = NOT_FINITE[name]
        for index in range(at, len(data), width):
            if data[index] & mask == mask:
                data[index] &= ~0x10
    return data


def with_scale(name, data, scale):
    for at in FORMATS[name][1]:
        data[at : at + 2] = scale.to_bytes(2, "little")
    return data


def cases(name):
    size, places = FORMATS[name]
    yield bytearray(size)
    if not places:
        edges = {
            "F32": [0x80000000, 1, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x3F800000],
            "F16": EDGE_SCALES,
            "BF16": [0x8000, 0x0001, 0x007F, 0x0080, 0x7F7F, 0xFF7F, 0x3F80],
        }[name]
        width = 4 if name == "F32" else 2
        data = b"".join(bits.to_bytes(width, "little") for bits in edges)
        yield bytearray(data.ljust(size, b"\0"))
    for scale in EDGE_SCALES if places else []:
        yield with_scale(name, random_bytes(f"{name} edge {scale}", size), scale)
    # Every byte of codes counts up: all codes in all places.
    for start in range(0, 256, size) if places else []:
        yield with_scale(name, bytearray((start + at) % 256 for at in range(size)), 0x3C00)
    for index in range(RANDOM_CASES):
        data = random_bytes(f"{name} {index}", size)
        for at in places:
            data[at + 1] &= ~0x40  # below 2
        yield finite(name, data)


def hash_of(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def vector(name, data):
    kind = gguf.GGMLQuantizationType[name]
    values = gguf.quants.dequantize(numpy.frombuffer(bytes(data), dtype=numpy.uint8), kind)
    values = values.astype("<f4").reshape(-1)
    assert numpy.isfinite(values).all(), name
    bits = values.view("<u4")
    return {
        "format": name,
        "bytes": data.hex(),
        "first": f"{bits[0]:08x}",
        "last": f"{bits[-1]:08x}",
        "hash": f"{hash_of(values.tobytes()):016x}",
    }


def main():
    vectors = [vector(name, data) for name in FORMATS for data in cases(name)]
    print("[\n" + ",\n".join(json.dumps(one) for one in vectors) + "\n]")


if __name__ == "__main__":
    main()
