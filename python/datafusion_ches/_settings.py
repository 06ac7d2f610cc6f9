"""The settings, as keyword arguments."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, TypedDict


class Settings(TypedDict, total=False):
    """The settings ``ches.*`` of the project's documentation; None is as if not given."""

    model: str | os.PathLike[str] | None
    chat_template: str | os.PathLike[str] | None
    chat_template_kwargs: Mapping[str, Any] | str | None
    tools_column: str | None
    chat_template_kwargs_column: str | None
    device: str | None
    dtype: Literal["auto", "f32", "bf16", "f16"] | None
    max_length: int | None
    prompt_format: Literal["auto", "chat", "raw"] | None
    batch_tokens: int | None
    on_error: Literal["fail", "null"] | None
    max_failed_fraction: float | None
    memo_bytes: int | None
    cache: str | os.PathLike[str] | None
    memory_limit: int | None
    top_tokens: int | None
    learning_rate: float | None


KEYS = tuple(Settings.__annotations__)
