"""Prints the rows of Parquet files as CSV, sorted by their first column: of a directory, or of the
files that a manifest beside it names. Reads by pyarrow, from this machine or from S3.

    parquet_rows.py DIRECTORY [MANIFEST]
"""

import json
import os
import sys

import pyarrow.csv
import pyarrow.dataset
import pyarrow.fs


def main(directory, manifest=None):
    filesystem = pyarrow.fs.LocalFileSystem()
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if not directory.startswith("/"):
        filesystem = pyarrow.fs.S3FileSystem(endpoint_override=endpoint, scheme="http")
    source = directory
    if manifest:
        with filesystem.open_input_stream(manifest) as stream:
            said = json.load(stream)
        source = [f"{directory}/{file['path']}" for file in said["files"]]
        for file, path in zip(said["files"], source):
            assert filesystem.get_file_info(path).size == file["bytes"], path
    dataset = pyarrow.dataset.dataset(
        source, filesystem=filesystem, partitioning="hive", partition_base_dir=directory
    )
    table = dataset.to_table()
    if manifest:
        assert table.num_rows == said["rows"], said["rows"]
    table = table.select(sorted(table.column_names)).sort_by("id")
    pyarrow.csv.write_csv(table, sys.stdout.buffer)


main(*sys.argv[1:])
