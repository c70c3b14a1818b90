"""Makes smollm2-135m-f64.json: the model's weights run in f64, fed the recorded greedy ids.

An independent judge for tests/golden.rs: the file is read and dequantised by the `gguf` package, the
forward is written out in NumPy, and nothing is cached or batched.

    pip install numpy gguf
    python3 make_f64_run.py SmolLM2-135M-Instruct.Q4_1.gguf
"""

import json
import pathlib
import sys

import gguf
import numpy as np

FOLDER = pathlib.Path(__file__).parent
TOP = 5


class Llama:
    """A Llama from GGUF: permuted q and k, interleaved rotary embedding, tied output."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        number = lambda key: reader.fields[f"llama.{key}"].parts[-1][0]
        self.layers = int(number("block_count"))
        self.heads = int(number("attention.head_count"))
        self.kv_heads = int(number("attention.head_count_kv"))
        self.head_width = int(number("embedding_length")) // self.heads
        self.epsilon = float(number("attention.layer_norm_rms_epsilon"))
        self.rope_base = float(number("rope.freq_base"))
        self.weights = {
            tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
            for tensor in reader.tensors
        }

    def norm(self, x, name):
        scale = np.sqrt((x * x).mean(-1, keepdims=True) + self.epsilon)
        return x / scale * self.weights[name]

    def rotate(self, x):
        """x: [tokens, heads, head_width]; each pair of neighbours turns by position * frequency."""
        half = self.head_width // 2
        angles = np.arange(len(x))[:, None] * self.rope_base ** (-np.arange(half) / half)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        even, odd = x[..., 0::2], x[..., 1::2]
        out = np.empty_like(x)
        out[..., 0::2], out[..., 1::2] = even * cos - odd * sin, even * sin + odd * cos
        return out

    def attend(self, x, layer):
        tokens = len(x)
        project = lambda name, heads: (x @ self.weights[f"blk.{layer}.attn_{name}.weight"].T).reshape(
            tokens, heads, self.head_width
        )
        q, k = self.rotate(project("q", self.heads)), self.rotate(project("k", self.kv_heads))
        v = project("v", self.kv_heads)
        mask = np.triu(np.full((tokens, tokens), -np.inf), 1)
        out = np.empty_like(q)
        for head in range(self.heads):
            group = head * self.kv_heads // self.heads
            scores = q[:, head] @ k[:, group].T / np.sqrt(self.head_width) + mask
            scores = np.exp(scores - scores.max(1, keepdims=True))
            out[:, head] = scores / scores.sum(1, keepdims=True) @ v[:, group]
        return out.reshape(tokens, -1) @ self.weights[f"blk.{layer}.attn_output.weight"].T

    def feed_forward(self, x, layer):
        weight = lambda name: self.weights[f"blk.{layer}.ffn_{name}.weight"].T
        gate = x @ weight("gate")
        return (gate / (1 + np.exp(-gate)) * (x @ weight("up"))) @ weight("down")

    def log_probabilities(self, ids):
        """[tokens, vocabulary], in nats."""
        x = self.weights["token_embd.weight"][ids]
        for layer in range(self.layers):
            x = x + self.attend(self.norm(x, f"blk.{layer}.attn_norm.weight"), layer)
            x = x + self.feed_forward(self.norm(x, f"blk.{layer}.ffn_norm.weight"), layer)
        logits = self.norm(x, "output_norm.weight") @ self.weights["token_embd.weight"].T
        logits -= logits.max(1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def run(model, case):
    prompt, answer = case["prompt_ids"], case["greedy_ids"]
    rows = model.log_probabilities(np.array(prompt + answer))[len(prompt) - 1 :][: len(answer)]
    best = [np.argsort(-row, kind="stable")[:TOP] for row in rows]
    return {
        "prompt": case["prompt"],
        "top5_logprobs": [
            [[int(id), round(float(row[id]), 6)] for id in ids] for row, ids in zip(rows, best)
        ],
    }


def main():
    recording = json.loads((FOLDER / "smollm2-135m-q4_1.json").read_text())
    model = Llama(sys.argv[1])
    out = {
        "source": "the dequantised weights run in f64 with NumPy, fed the recorded greedy ids",
        "model": recording["model"],
        "cases": [run(model, case) for case in recording["cases"]],
    }
    (FOLDER / "smollm2-135m-f64.json").write_text(json.dumps(out))


main()
