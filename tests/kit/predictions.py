"""Predictions as the command line prints them."""

from __future__ import annotations

from typing import Any

from pipeline.inference.predict import predict


def command(*arguments: Any, **options: Any) -> dict[str, Any]:
    """As `predict`, in plain values."""
    return predict(*arguments, **options).as_dict()
