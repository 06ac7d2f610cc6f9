"""Compares the scores of `ches` with what training does to each pair: a Markdown table.

Every pair is trained on alone, from the reference weights, by transformers: DPO with AdamW in f32,
all parameters. Measured is the change of ln π(response | prompt), in nats, end token included;
per token it is divided by the targets m = response tokens + 1. Changes are kept in the folder
`--out`, so that an interrupted run goes on where it was, and only pairs, training settings or
weights that changed are measured anew. The scores are then computed by one query of the command.

The pairs are those of hh_raw.parquet (transcripts, their turns read, trimmed) and of
conversational.parquet (of which implicit_prompt.parquet and standard.parquet hold the same rows)
that are short enough.
"""

import argparse
import collections
import hashlib
import json
import pathlib
import re
import statistics
import sys
import time

from bench import Ches, split

try:
    import numpy as np
    import pyarrow.parquet
    import torch
    from gguf import GGUFReader

    sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests" / "goldens"))
    import make_scores
    import reference
except ImportError as error:
    needed = "torch, transformers, gguf, tokenizers, numpy and pyarrow"
    sys.exit(f"The validation needs {needed} (pip install): {error}")

PROMPT_TOKENS, RESPONSE_TOKENS = 512, 96
TRAINING = {"beta": 0.1, "lr": 2e-6, "steps": 4, "top": 50}
RESAMPLES = 2000
SIMPLE = ("ches", "ches_normalized", "last_hidden_similarity", "normalized_edit_distance")
STRUCTS = ("displacement", "displacement_simulated")
RATES = ("displacement.{}_rate", "displacement.{}_rate_per_token", "displacement.{}_rate_sgd")
CHANGES = ("displacement_simulated.{}_change", "displacement_simulated.{}_change_per_token")
COMPARED = {
    "chosen": (*SIMPLE, *RATES, "displacement.overlap", *CHANGES),
    "rejected": (*RATES, *CHANGES),
}


def transcript_turns(text):
    """The turns of a transcript's prompt, trimmed; its last mark, which has no content, is none."""
    roles = {"Human": "user", "Assistant": "assistant"}
    _, *parts = re.split(r"\n\n(Human|Assistant):", text)
    marks, contents = parts[:-2:2], parts[1:-2:2]
    return [
        {"role": roles[mark], "content": content.strip()}
        for mark, content in zip(marks, contents, strict=True)
    ]


def read_pairs(folder):
    """Every pair of the data: id, set, the prompt's turns, and two strings."""
    for at, row in enumerate(pyarrow.parquet.read_table(f"{folder}/hh_raw.parquet").to_pylist()):
        prompt, *responses = split(row["chosen"], row["rejected"])
        if not any("\n\nHuman:" in response for response in responses):
            texts = [transcript_turns(prompt), *(response.strip() for response in responses)]
            yield f"hh-{at:03}", "hh_raw", *texts
    for row in pyarrow.parquet.read_table(f"{folder}/conversational.parquet").to_pylist():
        responses = row["chosen"], row["rejected"]
        if all(len(turns) == 1 and turns[0]["role"] == "assistant" for turns in responses):
            texts = [row["prompt"], *(turns[0]["content"] for turns in responses)]
            yield row["id"], "conversational", *texts


def tokenize(tokenizer, prompt, chosen, rejected):
    """Ids of prompt + response of both, each with its end token, and the prompt's token count.

    None where the pair is too long, a response is empty or the same as the other, or a token spans
    the prompt's end: then the two do not share one last prompt position.
    """

    def ids(text):
        return tokenizer(text, add_special_tokens=False).input_ids

    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    sequences = []
    for response in (chosen, rejected):
        before, whole = map(ids, make_scores.render(tokenizer, prompt, response))
        count = len(before)
        fits = count <= PROMPT_TOKENS and 1 <= len(whole) - count <= RESPONSE_TOKENS
        if not fits or whole[:count] != before:
            return None
        sequences.append([*whole, end])
    return None if sequences[0] == sequences[1] else (*sequences, count)


def select(tokenizer, data, file):
    """Writes the pairs to a Parquet file, which `ches` reads too.

    Returns their token ids, by id, and how many each set has.
    """
    rows, tokens = [], {}
    for id, name, *texts in read_pairs(data):
        found = tokenize(tokenizer, *texts)
        if found is not None:
            columns = ("id", "set", "prompt", "chosen", "rejected")
            rows.append(dict(zip(columns, (id, name, *texts), strict=True)))
            tokens[id] = found
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return tokens, collections.Counter(row["set"] for row in rows)


