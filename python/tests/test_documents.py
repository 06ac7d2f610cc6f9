"""What the pages and the examples show, run."""

import re
import subprocess
import sys

import pytest
from conftest import PAIRS, ROOT


@pytest.fixture
def folder(tmp_path, demo_model):
    """A folder with what the pages call `model.gguf` and `pairs.parquet`."""
    (tmp_path / "model.gguf").symlink_to(demo_model)
    (tmp_path / "pairs.parquet").symlink_to(PAIRS)
    return tmp_path


def run(folder, *arguments):
    told = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    return told.stdout


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_page(folder, page):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    assert blocks
    for block in blocks:
        run(folder, "-c", block)


def test_prepare_dpo(folder):
    import datasets

    script = ROOT / "python/examples/prepare_dpo.py"
    told = run(folder, script, "pairs.parquet", "--model", "model.gguf", "--output", "kept")
    kept = datasets.load_from_disk(str(folder / "kept"))
    given = datasets.Dataset.from_parquet(str(PAIRS))
    assert f"kept {kept.num_rows} of {given.num_rows}" in told
    assert kept.num_rows == pytest.approx(0.9 * given.num_rows, abs=1)
    # What TRL's DPOTrainer takes: conversations in prompt, chosen and rejected, and nothing else.
    turn = datasets.List({"content": datasets.Value("string"), "role": datasets.Value("string")})
    assert kept.features == {"prompt": turn, "chosen": turn, "rejected": turn}
    # The pair on top of README's table is gone.
    rejected = [[turn["content"] for turn in turns] for turns in given["rejected"]]
    top = rejected[given["id"].index("code-01")]
    assert "s[:-1]" in str(top)
    assert top not in [[turn["content"] for turn in turns] for turns in kept["rejected"]]


def test_every_example_is_run():
    assert [path.name for path in (ROOT / "python/examples").iterdir()] == ["prepare_dpo.py"]
