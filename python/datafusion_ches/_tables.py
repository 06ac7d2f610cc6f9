"""Tables of other libraries: their columns as an Arrow stream, and scores as columns of theirs.

None of them is imported unless a table of its own is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

ScoreStream = Callable[[Any], Any]


class Stream:
    """An Arrow stream, for whoever imports one."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._capsule


def with_columns(
    data: Any, columns: Sequence[str], scores: Sequence[str], score_stream: ScoreStream
) -> Any:
    """The data with the columns ``scores``, which ``score_stream`` gives for a stream of ``columns``.

    Raises:
        TypeError: Nothing here takes such data.
        ValueError: It lacks a column, or has one of the names already.
    """
    for cls in type(data).__mro__:
        append = _APPENDERS.get(f"{cls.__module__.partition('.')[0]}.{cls.__name__}")
        if append is not None:
            return append(data, columns, scores, score_stream)
    if hasattr(data, "__arrow_c_stream__"):
        import pyarrow

        return _pyarrow(pyarrow.table(data), columns, scores, score_stream)
    raise TypeError(
        f"cannot score {type(data).__module__}.{type(data).__qualname__}; accepted: a pyarrow Table, "
        "RecordBatch or RecordBatchReader, a pandas or polars DataFrame, a datasets Dataset or "
        "DatasetDict, or an object with __arrow_c_stream__"
    )


def _check(names: Sequence[Any], columns: Sequence[str], scores: Sequence[str]) -> None:
    for name in columns:
        if name not in names:
            there = ", ".join(map(repr, names))
            hint = "; prompt=None for data without prompts" if name == "prompt" else ""
            raise ValueError(f"there is no column {name!r}; the columns are {there}{hint}")
        if names.count(name) > 1:
            raise ValueError(f"there are two columns {name!r}; accepted: one of that name")
    for name in scores:
        if name in names:
            raise ValueError(f"there is a column {name!r} already; accepted: data without it")
        if scores.count(name) > 1:
            raise ValueError(f"scores names {name!r} twice; accepted: each once")


def _pyarrow(data: Any, columns: Sequence[str], scores: Sequence[str], score: ScoreStream) -> Any:
    import pyarrow

    _check(data.column_names, columns, scores)
    scored = pyarrow.table(Stream(score(data.select(columns).__arrow_c_stream__())))
    for name in scores:
        data = data.append_column(scored.schema.field(name), scored.column(name))
    return data


def _record_batch(data: Any, columns: Sequence[str], scores: Sequence[str], score: ScoreStream) -> Any:
    import pyarrow

    scored = _pyarrow(pyarrow.Table.from_batches([data]), columns, scores, score)
    batches = scored.combine_chunks().to_batches()
    return batches[0] if batches else pyarrow.RecordBatch.from_pylist([], schema=scored.schema)


def _pandas(data: Any, columns: Sequence[str], scores: Sequence[str], score: ScoreStream) -> Any:
    import pyarrow

    _check(list(data.columns), columns, scores)
    texts = pyarrow.Table.from_pandas(data[list(columns)], preserve_index=False)
    scored = pyarrow.table(Stream(score(texts.__arrow_c_stream__()))).to_pandas()
    return data.assign(**{name: scored[name].set_axis(data.index) for name in scores})


def _polars(data: Any, columns: Sequence[str], scores: Sequence[str], score: ScoreStream) -> Any:
    import polars

    _check(data.columns, columns, scores)
    scored = polars.DataFrame(Stream(score(data.select(columns).__arrow_c_stream__())))
    return data.hstack(scored.select(scores))


def _dataset(data: Any, columns: Sequence[str], scores: Sequence[str], score: ScoreStream) -> Any:
    import pyarrow

    _check(data.column_names, columns, scores)
    texts = data.select_columns(list(columns)).with_format("arrow")[:]
    scored = pyarrow.table(Stream(score(texts.__arrow_c_stream__())))
    for name in scores:
        data = data.add_column(name, scored.column(name))
    return data


def _dataset_dict(data: Any, columns: Sequence[str], scores: Sequence[str], score: ScoreStream) -> Any:
    splits = {name: _dataset(split, columns, scores, score) for name, split in data.items()}
    return type(data)(splits)


# By package and class, so that none need be imported to tell.
_APPENDERS: dict[str, Callable[[Any, Sequence[str], Sequence[str], ScoreStream], Any]] = {
    "datasets.Dataset": _dataset,
    "datasets.DatasetDict": _dataset_dict,
    "pandas.DataFrame": _pandas,
    "polars.DataFrame": _polars,
    "pyarrow.RecordBatch": _record_batch,
    "pyarrow.Table": _pyarrow,
}
