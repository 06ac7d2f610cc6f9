"""CHES by transformers, timed: one way of computing it a process.

usage: with_transformers.py MODEL.gguf THREADS WAY

Reads jobs of one JSON line each from standard input and answers each with a line. A job is one of

{"rows": [[prompt, chosen, rejected], ...], "max_length": n}: texts; answered with {"seconds",
    "cpu_seconds", "peak_bytes", "scores"}. Loading is not counted.
{"render": [{"prompt", "chosen", "rejected"}, ...]}: conversations; answered with rows of texts.
{"peak": true}: answered with {"operations"}, those a second of large matrix products in the way's
    type, the best of many rounds.

The ways:

paper: as the paper's script works: one sequence at a time, eager attention, hidden states of every
    layer, logits of the whole vocabulary, f32.
f32, bf16: sequences sorted by length in batches of 8, sdpa attention, no logits.
"""

import json
import pathlib
import resource
import sys
import time

import torch
import ways
from gguf import GGUFReader

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests" / "goldens"))
import make_scores  # noqa: E402
import reference  # noqa: E402

BATCH = 8


def usage():
    return resource.getrusage(resource.RUSAGE_SELF)


def cpu_seconds():
    return usage().ru_utime + usage().ru_stime


def score(plus, minus):
    return ((plus * minus).sum() - torch.norm(plus) ** 2).item()


def sequences(ids, rows):
    for prompt, *responses in rows:
        prompt_tokens = len(ids(prompt))
        for response in responses:
            yield ids(prompt + response), prompt_tokens


def scores(way, model, ids, rows):
    if way == "paper":
        sums = list(ways.paper(model, sequences(ids, rows)))
    else:
        sums = ways.best(model, list(sequences(ids, rows)), BATCH)
    return [score(*pair) for pair in zip(sums[::2], sums[1::2], strict=True)]


def matmul_operations(dtype):
    fastest = 0
    for rows, columns, inner in ((1024, 1024, 1024), (2048, 2048, 2048), (1024, 4096, 512)):
        a, b = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
        end = time.perf_counter() + 2
        while (began := time.perf_counter()) < end:
            torch.mm(a, b)
            seconds = time.perf_counter() - began
            fastest = max(fastest, 2 * rows * columns * inner / seconds)
    return fastest


@torch.no_grad()
def main(model_path, threads, way):
    torch.set_num_threads(int(threads))
    reader = GGUFReader(model_path)
    tokenizer = reference.build_tokenizer(reader)
    dtype = torch.bfloat16 if way == "bf16" else torch.float32
    model = reference.build_model(reader, "eager" if way == "paper" else "sdpa").to(dtype)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        if "peak" in job:
            answer = {"operations": matmul_operations(dtype)}
        elif "render" in job:

            def texts(row):
                prompt, chosen = make_scores.render(tokenizer, row["prompt"], row["chosen"])
                _, rejected = make_scores.render(tokenizer, row["prompt"], row["rejected"])
                return prompt, chosen[len(prompt) :], rejected[len(prompt) :]

            answer = {"rows": [texts(row) for row in job["render"]]}
        else:

            def ids(text):
                return tokenizer(text, add_special_tokens=False).input_ids[: job["max_length"]]

            began, cpu = time.perf_counter(), cpu_seconds()
            found = scores(way, model, ids, job["rows"])
            answer = {
                "seconds": time.perf_counter() - began,
                "cpu_seconds": cpu_seconds() - cpu,
                "peak_bytes": usage().ru_maxrss * 1024,
                "scores": found,
            }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
