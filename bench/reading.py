"""Reading text files: rows per second and peak memory, beside DuckDB's reader in the same run.

Makes the same rows as JSON Lines, as one JSON array, and as CSV with line breaks in quotes, in a temporary folder,
and reads every value of two columns in processes of their own, in turns. Files are in the system's cache. DuckDB
comes into a Python environment of its own.
"""

import argparse
import csv
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "scripts"))
from environments import python_with  # noqa: E402

SIZES_MB = (50, 200)
QUERY = "SELECT count(*), sum(length(chosen)), sum(length(rejected)) FROM '{}'"
DUCKDB = """
import duckdb, sys
duckdb.sql("SET threads = %d")
print(duckdb.sql(sys.argv[1]).fetchall())
"""


def make(folder, megabytes):
    """Returns the number of rows."""
    rng = random.Random(1)
    words = [f"w{number}" for number in range(5000)]
    text = lambda count: " ".join(rng.choices(words, k=count)) + '\n"Quoted", and\nmore.'
    rows = size = 0
    with (
        open(folder / "rows.jsonl", "w") as lines,
        open(folder / "array.json", "w") as array,
        open(folder / "rows.csv", "w", newline="") as table,
    ):
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["id", "prompt", "chosen", "rejected"])
        array.write("[")
        while size < megabytes * 1e6:
            row = {"id": rows, "prompt": text(60), "chosen": text(150), "rejected": text(150)}
            line = json.dumps(row)
            lines.write(line + "\n")
            array.write(("," if rows else "") + line)
            writer.writerow(row.values())
            size += len(line)
            rows += 1
        array.write("]")
    return rows


def run(command):
    """Wall seconds, CPU seconds, peak bytes."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(command)} failed")
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ches", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    duckdb = python_with("bench-reading", ["duckdb==2.0.1"], "To do without: bench/reading.py is one of several")
    threads = len(os.sched_getaffinity(0))

    print("\nReading text files whole, in a process of its own with its start; DuckDB in turns with it.")
    print(f"{threads} threads each, median of {args.rounds} rounds.\n")
    print("| file | MB | rows/s | DuckDB, rows/s | CPU-seconds | DuckDB's / this (CPU) | peak, MB | DuckDB's peak, MB |")
    print("|---|---|---|---|---|---|---|---|")
    for megabytes in SIZES_MB:
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            rows = make(folder, megabytes)
            for name in ("rows.jsonl", "array.json", "rows.csv"):
                query = QUERY.format(folder / name)
                commands = [[args.ches, "-q", "-c", query], [str(duckdb), "-c", DUCKDB % threads, query]]
                found = [[], []]
                for _ in range(args.rounds):
                    for runs, command in zip(found, commands):
                        runs.append(run(command))
                (ours, our_cpu, our_peak), (theirs, their_cpu, their_peak) = [
                    [statistics.median(figures) for figures in zip(*runs)] for runs in found
                ]
                print(
                    f"| {name} | {(folder / name).stat().st_size / 1e6:.0f} | {rows / ours:,.0f} | {rows / theirs:,.0f} "
                    f"| {our_cpu:.2f} | {their_cpu / our_cpu:.2f} | {our_peak / 1e6:.0f} | {their_peak / 1e6:.0f} |"
                )


if __name__ == "__main__":
    main()
