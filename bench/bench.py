"""Times `ches` beside transformers, the paper's way and at its best, in one run, in turns; then how
its time grows.

The figures of `ches` are of the whole process, start and loading included; those of transformers are
of its scoring loop alone. Needs pyarrow; without torch, transformers and gguf their part is left
out, which it says. With `perf` it tells where the time of `ches` goes.
"""

import argparse
import copy
import importlib.util
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

MARK = "\n\nAssistant:"
# Multiplications and additions of the demo model's linear layers for each token, without the
# unembedding: 30 blocks of 576 · (576 + 192 + 192 + 576) + 3 · 576 · 1536.
OPERATIONS = 2 * 30 * (576 * (576 + 192 + 192 + 576) + 3 * 576 * 1536)

# Which samples of a profile belong to what, by symbol; the first that matches.
PROFILE = {
    "linear layers": r"packed::",
    "products of attention": r"gemm",
    "norms, rotation, activations, softmax": r"vectorised|cpu::|steps|decoder|rayon|FnMut|FnOnce|Iterator",
    "tokenization, templates": r"tokenizers|regex|minijinja|onig|aho",
    "SQL, Arrow, Parquet": r"datafusion(?!_ches)|arrow|parquet|sqlparser|ches_udfs",
    "copies and fresh memory": r"memmove|memset|memcpy|malloc|_int_free|\[k\]",
}


def split(chosen, rejected):
    shared = chosen[: len(os.path.commonprefix([chosen, rejected]))]
    end = shared.rindex(MARK) + len(MARK)
    return chosen[:end], chosen[end:], rejected[end:]


class Ches:
    """The command, with a model and a format."""

    def __init__(self, args, settings):
        self.command = [args.ches, "--model", args.model, "-q", "--format", "nd-json"]
        self.command += ["--set", "ches.memo_bytes=0"]
        for key, value in settings.items():
            self.command += ["--set", f"ches.{key}={value}"]

    def with_command(self, command):
        """The same with another command line."""
        other = copy.copy(self)
        other.command = command
        return other

    def run(self, sql, *options):
        """Runs a query; times, memory and the rows."""
        command = [*self.command, *options, "-c", sql]
        with tempfile.TemporaryFile("w+") as out:
            began = time.perf_counter()
            process = subprocess.Popen(command, stdout=out)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - began
            if status != 0:
                sys.exit(f"{' '.join(command)} failed")
            out.seek(0)
            rows = [json.loads(line) for line in out]
        return {
            "seconds": seconds,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_bytes": usage.ru_maxrss * 1024,
            "rows": rows,
        }

    def scores(self, data, dtype, function, partitions=1):
        done = self.run(
            f"SELECT {function} AS score FROM '{data}'",
            *("--set", f"ches.dtype={dtype}"),
            *("--set", f"datafusion.execution.target_partitions={partitions}"),
        )
        done["scores"] = [row.get("score") for row in done.pop("rows")]
        return done

    def tokens(self, data, arguments):
        """Tokens of prompts and of responses."""
        counts = ("prompt_tokens", "chosen_tokens", "rejected_tokens")
        sums = ", ".join(f"sum(s['{count}'])" for count in counts)
        sql = f"SELECT {sums} FROM (SELECT preference_scores({arguments}) AS s FROM '{data}')"
        prompts, *responses = self.run(sql)["rows"][0].values()
        return prompts, sum(responses)


