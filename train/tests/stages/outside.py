#!/usr/bin/env python3
"""Holds a model's folder, or an adapter on one, against transformers, PEFT and llama.cpp's converter.

    python -m venv VENV && VENV/bin/pip install torch transformers peft safetensors gguf
    cargo build --release
    VENV/bin/python train/tests/stages/outside.py --binaries target/release --from MODEL.gguf \\
        --adapter RUN/adapter [--converter LLAMA_CPP/convert_hf_to_gguf.py --llama llama-completion]

MODEL is a GGUF file or a folder, RUN the folder of a warm-up on it; without --adapter the folder
MODEL itself is held against the others. Of an adapter: it is merged, and one of zeros, which gives
MODEL as a folder; PEFT reads the adapter on that one without a tensor too many or too few, and gives
the logits that transformers gives of the merged one; and what PEFT writes of it merges to the same
bits. Then of the folder:

- transformers and `relay-bench perplexity` give a text the same likelihood;
- the converter's GGUF, read by llama.cpp and by `relay-edge`, and the folder, read by transformers
  and by `relay-edge`, go on from a prompt with the same greedy text.

Exits with 1 at the first that differs. The converter is part of llama.cpp's source, which the
package llama-cpp-python carries. It refuses vocabularies that are not in its list: --cut says how
such a one is cut (the tiny pair's: gpt-2). `relay-edge` writes no commands here, so a model that has
learned them needs a --prompt which it answers without.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = """A relay race is run by teams. Each runner carries a baton for 400 metres and hands it to the
next one. If a team of 4 takes 3 minutes and 12 seconds, how long does each runner take on average?
Let us think step by step: 3 minutes and 12 seconds are 192 seconds, and 192 / 4 = 48 seconds. Naïve
readers — those who skip “and 12 seconds” — get 45: x² + y² = z², 1,024.50 € and    blanks too.
"""
PROMPT = "The three primary colours are red,"
WEIGHTS = "adapter_model.safetensors"
CONTEXT, NEW_TOKENS = 32, 24
LOGITS_MAX, NATS_MAX = 1e-3, 1e-3
# Runs the converter (argv[1]) as if its list had the vocabulary, cut as argv[2] says.
TOLD = """
import runpy, sys
from pathlib import Path
path, cut = sys.argv[1:3]
del sys.argv[1:3]
sys.path.insert(0, str(Path(path).parent))
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda *_: cut
runpy.run_path(path, run_name="__main__")
"""


def check(name, holds, said):
    print(f"{'equal' if holds else 'DIFFERS'}: {name}: {said}", flush=True)
    if not holds:
        sys.exit(1)


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed: {done.stderr}")
    return done.stdout


def read(folder):
    model, said = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    wrong = {key: names for key, names in said.items() if names}
    check(f"tensors of {folder.name}/", not wrong, wrong or "none missing, none unexpected")
    return model.eval()


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double()


def perplexity(model, ids):
    """As `relay-bench perplexity` counts it: the second half of each chunk."""
    nats = []
    for start in range(0, len(ids) - CONTEXT + 1, CONTEXT):
        chunk = ids[start : start + CONTEXT]
        logs = torch.log_softmax(logits(model, chunk), -1)
        nats += [-logs[at - 1, chunk[at]].item() for at in range(CONTEXT // 2 + 1, CONTEXT)]
    return len(nats), sum(nats) / len(nats)


def merge(flags, adapter, out):
    run(flags.binaries / "relay-train", "merge", "--from", flags.source, "--adapter", adapter, "--out", out)
    return out


def check_adapter(flags, folder, ids):
    """Gives the merged folder."""
    tensors = load_file(flags.adapter / WEIGHTS)
    zero = shutil.copytree(flags.adapter, folder / "zero")
    save_file({name: 0 * tensor for name, tensor in tensors.items()}, zero / WEIGHTS)
    merged = merge(flags, flags.adapter, folder / "merged")
    ours = logits(read(merged), ids)

    adapted = PeftModel.from_pretrained(read(merge(flags, zero, folder / "base")), flags.adapter).eval()
    known = get_peft_model_state_dict(adapted)
    same = tensors.keys() == known.keys() and all(torch.equal(tensors[name], known[name]) for name in known)
    check("tensors of the adapter, in PEFT", same, f"{len(known)}")
    with adapted.disable_adapter():
        moved = (logits(adapted, ids) - ours).abs().max().item()
    check("logits with the adapter are others", moved > 100 * LOGITS_MAX, f"{moved:.3f} apart at most")
    apart = (logits(adapted, ids) - ours).abs().max().item()
    check("logits of PEFT and of the merged folder", apart < LOGITS_MAX, f"{apart:.1e} apart at most")
    adapted.save_pretrained(folder / "written")
    again = merge(flags, folder / "written", folder / "again")
    same = (again / "model.safetensors").read_bytes() == (merged / "model.safetensors").read_bytes()
    check("merged bits of what PEFT writes", same, "the same")
    return merged


def check_likelihood(flags, folder, model, ids):
    (folder / "text").write_text(TEXT)
    measure = ["perplexity", "--text", folder / "text", "--context", CONTEXT, "--threads", 1, "--json"]
    said = json.loads(run(flags.binaries / "relay-bench", *measure, "--model", flags.folder))
    count, nats = perplexity(model, ids)
    apart = abs(math.log(said["perplexity"]) - nats)
    check(
        "likelihood by transformers and by the engine",
        count == said["scored_tokens"] and apart < NATS_MAX,
        f"{nats:.5f} nats a token, {apart:.1e} apart; {count} and {said['scored_tokens']} tokens",
    )


def check_greedy(flags, folder, model, tokenizer):
    prompt = tokenizer(flags.prompt, return_tensors="pt")
    out = model.generate(
        prompt.input_ids, attention_mask=prompt.attention_mask, max_new_tokens=NEW_TOKENS, do_sample=False
    )
    greedy = tokenizer.decode(out[0, prompt.input_ids.shape[1] :], skip_special_tokens=True)

    def edge(path):
        ask = ["ask", "--raw-prompt", flags.prompt, "--policy", "never", "--max-tokens", NEW_TOKENS]
        return json.loads(run(flags.binaries / "relay-edge", *ask, "--threads", 1, "--json", "--model", path))["answer"]

    check("greedy text of the folder by the engine", edge(flags.folder) == greedy, repr(greedy))
    if not flags.converter:
        return
    gguf = folder / "model.gguf"
    told = ["-c", TOLD, flags.converter, flags.cut] if flags.cut else [flags.converter]
    run(sys.executable, *told, flags.folder, "--outtype", "f32", "--outfile", gguf)
    check("greedy text of the GGUF by the engine", edge(gguf) == greedy, "the same")
    if flags.llama:
        ask = ["-p", flags.prompt, "-n", NEW_TOKENS, "--temp", 0, "-t", 1, "-c", 256, "-ctk", "f32", "-ctv", "f32"]
        said = run(flags.llama, "-m", gguf, *ask, "-no-cnv", "--no-display-prompt", "--no-warmup")
        said = said.removesuffix("[end of text]\n").strip()
        check("greedy text of the GGUF by llama.cpp", said == greedy.strip(), repr(said))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--from", required=True, type=Path, dest="source")
    parser.add_argument("--binaries", required=True, type=Path)
    for flag in ["--adapter", "--converter", "--llama"]:
        parser.add_argument(flag, type=Path)
    parser.add_argument("--cut")
    parser.add_argument("--prompt", default=PROMPT)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        flags.folder = flags.source
        if flags.adapter:
            flags.folder = check_adapter(flags, folder, list(range(100, 180)))
        tokenizer = AutoTokenizer.from_pretrained(flags.folder)
        model = read(flags.folder)
        check_likelihood(flags, folder, model, tokenizer(TEXT.strip("\n"), add_special_tokens=False).input_ids)
        check_greedy(flags, folder, model, tokenizer)


if __name__ == "__main__":
    main()