def log_probs(model, ids, prompt_tokens):
    """ln π(response | prompt), nats, and ln p of every token at the last prompt position."""
    targets = torch.tensor(ids[prompt_tokens:])
    inputs = torch.tensor([ids[:-1]])
    out = model(input_ids=inputs, use_cache=False, logits_to_keep=len(targets))
    rows = out.logits[0].double().log_softmax(-1)
    return rows.gather(1, targets[:, None]).sum(), rows[0]


def train(model, chosen, rejected, prompt_tokens):
    """Trains on one pair; the changes of ln π, and of ln p at the last prompt position.

    `tokens` holds [id, change] of the most probable tokens there, most probable first, and after
    them of the responses' first tokens where those are not among them.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=TRAINING["lr"], weight_decay=0)
    before = None
    for _ in range(TRAINING["steps"]):
        optimizer.zero_grad()
        plus, first = log_probs(model, chosen, prompt_tokens)
        minus, _ = log_probs(model, rejected, prompt_tokens)
        if before is None:
            before = plus.item(), minus.item(), first.detach()
        margin = (plus - before[0]) - (minus - before[1])
        (-torch.nn.functional.logsigmoid(TRAINING["beta"] * margin)).backward()
        optimizer.step()
    with torch.no_grad():
        plus, first = log_probs(model, chosen, prompt_tokens)
        minus, _ = log_probs(model, rejected, prompt_tokens)
    candidates = before[2].topk(TRAINING["top"]).indices.tolist()
    candidates += [ids[prompt_tokens] for ids in (chosen, rejected)]
    change = first - before[2]
    return {
        "chosen_targets": len(chosen) - prompt_tokens,
        "rejected_targets": len(rejected) - prompt_tokens,
        "chosen_change": plus.item() - before[0],
        "rejected_change": minus.item() - before[1],
        "tokens": [[id, change[id].item()] for id in dict.fromkeys(candidates)],
    }


def measure(reader, model_path, pairs, file):
    """What training on each pair changes, by id; from `file` where it is known."""
    with open(model_path, "rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()

    def key(pair):
        return hashlib.sha256(json.dumps([digest, TRAINING, pair]).encode()).hexdigest()

    keys = {id: key(pair) for id, pair in pairs.items()}
    lines = file.read_text().splitlines() if file.exists() else []
    known = {record["id"]: record for record in map(json.loads, lines)}
    known = {id: record for id, record in known.items() if record["key"] == keys.get(id)}
    missing = {id: pair for id, pair in pairs.items() if id not in known}
    torch.set_num_threads(1)
    model = reference.build_model(reader, "sdpa")
    initial = [weight.detach().clone() for weight in model.parameters()]
    with open(file, "a") as out:
        for id, pair in missing.items():
            began = time.perf_counter()
            known[id] = {"id": id, "key": keys[id], **train(model, *pair)}
            with torch.no_grad():
                for weight, value in zip(model.parameters(), initial, strict=True):
                    weight.copy_(value)
            known[id]["seconds"] = round(time.perf_counter() - began, 2)
            out.write(json.dumps(known[id]) + "\n")
            out.flush()
            print(f"\r{len(known)} of {len(pairs)} pairs trained", end="", file=sys.stderr)
    print(file=sys.stderr)
    return {id: known[id] for id in pairs}


def compute_scores(args, file):
    """Every score of every pair, by id, from one query, and the seconds of the whole process."""
    calls = [f"{name}(prompt, chosen, rejected) AS {name}" for name in (*SIMPLE, *STRUCTS)]
    settings = {"dtype": "f32", "prompt_format": "chat", "top_tokens": TRAINING["top"] + 2}
    try:
        done = Ches(args, settings).run(f"SELECT id, {', '.join(calls)} FROM '{file}'")
    except SystemExit:
        sys.exit(
            f"{args.ches} computed no scores; its message is above. The measured changes stay in "
            f"{file.parent}: the next run starts from them."
        )
    return {row["id"]: row for row in done["rows"]}, done["seconds"]


def ranks(values):
    """Ranks from 1, ties at their average."""
    _, at, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[at]


def spearman(a, b):
    return np.corrcoef(ranks(a), ranks(b))[0, 1]


def interval(a, b):
    """The 95 % bootstrap interval of Spearman's correlation, pairs resampled."""
    draws = np.random.default_rng(0).integers(len(a), size=(RESAMPLES, len(a)))
    return np.nanpercentile([spearman(a[draw], b[draw]) for draw in draws], (2.5, 97.5))


