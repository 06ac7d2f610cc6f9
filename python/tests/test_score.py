"""`datafusion_ches.score`: tables of every library, against the command."""

import multiprocessing
import subprocess
import sys
import threading
import time

import datafusion_ches
import datasets
import pandas
import polars
import pyarrow as pa
import pytest
from conftest import ALONE, PAIRS

SCORES = ["ches", "ches_normalized"]


def by_id(rows):
    return {row["id"]: {name: row[name] for name in SCORES} for row in rows}


def test_pyarrow(pairs, model, expected):
    scored = datafusion_ches.score(pairs, model=model, **ALONE)
    assert scored.column_names == [*pairs.column_names, *SCORES]
    assert scored["id"] == pairs["id"]
    assert by_id(scored.select(["id", *SCORES]).to_pylist()) == expected
    # What was given is not copied.
    buffers = [table["prompt"].chunk(0).flatten().buffers()[-1] for table in (pairs, scored)]
    assert buffers[0].address == buffers[1].address
    assert scored.field("ches").metadata[b"ches.version"].decode() == datafusion_ches.__version__


def test_other_arrow_data(pairs, model, expected):
    batch = pairs.to_batches()[0]
    scored = datafusion_ches.score(batch, model=model, **ALONE)
    assert isinstance(scored, pa.RecordBatch)
    assert by_id(scored.to_pylist()) == expected
    reader = pa.RecordBatchReader.from_batches(pairs.schema, pairs.to_batches(max_chunksize=7))
    scored = datafusion_ches.score(reader, model=model, **ALONE)
    assert by_id(scored.to_pylist()) == expected
    empty = datafusion_ches.score(pairs.slice(0, 0), model=model)
    assert (empty.num_rows, empty.column_names) == (0, [*pairs.column_names, *SCORES])
    assert empty.schema.field("ches").type == pa.float64()