class Transformers:
    def __init__(self, args, way):
        script = pathlib.Path(__file__).parent / "with_transformers.py"
        self.process = subprocess.Popen(
            [sys.executable, script, args.model, str(os.cpu_count()), way],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        json.loads(self.process.stdout.readline())

    def ask(self, **job):
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def rank_correlation(a, b):
    def ranks(values):
        order = sorted(range(len(values)), key=values.__getitem__)
        ranks = [0] * len(values)
        for rank, at in enumerate(order):
            ranks[at] = rank
        return ranks

    n = len(a)
    distance = sum((x - y) ** 2 for x, y in zip(ranks(a), ranks(b), strict=True))
    return 1 - 6 * distance / (n * (n * n - 1))


def compare(args, title, ches, data, arguments, rows, max_length, others, peaks):
    """One table: `ches` and the other ways, in turns."""
    names = {"f32": "ches, f32", "bf16": "ches, bf16"}
    runs = {name: [] for name in [*names.values(), *others]}
    for _ in range(args.rounds):
        for dtype, name in names.items():
            runs[name].append(ches.scores(data, dtype, f"ches({arguments})"))
        for name, other in others.items():
            runs[name].append(other.ask(rows=rows, max_length=max_length))

    def median(name, figure):
        return statistics.median(run[figure] for run in runs[name])

    prompts, responses = ches.tokens(data, arguments)
    tokens = prompts + responses
    papers = next(iter(others), names["f32"])
    exact = runs[papers][0]["scores"]
    scored = [at for at, score in enumerate(runs[names["f32"]][0]["scores"]) if score is not None]

    print(f"\n### {title}\n")
    print(
        f"{len(rows)} pairs, {prompts} tokens of prompts and {responses} of responses, median of "
        f"{args.rounds} rounds\n"
    )
    print(
        "| | pairs/s | tokens/s | CPU-seconds | paper's way / this (CPU) | peak memory, MB "
        "| of the matmul peak | median error | largest error | rank correlation |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in runs:
        found = runs[name][0]["scores"]
        pairs = [(found[at], exact[at]) for at in scored]
        errors = [abs(a - b) / abs(b) for a, b in pairs]
        seconds, cpu = median(name, "seconds"), median(name, "cpu_seconds")
        peak = peaks.get("bf16" if "bf16" in name else "f32")
        share = f"{tokens * OPERATIONS / seconds / peak:.0%}" if peak else ""
        print(
            f"| {name} | {len(rows) / seconds:.2f} | {tokens / seconds:.0f} | {cpu:.1f} "
            f"| {median(papers, 'cpu_seconds') / cpu:.2f} "
            f"| {max(run['peak_bytes'] for run in runs[name]) / 1e6:.0f} | {share} "
            f"| {statistics.median(errors):.1e} | {max(errors):.1e} "
            f"| {rank_correlation(*zip(*pairs, strict=True)):.4f} |"
        )


def grow(args, ches, folder, table, pyarrow):
    """How the time of `ches` in f32 grows."""
    pairs = [split(row["chosen"], row["rejected"]) for row in table.to_pylist()]
    responses = [response for _, *two in pairs for response in two]

    def write(name, rows):
        columns = zip(*rows, strict=True)
        names = ("prompt", "chosen", "rejected")
        columns = dict(zip(names, map(list, columns), strict=True))
        pyarrow.parquet.write_table(pyarrow.table(columns), f"{folder}/{name}")
        return f"{folder}/{name}"

    cases = []

    def case(name, data, options=(), partitions=1):
        own = ches.with_command([*ches.command, *options])
        cases.append((name, own, data, partitions))

    for count in (1, 16, 64, 256):
        rows = [pairs[at % len(pairs)] for at in range(count)]
        case(f"{count} rows", write(f"{count}_rows.parquet", rows))
    text = " ".join(responses)
    for length in (64, 256, 1024, 4096):
        size = 8 * length
        rows = [
            (text[at * 999 :][:40], text[at * 777 :][:size], text[at * 555 :][:size])
            for at in range(max(1, 8192 // length))
        ]
        options = ("--set", f"ches.max_length={length}")
        case(f"up to {length} tokens", write(f"{length}_tokens.parquet", rows), options)
    for sharing in (1, 4, 16):
        rows = [
            (pairs[at // sharing][0], responses[2 * at % 128], responses[(2 * at + 7) % 128])
            for at in range(64)
        ]
        case(f"{sharing} pairs of each prompt", write(f"{sharing}_pairs.parquet", rows))
    whole = write("whole.parquet", pairs)
    many = pathlib.Path(folder) / "many"
    many.mkdir()
    for at, pair in enumerate(pairs):
        write(f"many/{at:02}.parquet", [pair])
    for partitions in (1, 2, 16):
        case(f"one file, {partitions} partitions", whole, partitions=partitions)
        case(f"{len(pairs)} files, {partitions} partitions", f"{many}/", partitions=partitions)

    arguments = "prompt, chosen, rejected"
    runs = {name: [] for name, *_ in cases}
    for _ in range(args.rounds):
        for name, own, data, partitions in cases:
            runs[name].append(own.scores(data, "f32", f"ches({arguments})", partitions))

    print("\n### How time grows (ches, f32)\n")
    print(f"In turns, median of {args.rounds} rounds; tokens count the prompt once a pair.\n")
    print("| | pairs | tokens | seconds | CPU-seconds | tokens/CPU-s | peak memory, MB |")
    print("|---|---|---|---|---|---|---|")
    for name, own, data, _ in cases:

        def median(figure):
            return statistics.median(run[figure] for run in runs[name])  # noqa: B023

        tokens, cpu = sum(own.tokens(data, arguments)), median("cpu_seconds")
        print(
            f"| {name} | {len(runs[name][0]['scores'])} | {tokens} | {median('seconds'):.1f} "
            f"| {cpu:.1f} | {tokens / cpu:.0f} | {median('peak_bytes') / 1e6:.0f} |"
        )


def predictions(args, ches, data, arguments):
    """What predictions cost beside `ches`, in turns."""
    functions = {
        "ches": f"ches({arguments})",
        "preference_scores": f"preference_scores({arguments})['chosen_logprob']",
        "displacement": f"displacement({arguments})['chosen_rate_per_token']",
        "displacement_simulated": f"displacement_simulated({arguments})['chosen_change_per_token']",
    }
    print("\n### What predictions cost\n")
    print("| | CPU-seconds, f32 | of `ches` | CPU-seconds, bf16 | of `ches` | peak memory, f32, MB |")
    print("|---|---|---|---|---|---|")
    dtypes = ("f32", "bf16")
    runs = {(name, dtype): [] for name in functions for dtype in dtypes}
    for _ in range(args.rounds):
        for (name, dtype), done in runs.items():
            done.append(ches.scores(data, dtype, functions[name]))

    def median(name, dtype, figure):
        return statistics.median(run[figure] for run in runs[name, dtype])

    for name in functions:
        figures = []
        for dtype in dtypes:
            cpu = median(name, dtype, "cpu_seconds")
            figures.append(f"{cpu:.1f} | {cpu / median('ches', dtype, 'cpu_seconds'):.2f}")
        peak = median(name, "f32", "peak_bytes") / 1e6
        print(f"| {name} | {' | '.join(figures)} | {peak:.0f} |")


def profile(ches, data, function, tokens, peak, dtype):
    """Where the time goes, by sampling."""
    if shutil.which("perf") is None:
        print("\nWithout `perf` there is no profile.")
        return
    with tempfile.TemporaryDirectory() as folder:
        samples = f"{folder}/perf.data"
        sql = f"SELECT {function} AS score FROM '{data}'"
        watched = ches.with_command(["perf", "record", "-F", "499", "-o", samples, *ches.command])
        done = watched.run(sql, "--set", f"ches.dtype={dtype}")
        report = subprocess.run(
            ["perf", "report", "-i", samples, "--stdio", "-s", "sym", "-F", "overhead,sym"],
            capture_output=True,
            text=True,
        ).stdout
    shares = dict.fromkeys([*PROFILE, "other"], 0.0)
    for found in re.finditer(r"^\s+([\d.]+)%\s+(.*)$", report, re.M):
        share, symbol = float(found[1]), found[2]
        matching = (name for name, pattern in PROFILE.items() if re.search(pattern, symbol))
        shares[next(matching, "other")] += share
    print(f"\n### Where the time goes (ches, {dtype})\n")
    print("| | of the samples |\n|---|---|")
    for name, share in shares.items():
        print(f"| {name} | {share:.1f} % |")
    in_linear = done["cpu_seconds"] * shares["linear layers"] / 100
    rate = tokens * OPERATIONS / in_linear
    cores = os.cpu_count()
    print(
        f"\nLinear layers: {rate / 1e9:.0f} GF/s in a core-second, of {peak / cores / 1e9:.0f} at "
        f"the peak: {rate * cores / peak:.0%}."
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ches", required=True)
    parser.add_argument("--matmul-peak", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="folder of preference data")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--conversations", type=int, default=12)
    args = parser.parse_args()

    if importlib.util.find_spec("pyarrow") is None:
        sys.exit("The benchmark needs pyarrow: pip install pyarrow")
    import pyarrow.parquet

    files = {name: f"{args.data}/{name}.parquet" for name in ("hh_raw", "conversational")}
    for file in files.values():
        if not pathlib.Path(file).is_file():
            sys.exit(f"There is no {file}; name a folder that has it by DATA=<folder>.")

    needed = ("torch", "transformers", "gguf", "tokenizers")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    others = {}
    if missing:
        print(f"Transformers is left out: {', '.join(missing)} not installed (pip install).")
    else:
        others = {
            "transformers, the paper's way": Transformers(args, "paper"),
            "transformers at its best, f32": Transformers(args, "f32"),
            "transformers at its best, bf16": Transformers(args, "bf16"),
        }
    ours = float(subprocess.run([args.matmul_peak], capture_output=True, check=True).stdout)
    peaks = {"f32": ours}
    print(f"Matmul peak: f32 {ours / 1e9:.0f} GF/s (gemm)", end="")
    if others:
        _, f32, bf16 = (other.ask(peak=True)["operations"] for other in others.values())
        print(f", {f32 / 1e9:.0f} (torch); bf16 {bf16 / 1e9:.0f} (torch)", end="")
        peaks = {"f32": max(ours, f32), "bf16": bf16}
    print(".")

    with tempfile.TemporaryDirectory() as folder:
        raw = Ches(args, {"prompt_format": "raw", "max_length": 512})
        table = pyarrow.parquet.read_table(files["hh_raw"], columns=["chosen", "rejected"])
        rows = [split(row["chosen"], row["rejected"]) for row in table.to_pylist()]
        title = "Transcripts, raw, `max_length` 512"
        compare(args, title, raw, files["hh_raw"], "chosen, rejected", rows, 512, others, peaks)
        predictions(args, raw, files["hh_raw"], "chosen, rejected")
        tokens = sum(raw.tokens(files["hh_raw"], "chosen, rejected"))
        for dtype, peak in peaks.items():
            profile(raw, files["hh_raw"], "ches(chosen, rejected)", tokens, peak, dtype)

        chat = Ches(args, {"prompt_format": "chat", "max_length": 2048})
        columns = ["prompt", "chosen", "rejected"]
        table = pyarrow.parquet.read_table(files["conversational"], columns=columns)
        conversations = table.slice(0, args.conversations)
        data = f"{folder}/conversations.parquet"
        pyarrow.parquet.write_table(conversations, data)
        rows = conversations.to_pylist()
        if others:
            rows = next(iter(others.values())).ask(render=rows)["rows"]
        title = "Conversations, chat, `max_length` 2048"
        compare(args, title, chat, data, ", ".join(columns), rows, 2048, others, peaks)

        table = pyarrow.parquet.read_table(files["hh_raw"], columns=["chosen", "rejected"])
        grow(args, raw, folder, table, pyarrow)


if __name__ == "__main__":
    main()
