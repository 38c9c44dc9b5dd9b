"""Secrets out of everything that is kept or printed: parameters, tags, messages, logs, tracebacks."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from types import TracebackType

from pipeline.system.text import visible

HIDDEN = "[hidden]"
_SECRET_NAME = re.compile(
    r"(pass(word|wd|phrase)?|secret|token|api_?key|access_?key|credential|private_?key|webhook|auth_?string)s?$", re.I
)
_URL_LOGIN = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@\"']+@", re.I)
_URL_QUERY = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?#\"'<>]+)\?[^\s\"'<>#]+", re.I)
_AWS_KEY = re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b")
_HEADER = re.compile(r"(authorization\s*[:=]\s*)(bearer|basic)?\s*\S+", re.I)
_ASSIGNMENT = re.compile(
    r"((?:password|passwd|secret|token|api_?key|access_?key)[\w-]*[\"']?\s*[:=]\s*[\"']?)[^\s\"',;&]+", re.I
)


def redact(text: str) -> str:
    """`text` without logins and query strings of addresses, keys, and values of secret environment variables."""
    for value in _secret_values():
        text = text.replace(value, HIDDEN)
    text = _URL_LOGIN.sub(rf"\1{HIDDEN}@", text)
    text = _URL_QUERY.sub(rf"\1?{HIDDEN}", text)
    text = _AWS_KEY.sub(HIDDEN, text)
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    return _ASSIGNMENT.sub(rf"\1{HIDDEN}", text)


def redact_value(name: str, value: object) -> object:
    """The value of one named setting: hidden whole where the name says it is a secret."""
    last = name.replace("-", "_").rsplit(".", 1)[-1]
    if isinstance(value, str):
        return HIDDEN if _SECRET_NAME.search(last) and value else redact(value)
    if isinstance(value, dict):
        return {key: redact_value(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_value(name, item) for item in value]
    return value


def _secret_values() -> list[str]:
    values = {v for k, v in os.environ.items() if _SECRET_NAME.search(k) and len(v) >= 6}
    # Of a login, `user:password`, what is to stay secret stands by itself elsewhere.
    values |= {p for v in values if len(p := v.partition(":")[2]) >= 6}
    return sorted(values, key=len, reverse=True)


def guard_output(prefix: str = "") -> None:
    """From now on this process logs and dies (an exception that nobody caught) without secrets on stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Discreet(f"{prefix}%(message)s"))
    handler.setLevel(logging.WARNING)
    logging.getLogger().addHandler(handler)
    sys.excepthook = _print_discreetly


class _Discreet(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible(redact(super().format(record)))


def _print_discreetly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(visible(redact("".join(traceback.format_exception(kind, error, trace)))))
