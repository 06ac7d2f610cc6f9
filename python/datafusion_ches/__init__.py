"""CHES scores and likelihood-displacement signals for preference data.

Training by Direct Preference Optimization often lowers the likelihood of the chosen responses
themselves, because of pairs whose hidden embeddings are alike (Razin et al. 2024, arXiv 2410.08847).
This module scores pairs, in SQL or in a table, so that those with the highest scores can be dropped:

>>> import datafusion_ches
>>> from datafusion import SessionContext
>>> ctx = SessionContext()
>>> datafusion_ches.register(ctx, model="model.gguf")  # doctest: +SKIP
>>> ctx.sql("SELECT id, ches_normalized(prompt, chosen, rejected) FROM 'pairs.parquet'")  # doctest: +SKIP

>>> scored = datafusion_ches.score(table, model="model.gguf")  # doctest: +SKIP

Warnings go to the logger ``datafusion_ches``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from . import _native
from ._native import __version__

if TYPE_CHECKING:
    import pyarrow
    from datafusion import SessionContext
    from typing_extensions import Unpack

    from ._settings import Settings

__all__ = ["PAIR_SCORES", "__version__", "read", "register", "score", "unload"]

PAIR_SCORES: tuple[str, ...] = tuple(_native.PAIR_SCORES)
"""What :func:`score` gives: the SQL functions of a pair."""

Data = TypeVar("Data")


def register(ctx: SessionContext, **settings: Unpack[Settings]) -> None:
    """Adds the SQL functions to a session of the package ``datafusion``.

    ``ches``, ``ches_normalized``, ``last_hidden_similarity``, ``normalized_edit_distance``,
    ``preference_scores``, ``preference_tokens``, ``displacement``, ``displacement_simulated``, ``log_prob``,
    ``response_embedding``, ``ches_from_embeddings`` and ``ches_normalized_from_embeddings``, as the
    project's documentation describes them.

    A model is loaded when it is first needed, and once in a process: sessions that name the same one
    share it. Each function computes what it is shown, batch by batch, so that a filter that reads no
    score is best put in a subquery below. ``preference_scores`` gives several scores at once.

    Args:
        ctx: The session.
        **settings: ``model`` is a .gguf file, a directory in Hugging Face layout or a URL (``hf://``,
            ``s3://``, ``gs://``, ``az://``, ``https://``); the others are the settings ``ches.*`` of the
            project's documentation, such as ``device``, ``max_length``, ``on_error`` or ``cache``. A session is
            registered again to change them.

    Raises:
        TypeError: There is no such setting.
        ValueError: A setting does not accept its value.
    """
    from datafusion import udf

    for function in _native.functions(_given(settings)):
        ctx.register_udf(udf(function))


def score(
    data: Data,
    scores: str | Sequence[str] = ("ches", "ches_normalized"),
    *,
    prompt: str | None = "prompt",
    chosen: str = "chosen",
    rejected: str = "rejected",
    **settings: Unpack[Settings],
) -> Data:
    """The same rows in the same order, with a column for each score.

    Texts are read where they are, over the Arrow C interface, and one pass of the model gives all
    scores. Other threads run meanwhile, and Ctrl-C stops it.

    Args:
        data: A path or a URL, as for :func:`read`; a pyarrow ``Table``, ``RecordBatch`` or ``RecordBatchReader``, a pandas or polars
            ``DataFrame``, a ``Dataset`` or ``DatasetDict`` of ``datasets``, or whatever else gives its
            rows by ``__arrow_c_stream__``. Strings, or conversations of messages with ``role`` and
            ``content``.
        scores: Names among :data:`PAIR_SCORES`.
        prompt: The column of prompts. None: there is none, and prompts are what the two responses
            begin with alike, as in HH-RLHF.
        chosen: The column of preferred responses.
        rejected: The column of dispreferred responses.
        **settings: As for :func:`register`. With ``on_error="null"``, rows that cannot be scored have
            no scores, and the field ``error`` of ``preference_scores`` says why.

    Returns:
        What was given, with the columns added: a frame a frame, a dataset a dataset. A pyarrow
        ``Table`` for whatever has no type of its own here.

    Raises:
        TypeError: The data is of another type, or there is no such setting.
        ValueError: A column is missing or of a type that is no text, or a setting does not accept its
            value.
        RuntimeError: A row cannot be scored, or the model cannot be used.
    """
    from . import _tables

    if isinstance(data, str | os.PathLike):
        table = read(data)
        return cast(
            Data,
            score(table, scores, prompt=prompt, chosen=chosen, rejected=rejected, **settings),
        )
    names = [scores] if isinstance(scores, str) else list(scores)
    if not names:
        raise ValueError(f"scores is empty; accepted: some of {', '.join(PAIR_SCORES)}")
    columns = [name for name in (prompt, chosen, rejected) if name is not None]
    given = _given(settings)

    def score_stream(stream: Any) -> Any:
        return _native.score_stream(stream, columns, names, given)

    return cast(Data, _tables.with_columns(data, columns, names, score_stream))


def read(place: str | os.PathLike[str]) -> pyarrow.Table:
    """The rows of a file, of the files of a folder or a pattern, or of a data set of the Hub.

    Parquet, Arrow, CSV, TSV, JSON and JSON Lines, compressed or not, by path or URL (``s3://``, ``gs://``,
    ``az://``, ``https://``, ``hf://datasets/org/name/data/*.parquet``), as the command ``ches`` reads them.

    Raises:
        ValueError: Nothing that can be read is there; the message tells what is.
        RuntimeError: It could not be read to its end.
    """
    import pyarrow

    from . import _tables

    return pyarrow.table(_tables.Stream(_native.read_stream(os.fspath(place))))


def unload() -> None:
    """Releases the model that :func:`score` keeps from call to call, as before training with what was
    scored. Sessions keep theirs as long as they live."""
    _native.unload()


def _given(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Settings as SQL would give them; those that are None are left as they are."""
    from ._settings import KEYS

    for key in settings:
        if key not in KEYS:
            raise TypeError(f"there is no setting {key!r}; the settings are {', '.join(KEYS)}")
    return [(key, _text(value)) for key, value in settings.items() if value is not None]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return json.dumps(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
