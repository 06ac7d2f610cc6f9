"""Times `ches` beside transformers, the paper's way and at its best, in one run, in turns.

Rows are raw transcripts (columns chosen and rejected). The figures of `ches` are of the whole
process, start and loading included; those of transformers are of its scoring loop alone.
Needs pyarrow; without torch, transformers and gguf the second half is left out, which it says.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

MARK = "\n\nAssistant:"


def child_cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def split(chosen, rejected):
    shared = chosen[: len(os.path.commonprefix([chosen, rejected]))]
    end = shared.rindex(MARK) + len(MARK)
    return chosen[:end], chosen[end:], rejected[end:]


def run_ches(args, data):
    sql = f"SELECT ches(chosen, rejected) AS score FROM '{data}'"
    command = [
        args.ches, "--model", args.model, "-q", "--format", "nd-json", "-c", sql,
        "--set", "ches.prompt_format=raw",
        "--set", f"ches.max_length={args.max_length}",
        "--set", "datafusion.execution.target_partitions=1",
    ]  # fmt: skip
    began, cpu = time.perf_counter(), child_cpu_seconds()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": child_cpu_seconds() - cpu,
        "scores": [json.loads(line).get("score") for line in done.stdout.splitlines()],
    }


class Transformers:
    def __init__(self, args):
        script = pathlib.Path(__file__).parent / "with_transformers.py"
        self.process = subprocess.Popen(
            [sys.executable, script, args.model, str(os.cpu_count())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        json.loads(self.process.stdout.readline())

    def run(self, way, rows, max_length):
        job = {"way": way, "rows": rows, "max_length": max_length}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ches", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, help="first rows only")
    args = parser.parse_args()

    if not pathlib.Path(args.data).is_file():
        sys.exit(f"There is no {args.data}; name a file of raw transcripts by DATA=<its folder>.")
    if importlib.util.find_spec("pyarrow") is None:
        sys.exit("The benchmark needs pyarrow: pip install pyarrow")
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(args.data, columns=["chosen", "rejected"])
    table = table.slice(0, args.rows)
    rows = [split(row["chosen"], row["rejected"]) for row in table.to_pylist()]

    missing = [
        name
        for name in ("torch", "transformers", "gguf", "tokenizers")
        if importlib.util.find_spec(name) is None
    ]
    transformers = None
    if missing:
        print(f"Transformers is left out: {', '.join(missing)} not installed (pip install).")
    else:
        transformers = Transformers(args)

    ours, papers = "ches (f32)", "transformers, the paper's way"
    theirs = {
        papers: "paper",
        "transformers at its best, f32": "best f32",
        "transformers at its best, bf16": "best bf16",
    }
    runs = {ours: []}
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/rows.parquet"
        pyarrow.parquet.write_table(table, data)
        for _ in range(args.rounds):
            runs[ours].append(run_ches(args, data))
            for name, way in theirs.items() if transformers else ():
                run = transformers.run(way, rows, args.max_length)
                runs.setdefault(name, []).append(run)

    def median(name, figure):
        return statistics.median(run[figure] for run in runs[name])

    exact = runs[papers if transformers else ours][0]["scores"]

    def error(name):
        scores = zip(runs[name][0]["scores"], exact, strict=True)
        errors = [abs(a - b) / abs(b) for a, b in scores if a is not None]
        return statistics.median(errors)

    print(f"{len(rows)} pairs, max_length {args.max_length}, median of {args.rounds} rounds\n")
    print("| | pairs/s | CPU-seconds | ches needs of it (CPU) | median relative error |")
    print("|---|---|---|---|---|")
    for name in runs:
        cpu = median(name, "cpu_seconds")
        rate = len(rows) / median(name, "seconds")
        ratio = median(ours, "cpu_seconds") / cpu
        print(f"| {name} | {rate:.2f} | {cpu:.1f} | {ratio:.2f} | {error(name):.1e} |")


if __name__ == "__main__":
    main()