def partial(a, b, lengths):
    """Correlation of what the lengths' ranks leave (least squares) of both ranks."""
    basis = np.column_stack([np.ones(len(a)), *map(ranks, lengths)])
    rest = [r - basis @ np.linalg.lstsq(basis, r)[0] for r in (ranks(a), ranks(b))]
    return np.corrcoef(*rest)[0, 1]


def areas(measured, scores, function, top):
    """Of each pair, how often a token that truly gained ranks above one that lost (AUC).

    Only over the `top` first tokens measured; pairs without both kinds are left out.
    """
    found = []
    for id, record in measured.items():
        struct = scores[id][function]
        tokens = [*struct.get("gaining", []), *struct.get("losing", [])]
        change = {token["token_id"]: token["change"] for token in tokens}
        known = [(true, change[id]) for id, true in record["tokens"][:top] if id in change]
        gained = np.array([predicted for true, predicted in known if true > 0])
        lost = np.array([predicted for true, predicted in known if true < 0])
        if len(gained) and len(lost):
            above, below = gained[:, None] > lost, gained[:, None] < lost
            found.append(0.5 + (above.mean() - below.mean()) / 2)
    return found


def column(scores, label):
    """A score (`function` or `struct.field`) of every pair; without one the run ends."""
    function, _, name = label.partition(".")
    values = []
    for id, row in scores.items():
        holder = row.get(function, {}) if name else row
        value = holder.get(name or function)
        if value is None:
            sys.exit(f"{label} of {id} is NULL: {holder.get('error', 'no reason given')}")
        values.append(value)
    return np.array(values, float)


def report(model, sets, measured, scores):
    """Prints the tables; `measured` and `scores` by id, `sets` the number of pairs by set."""
    scores = {id: scores[id] for id in measured}
    sides = {}
    for side in COMPARED:
        total = column(measured, f"{side}_change")
        sides[side] = total, total / column(measured, f"{side}_targets")
    lengths = [column(measured, f"{side}_targets") for side in COMPARED]
    low, middle, high = np.percentile(sides["chosen"][1], (5, 50, 95))
    fell = [(total < 0).sum() for total, _ in sides.values()]
    counts = ", ".join(f"{count} of {name}" for name, count in sets.items())
    print(f"\n### Predicted and measured displacement, {model}\n")
    print(
        f"{len(measured)} pairs ({counts}), each trained on alone: DPO, β = {TRAINING['beta']}, "
        f"{TRAINING['steps']} steps of AdamW, learning rate {TRAINING['lr']}, f32. ln π(chosen) "
        f"fell for {fell[0]} pairs, ln π(rejected) for {fell[1]}. Change of ln π(chosen) per "
        f"token: median {middle:.3f}, 5 % {low:.3f}, 95 % {high:.3f} nats."
    )
    for side, (total, per_token) in sides.items():
        print(
            f"\n| Spearman with the change of ln π({side}) | per token | 95 % interval "
            "| per token, lengths held | total |\n|---|---|---|---|---|"
        )
        for label in (template.format(side) for template in COMPARED[side]):
            score = column(scores, label)
            low, high = interval(score, per_token)
            print(
                f"| {label} | {spearman(score, per_token):.2f} | {low:.2f} to {high:.2f} "
                f"| {partial(score, per_token, lengths):.2f} | {spearman(score, total):.2f} |"
            )
    print("\n| does a token gain or lose? | candidates | AUC, mean | pairs |\n|---|---|---|---|")
    for function in STRUCTS:
        for which, top in (("most probable", TRAINING["top"]), ("and both first tokens", None)):
            found = areas(measured, scores, function, top)
            print(f"| {function} | {which} | {statistics.fmean(found):.2f} | {len(found)} |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ches", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="folder of preference data")
    parser.add_argument("--out", default="target/validate", help="folder of what was measured")
    args = parser.parse_args()

    files = [f"{args.data}/{name}.parquet" for name in ("hh_raw", "conversational")]
    for file in (*files, args.ches, args.model):
        if not pathlib.Path(file).is_file():
            sys.exit(f"There is no {file}")
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)

    reader = GGUFReader(args.model)
    tokenizer = reference.build_tokenizer(reader)
    pairs, sets = select(tokenizer, args.data, out / "pairs.parquet")
    measured = measure(reader, args.model, pairs, out / "changes.jsonl")
    scores, seconds = compute_scores(args, out / "pairs.parquet")
    report(pathlib.Path(args.model).stem, sets, measured, scores)
    trained = sum(record["seconds"] for record in measured.values())
    print(f"\nTraining took {trained:.0f} s on one thread, all the scores {seconds:.0f} s.")


if __name__ == "__main__":
    main()
