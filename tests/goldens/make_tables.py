"""Makes tests/goldens/tables: the same rows as the tools that people use write them.

usage: make_tables.py FOLDER

Needs pandas, polars, duckdb, datasets, pyarrow and zstandard.
"""

import csv
import json
import pathlib
import shutil
import sys

import datasets
import duckdb
import pandas
import polars
import pyarrow
import pyarrow.dataset
import pyarrow.ipc
import pyarrow.parquet

TEXTS = [
    "plain",
    "two\nlines",
    "a\r\nb",
    'he said "yes"',
    "a, b; c",
    "a\tb",
    "back\\slash \\n",
    "emoji 🦀, 汉字, e\u0301",
    " leading space",
    "007",
    "line\u2028separator",
    "{braces} [brackets]",
]
ROWS = [
    {
        "id": number,
        "prompt": f"{number}: {text}",
        "chosen": text,
        "rejected": TEXTS[number - 1],
    }
    for number, text in enumerate(TEXTS)
]
TURNS = [{"role": "system", "content": "Be\nkind."}, {"role": "user", "content": 'Say "hi".'}]
CONVERSATIONS = [
    {
        "id": number,
        "prompt": TURNS[number % 2 :],
        "chosen": [{"role": "assistant", "content": text}],
        "rejected": [{"role": "assistant", "content": TEXTS[number - 1]}],
    }
    for number, text in enumerate(TEXTS[:8])
]


def main(folder: pathlib.Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    dump = lambda name, rows: (folder / name).write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    dump("rows.json", ROWS)
    dump("conversations.json", CONVERSATIONS)
    index = []

    def place(name: str, rows: str = "rows") -> pathlib.Path:
        index.append({"path": name, "rows": rows})
        return folder / name

    frame = pandas.DataFrame(ROWS)
    frame.to_csv(place("pandas.csv"), index=False)
    frame.to_csv(place("pandas-bom.csv"), index=False, encoding="utf-8-sig")
    frame.to_csv(place("pandas-crlf.csv"), index=False, lineterminator="\r\n")
    frame.to_csv(place("pandas.tsv"), index=False, sep="\t")
    frame.to_json(place("pandas-array.json"), orient="records")
    frame.to_json(place("pandas-indented.json"), orient="records", indent=2)
    frame.to_parquet(place("pandas.parquet"))
    frame.to_feather(place("pandas.feather"))
    for compression in ["gz", "bz2", "xz", "zst"]:
        frame.to_csv(place(f"pandas.csv.{compression}"), index=False)
        frame.to_csv(place(f"pandas.tsv.{compression}"), index=False, sep="\t")
        frame.to_json(place(f"pandas.jsonl.{compression}"), orient="records", lines=True)
        frame.to_json(place(f"pandas.json.{compression}"), orient="records")

    frame = polars.DataFrame(ROWS)
    frame.write_csv(place("polars.csv"))
    frame.write_ndjson(place("polars.ndjson"))
    frame.write_json(place("polars.json"))
    frame.write_parquet(place("polars.parquet"))
    frame.write_ipc(place("polars.arrow"))
    frame.write_ipc_stream(place("polars-stream.arrow"))

    data = pyarrow.Table.from_pylist(ROWS)
    duckdb.register("data", data)
    duckdb.register("conversations", pyarrow.Table.from_pylist(CONVERSATIONS))
    for name, options in [
        ("duckdb.parquet", ""),
        ("duckdb.csv", ""),
        ("duckdb.csv.gz", ""),
        ("duckdb.tsv", "(DELIMITER '\t')"),
        ("duckdb.jsonl", "(FORMAT json)"),
        ("duckdb.json", "(FORMAT json, ARRAY true)"),
        ("duckdb.json.zst", "(FORMAT json, COMPRESSION zstd)"),
    ]:
        duckdb.sql(f"COPY data TO '{place(name)}' {options}")
    duckdb.sql(
        "COPY (SELECT *, CASE WHEN id % 2 = 0 THEN 'en' ELSE 'de' END AS lang FROM data) "
        f"TO '{place('duckdb-hive')}' (FORMAT parquet, PARTITION_BY lang)"
    )

    dataset = datasets.Dataset.from_list(ROWS)
    dataset.to_json(place("datasets.jsonl"))
    dataset.to_csv(place("datasets.csv"))
    dataset.to_parquet(place("datasets.parquet"))
    dataset.save_to_disk(place("datasets-disk"))

    with open(place("python.jsonl"), "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in ROWS)
    with open(place("python-indented.json"), "w", encoding="utf-8") as file:
        json.dump(ROWS, file, indent=4, ensure_ascii=False)
    with open(place("python.csv"), "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ROWS[0].keys(), quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(ROWS)

    parquet = pyarrow.parquet.write_table
    halves = [data.slice(0, 5), data.slice(5)]
    # As Spark lays it out, with its checksums.
    for name, write, extension in [
        ("spark-parquet", parquet, "snappy.parquet"),
        ("spark-json", lines, "json"),
        ("spark-csv", lambda table, file: table.to_pandas().to_csv(file, index=False), "csv.gz"),
    ]:
        spark = place(name)
        spark.mkdir()
        for number, half in enumerate(halves):
            part = f"part-0000{number}-0a1b2c3d-c000.{extension}"
            write(half, spark / part)
            (spark / f".{part}.crc").write_bytes(b"crc\0")
        (spark / "_SUCCESS").touch()
        (spark / "._SUCCESS.crc").write_bytes(b"crc\0")
    clone = place("hub-clone")
    (clone / "data").mkdir(parents=True)
    (clone / "README.md").write_text("---\nlicense: mit\n---\n# Pairs\n")
    (clone / ".gitattributes").write_text("*.parquet -text\n")
    for number, half in enumerate(halves):
        parquet(half, clone / f"data/train-0000{number}-of-00002.parquet")
    (folder / "hub-clone/dataset_infos.json").write_text("{}")
    with_language = data.append_column("lang", pyarrow.array(["en", "de"] * 6))
    pyarrow.dataset.write_dataset(
        with_language, place("pyarrow-hive"), format="parquet", partitioning=["lang"], partitioning_flavor="hive"
    )

    # Conversations.
    frame = pandas.DataFrame(CONVERSATIONS)
    frame.to_json(place("pandas-conversations.jsonl", "conversations"), orient="records", lines=True)
    polars.DataFrame(CONVERSATIONS).write_ndjson(place("polars-conversations.ndjson", "conversations"))
    datasets.Dataset.from_list(CONVERSATIONS).to_json(place("datasets-conversations.jsonl", "conversations"))
    duckdb.sql(f"COPY conversations TO '{place('duckdb-conversations.json', 'conversations')}' (ARRAY true)")
    parquet(
        pyarrow.Table.from_pylist(CONVERSATIONS), place("pyarrow-conversations.parquet", "conversations")
    )
    dump("python-conversations.json", CONVERSATIONS)
    place("python-conversations.json", "conversations")
    (folder / "index.json").write_text(json.dumps(index, indent=1))


def lines(table: pyarrow.Table, file: pathlib.Path) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
