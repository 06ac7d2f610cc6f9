"""Times transformers on the model and pairs that `gpu_check` left, on the same GPU.

usage: gpu_with_transformers.py FOLDER/SHAPE TOKENS_PER_SECOND_OF_CHES

bf16. The paper's way (eager attention, one sequence at a time, hidden states of every layer, logits)
on the first pairs only; at its best (sdpa, sorted by length, no logits) with the batch size that is fastest on
some of them. Tokens are counted once a pair for its prompt, as those of `ches` are. Prints one line of
JSON for each, with how many pairs it took, the largest and median relative difference of scores, and the ratio of
speeds, which for `ches` is that of all pairs.
"""

import json
import pathlib
import sys
import time

import torch
import ways
from transformers import AutoModelForCausalLM

PAPER_PAIRS = 64
TRIED_PAIRS = 96
BEST_PAIRS = 550


def ids(text):
    return [int(word[1:]) for word in text.split()]


def load(folder, attention):
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation=attention
    )
    return model.cuda().eval()


def score(plus, minus):
    return (plus.double() @ (minus - plus).double()).item()


def sequences(pairs):
    return [(prompt + response, len(prompt)) for prompt, *two in pairs for response in two]


def scores(sums):
    return [score(*pair) for pair in zip(sums[::2], sums[1::2], strict=True)]


def paper(model, pairs):
    return scores(list(ways.paper(model, sequences(pairs))))


def best(model, pairs, batch_size):
    return scores(ways.best(model, sequences(pairs), batch_size, use_cache=False))


def timed(compute, pairs):
    torch.cuda.synchronize()
    began = time.perf_counter()
    found = compute(pairs)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    tokens = sum(len(ids) for pair in pairs for ids in pair)
    return found, tokens / seconds


def report(name, found, rate, ours, our_rate):
    errors = sorted(abs(a - b) / abs(b) for a, b in zip(found, ours))
    line = {
        "way": name,
        "pairs": len(found),
        "tokens_per_second": rate,
        "ches_over_this": our_rate / rate,
        "median_difference": errors[len(errors) // 2],
        "largest_difference": errors[-1],
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
    }
    print(json.dumps(line), flush=True)


@torch.no_grad()
def main(folder, our_rate):
    rows = [json.loads(line) for line in open(pathlib.Path(folder) / "pairs.jsonl")]
    pairs = [[ids(row[key]) for key in ("prompt", "chosen", "rejected")] for row in rows]
    ours = [row["score"] for row in rows]
    our_rate = float(our_rate)

    model = load(folder, "sdpa")
    best(model, pairs[:16], 8)
    rates = {}
    for batch_size in (8, 16, 32, 64, 128):
        try:
            rates[batch_size] = timed(lambda pairs: best(model, pairs, batch_size), pairs[:TRIED_PAIRS])[1]  # noqa: B023
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    if not rates:
        sys.exit("no memory for batches of 8")
    fastest = max(rates, key=rates.get)
    found, rate = timed(lambda pairs: best(model, pairs, fastest), pairs[:BEST_PAIRS])
    report(f"at its best, batches of {fastest}", found, max(rate, rates[fastest]), ours, our_rate)
    del model
    model = load(folder, "eager")
    paper(model, pairs[:2])
    found, rate = timed(lambda pairs: paper(model, pairs), pairs[:PAPER_PAIRS])
    report("the paper's way", found, rate, ours[:PAPER_PAIRS], our_rate)


if __name__ == "__main__":
    main(*sys.argv[1:])
