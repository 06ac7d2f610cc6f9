"""What the tests score, and what they compare with: the command `ches`."""

import json
import os
import pathlib
import subprocess

import pyarrow.parquet
import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
PAIRS = ROOT / "examples/data/preferences.parquet"

# Each row is computed alone, so that its score depends on nothing but itself.
ALONE = {"batch_tokens": 1}


@pytest.fixture(scope="session")
def model():
    """A model of a few thousand weights, without a chat template."""
    return ROOT / "tests/goldens/gguf/llama.gguf"


@pytest.fixture(scope="session")
def demo_model():
    return pathlib.Path(os.environ["CHES_TEST_MODEL"])


@pytest.fixture(scope="session")
def pairs():
    """The example data: conversations."""
    return pyarrow.parquet.read_table(PAIRS)


@pytest.fixture(scope="session")
def command():
    """Runs SQL in the command, with each row computed alone: rows as dictionaries."""

    def run(model, sql):
        arguments = ["--model", model, "--set", "ches.batch_tokens=1", "-q", "--format", "json"]
        ches = os.environ.get("CHES_TEST_COMMAND", ROOT / "target/debug/ches")
        told = subprocess.run([ches, *arguments, "-c", sql], capture_output=True, text=True)
        assert told.returncode == 0, told.stderr
        return json.loads(told.stdout)

    return run


@pytest.fixture(scope="session")
def expected(command, model):
    """What the command says of every pair of the example data, by id."""
    score = "(prompt, chosen, rejected)"
    sql = f"SELECT id, ches{score} AS ches, ches_normalized{score} AS ches_normalized FROM '{PAIRS}'"
    rows = {row.pop("id"): row for row in command(model, sql)}
    assert len(rows) > 80
    return rows
