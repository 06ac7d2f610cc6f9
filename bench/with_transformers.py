"""CHES by transformers, timed.

Reads jobs of one JSON line each from standard input: {"way": name, "rows": [[prompt, chosen,
rejected], ...], "max_length": n}, and answers with {"seconds", "cpu_seconds", "scores"}. Loading is
not counted. The ways:

paper: as the paper's script works: one sequence at a time, eager attention, hidden states of every
    layer, logits of the whole vocabulary.
best f32, best bf16: sequences sorted by length in batches of 8, sdpa attention, no logits.
"""

import json
import pathlib
import resource
import sys
import time

import torch
from gguf import GGUFReader

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests" / "goldens"))
import reference  # noqa: E402

BATCH = 8


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def score(plus, minus):
    return ((plus * minus).sum() - torch.norm(plus) ** 2).item()


def paper(model, ids, rows):
    for prompt, chosen, rejected in rows:
        prompt_tokens = len(ids(prompt))
        plus, minus = (
            model(input_ids=torch.tensor([ids(prompt + response)]), output_hidden_states=True)
            .hidden_states[-1][0][prompt_tokens - 1 :]
            .sum(dim=0)
            for response in (chosen, rejected)
        )
        yield score(plus, minus)


def best(model, ids, rows):
    sequences = [(ids(row[0] + row[which]), len(ids(row[0]))) for row in rows for which in (1, 2)]
    order = sorted(range(len(sequences)), key=lambda at: len(sequences[at][0]))
    sums = [None] * len(sequences)
    for first in range(0, len(order), BATCH):
        batch = order[first : first + BATCH]
        longest = max(len(sequences[at][0]) for at in batch)
        tokens = torch.zeros(len(batch), longest, dtype=torch.long)
        mask = torch.zeros(len(batch), longest, dtype=torch.long)
        for row, at in enumerate(batch):
            length = len(sequences[at][0])
            tokens[row, :length] = torch.tensor(sequences[at][0])
            mask[row, :length] = 1
        states = model.model(input_ids=tokens, attention_mask=mask).last_hidden_state
        for row, at in enumerate(batch):
            of_ids, prompt_tokens = sequences[at]
            sums[at] = states[row, prompt_tokens - 1 : len(of_ids)].float().sum(dim=0)
    for at in range(0, len(sums), 2):
        yield score(sums[at], sums[at + 1])


@torch.no_grad()
def main(model_path, threads):
    torch.set_num_threads(int(threads))
    reader = GGUFReader(model_path)
    tokenizer = reference.build_tokenizer(reader)
    ways = {
        "paper": (paper, reference.build_model(reader)),
        "best f32": (best, reference.build_model(reader, "sdpa")),
        "best bf16": (best, reference.build_model(reader, "sdpa").to(torch.bfloat16)),
    }
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        way, model = ways[job["way"]]

        def ids(text):
            return tokenizer(text, add_special_tokens=False).input_ids[: job["max_length"]]

        began, cpu = time.perf_counter(), cpu_seconds()
        scores = list(way(model, ids, job["rows"]))
        answer = {
            "seconds": time.perf_counter() - began,
            "cpu_seconds": cpu_seconds() - cpu,
            "scores": scores,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