def test_files(pairs, model, expected, tmp_path):
    lines = PAIRS.with_suffix(".jsonl")
    table = datafusion_ches.read(lines)
    assert isinstance(table, pa.Table)
    assert table.to_pylist() == pairs.to_pylist()
    assert datafusion_ches.read(str(PAIRS.parent / "*.parquet")).to_pylist() == pairs.to_pylist()
    assert by_id(datafusion_ches.score(str(lines), model=model, **ALONE).to_pylist()) == expected
    with pytest.raises(ValueError, match=r"nearest name there is 'preferences\.jsonl'"):
        datafusion_ches.read(PAIRS.with_suffix(".jsnl"))
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"a": 1}\n{"a": ')
    with pytest.raises((ValueError, RuntimeError), match="broken.jsonl: "):
        datafusion_ches.read(broken)


def test_pandas(pairs, model, expected):
    frame = pairs.to_pandas().set_index("id").sort_index(ascending=False)
    scored = datafusion_ches.score(frame, model=model, **ALONE)
    assert isinstance(scored, pandas.DataFrame)
    assert list(scored.index) == list(frame.index)
    assert by_id(scored.reset_index().to_dict("records")) == expected
    assert list(frame.columns) == ["category", "prompt", "chosen", "rejected"]


def test_polars(pairs, model, expected):
    frame = polars.from_arrow(pairs).sort("category", "id")
    scored = datafusion_ches.score(frame, model=model, **ALONE)
    assert isinstance(scored, polars.DataFrame)
    assert scored["id"].to_list() == frame["id"].to_list()
    assert by_id(scored.to_dicts()) == expected
    categories = frame.with_columns(polars.lit("Yes").cast(polars.Categorical).alias("chosen"))
    once = datafusion_ches.score(categories.head(3), "ches", model=model)
    assert once.columns == [*frame.columns, "ches"]
    assert once["ches"].is_not_null().all()


def test_datasets(pairs, model, expected):
    dataset = datasets.Dataset(pairs)
    scored = datafusion_ches.score(dataset, model=model, **ALONE)
    assert isinstance(scored, datasets.Dataset)
    assert scored.features["ches"] == datasets.Value("float64")
    assert by_id(scored) == expected
    # Rows that are reordered by indices.
    some = dataset.shuffle(seed=7).filter(lambda category: category != "fact", input_columns="category")
    scored = datafusion_ches.score(some, model=model, **ALONE)
    assert scored["id"] == some["id"]
    assert by_id(scored) == {id: expected[id] for id in some["id"]}
    splits = datasets.DatasetDict(train=dataset, test=some)
    scored = datafusion_ches.score(splits, "ches", model=model, **ALONE)
    assert isinstance(scored, datasets.DatasetDict)
    assert {name: split.num_rows for name, split in scored.items()} == {
        name: split.num_rows for name, split in splits.items()
    }


def test_every_score(pairs, model, command):
    names = [name for name in datafusion_ches.PAIR_SCORES if name != "ln_ches"]
    some = pairs.slice(0, 5)
    scored = datafusion_ches.score(some, names, model=model, **ALONE).select(["id", *names]).to_pylist()
    calls = ", ".join(f"{name}(prompt, chosen, rejected) AS {name}" for name in names)
    for row in scored:
        (said,) = command(model, f"SELECT id, {calls} FROM '{PAIRS}' WHERE id = '{row['id']}'")
        assert without_none(row) == said


def without_none(value):
    """The command's JSON leaves NULL fields out."""
    if isinstance(value, dict):
        return {key: without_none(inner) for key, inner in value.items() if inner is not None}
    return [without_none(inner) for inner in value] if isinstance(value, list) else value


def test_without_prompts(model, command):
    better = ["\n\nHuman: Hi\n\nAssistant: Hello", "\n\nHuman: Why?\n\nAssistant: So."]
    worse = ["\n\nHuman: Hi\n\nAssistant: Go", "\n\nHuman: Why?\n\nAssistant: No."]
    table = pa.table({"prompt": ["unread", None], "better": better, "worse": worse})
    columns = {"prompt": None, "chosen": "better", "rejected": "worse"}
    scored = datafusion_ches.score(table, "ches", **columns, model=model, **ALONE)
    calls = [f"ches('{pair[0]}', '{pair[1]}')" for pair in zip(better, worse)]
    (said,) = command(model, f"SELECT {calls[0]} AS a, {calls[1]} AS b")
    assert scored["ches"].to_pylist() == [said["a"], said["b"]]


def test_rows_that_cannot_be_scored(model):
    table = pa.table({"prompt": ["a", None, "a"], "chosen": ["b", "b", ""], "rejected": ["c", "c", "c"]})
    scored = datafusion_ches.score(table, model=model)
    assert [score is None for score in scored["ches"].to_pylist()] == [False, True, True]
    no_turns = [[{"role": "user", "content": "x"}], []]
    table = pa.table({"prompt": no_turns, "chosen": ["b", "b"], "rejected": ["c", "c"]})
    with pytest.raises(RuntimeError, match=r"row \d of this batch of \d"):
        datafusion_ches.score(table, model=model, prompt_format="chat", chat_template="{{ raise_exception('no') }}")
    scored = datafusion_ches.score(
        table, "preference_scores", model=model, on_error="null",
        prompt_format="chat", chat_template="{{ raise_exception('no') }}",
    )
    assert all(row["ches"] is None and row["error"] for row in scored["preference_scores"].to_pylist())


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({}, ValueError, "ches.model: not set"),
        ({"model": "/no/such"}, ValueError, "/no/such"),
        ({"device": "tpu"}, ValueError, "ches.device cannot be 'tpu'; accepted: auto, cpu"),
        ({"max_tokens": 3}, TypeError, "no setting 'max_tokens'; the settings are model, "),
        ({"scores": "chess"}, ValueError, "no score 'chess'; accepted: ches, "),
        ({"scores": ["ches", "ches"]}, ValueError, "names 'ches' twice"),
        ({"scores": []}, ValueError, "accepted: some of ches, "),
        ({"prompt": "question"}, ValueError, "no column 'question'; the columns are 'id', "),
        ({"chosen": "id", "prompt": "number"}, ValueError, "accepted: a string"),
    ],
)
def test_what_is_not_accepted(pairs, model, given, error, message):
    numbers = pa.array(range(pairs.num_rows))
    given = {"model": model, **given} if given else {}
    with pytest.raises(error) as raised:
        datafusion_ches.score(pairs.append_column("number", numbers), **given)
    assert message in str(raised.value)


