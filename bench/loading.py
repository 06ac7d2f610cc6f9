"""How long a model takes to load, and how much memory at its peak, against its size there.

Makes llama models with random weights in a temporary folder, and scores one short pair with each in
a process of its own. What the process needs without a model of any size is taken off, as measured
with a model of a few kilobytes. Needs numpy.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import time

TINY = pathlib.Path(__file__).parent.parent / "tests/goldens/families/llama/model"
SHAPE = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=16, num_attention_heads=16,
             num_key_value_heads=16, head_dim=64, vocab_size=32000, max_position_embeddings=512)  # fmt: skip


def tensors():
    width, inner, layers = (SHAPE[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    yield "model.embed_tokens.weight", (SHAPE["vocab_size"], width)
    yield "model.norm.weight", (width,)
    yield "lm_head.weight", (SHAPE["vocab_size"], width)
    for layer in range(layers):
        for name, shape in [
            ("input_layernorm", (width,)),
            ("post_attention_layernorm", (width,)),
            ("self_attn.q_proj", (width, width)),
            ("self_attn.k_proj", (width, width)),
            ("self_attn.v_proj", (width, width)),
            ("self_attn.o_proj", (width, width)),
            ("mlp.gate_proj", (inner, width)),
            ("mlp.up_proj", (inner, width)),
            ("mlp.down_proj", (width, inner)),
        ]:
            yield f"model.layers.{layer}.{name}.weight", shape


def make_model(folder, kind):
    """Returns the number of weights."""
    import numpy

    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TINY / file, folder / file)
    config = json.loads((TINY / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **SHAPE}))
    size = {"F32": 4, "BF16": 2}[kind]
    header, start, values = {}, 0, 0
    for name, shape in tensors():
        count = int(numpy.prod(shape))
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, start + count * size]}
        start += count * size
        values += count
    described = json.dumps(header).encode()
    random = numpy.random.default_rng(1)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(described)) + described)
        for _, shape in tensors():
            weights = random.standard_normal(shape, dtype=numpy.float32) * 0.03
            if kind == "BF16":
                weights = (weights.view(numpy.uint32) >> 16).astype(numpy.uint16)
            file.write(weights.tobytes())
    return values


def run(args, model, dtype):
    """Seconds and peak bytes of a process that scores one pair."""
    command = [
        args.ches, "--model", str(model), "-q", "-c", "SELECT ches('a', 'b', 'c')",
        "--set", "ches.prompt_format=raw", "--set", f"ches.dtype={dtype}",
    ]  # fmt: skip
    best = None
    for _ in range(args.rounds):
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            sys.exit(f"{' '.join(command)} failed")
        found = time.perf_counter() - began, usage.ru_maxrss * 1024
        best = min(best or found, found)
    return best


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ches", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if importlib.util.find_spec("numpy") is None:
        sys.exit("This benchmark needs numpy: pip install numpy")

    empty_seconds, empty_bytes = run(args, TINY, "f32")
    print("\nLoading a model and scoring one pair; a process with a tiny model taken off")
    print(f"({empty_seconds:.2f} s, {empty_bytes / 1e6:.0f} MB). Files are in the system's cache.\n")
    print("| file | dtype | file, MB | weights in memory, MB | peak, MB | peak / weights | seconds |")
    print("|---|---|---|---|---|---|---|")
    for kind in ("F32", "BF16"):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            values = make_model(folder, kind)
            size = (folder / "model.safetensors").stat().st_size
            for dtype, width in (("f32", 4), ("bf16", 2)):
                seconds, peak = run(args, folder, dtype)
                peak -= empty_bytes
                print(
                    f"| {kind} safetensors | {dtype} | {size / 1e6:.0f} | {values * width / 1e6:.0f} "
                    f"| {peak / 1e6:.0f} | {peak / (values * width):.2f} | {seconds - empty_seconds:.2f} |"
                )


if __name__ == "__main__":
    main()
