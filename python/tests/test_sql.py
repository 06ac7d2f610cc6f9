"""`datafusion_ches.register`: the functions in sessions of the package `datafusion`."""

import logging
import signal
import subprocess
import sys
import time

import datafusion_ches
import pytest
from conftest import ALONE, PAIRS
from datafusion import SessionConfig, SessionContext

SCORE = "(prompt, chosen, rejected)"


@pytest.fixture
def ctx(model):
    ctx = SessionContext(SessionConfig().with_target_partitions(3))
    datafusion_ches.register(ctx, model=model, **ALONE)
    ctx.register_parquet("pairs", str(PAIRS))
    return ctx


def rows(ctx, sql):
    return ctx.sql(sql).to_arrow_table().to_pylist()


def test_scores_are_the_commands(ctx, expected):
    sql = f"SELECT id, ches{SCORE} AS ches, ln_ches{SCORE} AS ches_normalized FROM pairs"
    assert {row.pop("id"): row for row in rows(ctx, sql)} == expected


@pytest.mark.parametrize(
    "sql",
    [
        f"SELECT id FROM pairs WHERE ches_normalized{SCORE} > -0.1 ORDER BY ches{SCORE} DESC LIMIT 7",
        f"SELECT category, count(*) AS n, max(last_hidden_similarity{SCORE}) AS most FROM pairs "
        f"GROUP BY category HAVING min(ches{SCORE}) < 0 ORDER BY category",
        f"SELECT id, rank() OVER (PARTITION BY category ORDER BY ches{SCORE}) AS place FROM pairs ORDER BY id",
        f"SELECT id, preference_scores{SCORE}['chosen_logprob'] AS p, displacement{SCORE}['overlap'] AS o, "
        f"displacement_simulated{SCORE}['chosen_change'] AS c FROM pairs WHERE category = 'fact' ORDER BY id",
        f"SELECT id, normalized_edit_distance{SCORE} AS d, log_prob(prompt, chosen) AS p FROM pairs "
        "WHERE category = 'fact' ORDER BY id",
        "SELECT id, ches_from_embeddings(response_embedding(prompt, chosen), "
        "response_embedding(prompt, rejected)) AS s FROM pairs WHERE category = 'fact' ORDER BY id",
        "SELECT a.id, b.id AS other FROM pairs a JOIN pairs b ON a.category = b.category "
        "AND ches(a.prompt, a.chosen, b.rejected) > ches(b.prompt, b.chosen, a.rejected) "
        "WHERE a.category = 'fact' ORDER BY a.id, other",
        "SELECT ches('What?', 'This.', 'That.') AS s, ches('\n\nHuman: a\n\nAssistant: b', NULL) AS n",
    ],
)
def test_queries_answer_as_the_command(ctx, command, model, sql):
    said = command(model, sql.replace("pairs", f"'{PAIRS}'"))
    found = [{key: value for key, value in row.items() if value is not None} for row in rows(ctx, sql)]
    assert found == said
    assert found


def test_settings_and_errors(model):
    ctx = SessionContext()
    with pytest.raises(ValueError, match="ches.device cannot be 'tpu'; accepted: auto"):
        datafusion_ches.register(ctx, device="tpu")
    with pytest.raises(TypeError, match="no setting 'modle'; the settings are model"):
        datafusion_ches.register(ctx, modle=model)
    datafusion_ches.register(ctx)
    with pytest.raises(Exception, match="ches.model: not set"):
        rows(ctx, "SELECT ches('a', 'b', 'c')")
    with pytest.raises(Exception, match=r"argument 1 \(prompt\) has type Int64"):
        rows(ctx, "SELECT ches(1, 'b', 'c')")
    # Registered again, it has other settings.
    datafusion_ches.register(ctx, model=model, max_length=4)
    assert rows(ctx, "SELECT preference_scores('a b c', 'b b b b b', 'c')['truncated'] AS t") == [{"t": True}]
    datafusion_ches.register(ctx, model=str(model), max_length=None)
    assert rows(ctx, "SELECT preference_scores('a b c', 'b b b b b', 'c')['truncated'] AS t") == [{"t": False}]


def test_a_model_is_loaded_once(demo_model, pairs, caplog):
    caplog.set_level(logging.INFO, "datafusion_ches")

    def loaded():
        return [record for record in caplog.messages if record.startswith("opened ")]

    contexts = [SessionContext(), SessionContext()]
    for ctx in contexts:
        datafusion_ches.register(ctx, model=demo_model)
        assert rows(ctx, "SELECT ches('Is it?', 'Yes', 'No') AS s")[0]["s"]
    datafusion_ches.score(pairs.slice(0, 1), model=demo_model)
    assert len(loaded()) == 1
    # Nobody holds it any more.
    del ctx, contexts
    datafusion_ches.unload()
    datafusion_ches.score(pairs.slice(0, 1), model=demo_model)
    assert len(loaded()) == 2
    datafusion_ches.unload()


INTERRUPTED = """
import os, pathlib, sys, datafusion_ches, pyarrow as pa, pyarrow.parquet
from datafusion import SessionConfig, SessionContext

model, pairs, way = sys.argv[1:]
table = pa.parquet.read_table(pairs)
print("begins", flush=True)
try:
    if way == "score":
        datafusion_ches.score(pa.concat_tables([table] * 40), model=model, memo_bytes=0)
    else:
        ctx = SessionContext(SessionConfig().with_target_partitions(int(way)))
        datafusion_ches.register(ctx, model=model, memo_bytes=0)
        parts = [pa.concat_tables([table] * 10).to_batches()[0]] * 4
        ctx.register_record_batches("pairs", [[part] for part in parts])
        ctx.sql("SELECT ches(prompt, chosen, rejected) AS s FROM pairs ORDER BY s").collect()
except Exception:
    pass
print("ended")
"""


@pytest.mark.parametrize("way", ["score", "1", "4"])
def test_ctrl_c(demo_model, way):
    command = [sys.executable, "-c", INTERRUPTED, demo_model, PAIRS, way]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begins\n"
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    # What was asked for takes many minutes.
    out, error = process.communicate(timeout=60)
    assert out == ""
    assert error.splitlines()[-1] == "KeyboardInterrupt"
