"""Makes vectors.json: logits that the transformers library gives for tiny models.

Their weights follow a rule (below, and in rule.rs beside this file), so that none are stored. Every
weight is a small whole number over a power of two: exact in F32, F16 and BF16 alike.

Run by hand, with torch and transformers at hand: python make_vectors.py > vectors.json
"""

import json
import sys

import numpy
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCABULARY = 264
TOKENS = 48
POSITIONS = [0, 1, 17, 31, 47]

SIZES = dict(
    vocab_size=VOCABULARY,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    bos_token_id=256,
    eos_token_id=256,
)
LLAMA3 = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
CASES = [
    ("llama-tied", LlamaConfig, LlamaForCausalLM, dict(tie_word_embeddings=True)),
    ("llama-untied", LlamaConfig, LlamaForCausalLM, dict(rms_norm_eps=1e-5, rope_theta=1e5)),
    (
        "llama3-scaled",
        LlamaConfig,
        LlamaForCausalLM,
        dict(rope_theta=5e5, rope_scaling=LLAMA3, num_key_value_heads=1, head_dim=32),
    ),
    ("llama-wide-heads", LlamaConfig, LlamaForCausalLM, dict(head_dim=24, hidden_size=48)),
    ("qwen2-tied", Qwen2Config, Qwen2ForCausalLM, dict(tie_word_embeddings=True, rope_theta=1e6)),
    ("qwen2-untied", Qwen2Config, Qwen2ForCausalLM, dict(num_key_value_heads=4)),
    (
        "qwen3-tied",
        Qwen3Config,
        Qwen3ForCausalLM,
        dict(head_dim=32, tie_word_embeddings=True, rope_theta=1e6),
    ),
    ("qwen3-untied", Qwen3Config, Qwen3ForCausalLM, dict(head_dim=16, num_hidden_layers=3)),
]


def noise(name, count):
    """`count` whole numbers from -128 to 127, by the tensor's name."""
    seed = numpy.uint32(2166136261)
    with numpy.errstate(over="ignore"):
        for byte in name.encode():
            seed = (seed ^ numpy.uint32(byte)) * numpy.uint32(16777619)
        x = seed ^ (numpy.arange(count, dtype=numpy.uint32) * numpy.uint32(0x9E3779B1))
        x = (x ^ (x >> numpy.uint32(16))) * numpy.uint32(0x85EBCA6B)
        x = (x ^ (x >> numpy.uint32(13))) * numpy.uint32(0xC2B2AE35)
        x = x ^ (x >> numpy.uint32(16))
    return (x >> numpy.uint32(24)).astype(numpy.int64) - 128


def weights(name, shape):
    values = noise(name, int(numpy.prod(shape)))
    if "norm" in name:
        values = 1 + (values >> 2) / 64
    elif name.endswith(".bias"):
        values = values / 64
    elif "embed_tokens" in name:
        values = values / 128
    else:
        values = values / 512
    return torch.tensor(values, dtype=torch.float32).reshape(shape)


def ids():
    return [int(value) % VOCABULARY for value in noise("ids", TOKENS) + 128]


def run(name, config_class, model_class, settings):
    config = config_class(**{**SIZES, **settings})
    config._attn_implementation = "eager"
    model = model_class(config).to(torch.float32).eval()
    state = model.state_dict()
    for key, tensor in state.items():
        tensor.copy_(weights(key, tuple(tensor.shape)))
    if config.tie_word_embeddings:
        state["model.embed_tokens.weight"].copy_(
            weights("model.embed_tokens.weight", tuple(state["model.embed_tokens.weight"].shape))
        )
    with torch.no_grad():
        logits = model(torch.tensor([ids()])).logits[0]
    config.architectures = [model_class.__name__]
    rows = [[float(f"{value:.9g}") for value in logits[at].tolist()] for at in POSITIONS]
    return dict(name=name, config=json.loads(config.to_json_string()), logits=rows)


def main():
    cases = [run(*case) for case in CASES]
    vectors = dict(ids=ids(), positions=POSITIONS, cases=cases)
    json.dump(vectors, sys.stdout, separators=(",", ":"))
    print()


if __name__ == "__main__":
    main()