def test_data_that_is_not_accepted(pairs, model):
    with pytest.raises(TypeError, match="cannot score builtins.list; accepted: a pyarrow Table"):
        datafusion_ches.score([1, 2], model=model)
    with pytest.raises(TypeError, match=r"LazyFrame; accepted: .*polars DataFrame"):
        datafusion_ches.score(polars.from_arrow(pairs).lazy(), model=model)
    with pytest.raises(ValueError, match="prompt=None for data without prompts"):
        datafusion_ches.score(pairs.drop_columns("prompt"), model=model)
    twice = datafusion_ches.score(pairs.slice(0, 1), model=model)
    with pytest.raises(ValueError, match="there is a column 'ches' already"):
        datafusion_ches.score(twice, model=model)
    doubled = pairs.append_column("chosen", pairs["chosen"])
    with pytest.raises(ValueError, match="two columns 'chosen'"):
        datafusion_ches.score(doubled, model=model)


def test_other_threads_run(pairs, model):
    many = pa.concat_tables([pairs] * 20)
    done = threading.Event()
    longest = 0.0

    def work():
        datafusion_ches.score(many, model=model, memo_bytes=0)
        done.set()

    thread = threading.Thread(target=work)
    began = last = time.monotonic()
    thread.start()
    while not done.is_set():
        time.sleep(0.001)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    thread.join()
    assert longest < (last - began) / 2


def ask_child(method, pairs, model):
    context = multiprocessing.get_context(method)
    with context.Pool(1) as pool:
        return pool.apply_async(score_some, (pairs.slice(0, 2), model)).get(timeout=60)


def score_some(some, model):
    try:
        return datafusion_ches.score(some, "ches", model=model, **ALONE)["ches"].to_pylist()
    except RuntimeError as error:
        return str(error)


def test_other_processes(pairs, model):
    here = score_some(pairs.slice(0, 2), model)
    assert ask_child("spawn", pairs, model) == here
    # A forked one has no threads, on which it would wait for ever.
    assert "accepted: multiprocessing's start method" in ask_child("fork", pairs, model)


def test_import_is_light():
    code = (
        "import time; began = time.perf_counter(); import datafusion_ches, sys; "
        "print(time.perf_counter() - began, 'pyarrow' in sys.modules)"
    )
    told = [subprocess.check_output([sys.executable, "-c", code], text=True).split() for _ in range(5)]
    assert min(float(seconds) for seconds, _ in told) < 0.3
    assert {other for _, other in told} == {"False"}


def test_names_for_the_template(model):
    table = pa.table({"prompt": ["Hello"], "chosen": ["b"], "rejected": ["c"]})
    template = "{% for m in messages %}{{ m.content }}{% if loud %}!{% endif %}<|im_end|>{% endfor %}"
    settings = {"model": model, "prompt_format": "chat", "chat_template": template}
    plain, loud, text = (
        datafusion_ches.score(table, "preference_scores", **settings, chat_template_kwargs=kwargs)
        for kwargs in ({}, {"loud": True}, '{"loud": true}')
    )
    tokens = [[row["prompt_tokens"] for row in of["preference_scores"].to_pylist()] for of in (plain, loud, text)]
    assert tokens[1] == tokens[2] == [count + 1 for count in tokens[0]]


def test_settings_are_those_of_sql():
    from datafusion_ches import _native, _settings

    with pytest.raises(ValueError) as raised:
        _native.functions([("nothing", "")])
    settings = str(raised.value).partition("the settings are ")[2]
    assert settings.split(", ") == list(_settings.KEYS)
