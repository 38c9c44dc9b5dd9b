"""What MLflow loads to serve a registered model: the description `MLmodel` names this module."""

from __future__ import annotations

from typing import Any

from pipeline.errors import EverestError, InputError
from pipeline.serving.limits import ServingLimits
from pipeline.serving.service import Asked, Service
from pipeline.tracking.store.mlmodel import BASE64, VIDEO, bad_request, server_error


class ServedModel:
    """Answers what MLflow's server hands over: a table with the columns `video` and `base64`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def predict(self, data: Any, params: object = None) -> list[Any]:
        """For each row: predicted (class), probability, probabilities (by class); of several classes also labels.

        Args:
            data: a pandas table, or lists by the names of the columns.


        Raises:
            MlflowException: 400 with the reason for what was sent, 500 where the server failed.
        """
        try:
            answers = self._service.answer(asked_videos(data))
        except InputError as error:
            raise bad_request(str(error)) from None
        except EverestError as error:
            raise server_error(str(error)) from None
        return [
            {"predicted": one.predicted, "probability": one.probability, "probabilities": one.probabilities}
            | ({} if one.labels is None else {"labels": one.labels})
            for one in answers
        ]


def asked_videos(data: Any) -> list[Asked]:
    """The videos of a request.

    Raises:
        InputError: it has neither of the columns, or values that are no text.
    """
    columns = {name: list(data[name]) for name in (VIDEO, BASE64) if name in data}
    if not columns:
        raise InputError(
            f'the request names no video. Cure: send {{"dataframe_records": [{{"{VIDEO}": PATH}}]}}, or '
            f'"{BASE64}" with a file\'s content.'
        )
    rows = max(map(len, columns.values()))
    videos = []
    for row in range(rows):
        path, content = (_text(columns[name][row], row, name) if name in columns else None for name in (VIDEO, BASE64))
        videos.append(Asked(path, content))
    return videos


def _text(value: object, row: int, name: str) -> str | None:
    if value is None or value != value:  # pandas' NaN: no value
        return None
    if not isinstance(value, str):
        raise InputError(f"video {row}: {name} = {str(value)[:100]!r}, expected text.")
    return str(value)


def _load_pyfunc(path: str) -> ServedModel:
    """Called by MLflow with the model's folder."""
    return ServedModel(Service(path, ServingLimits.by_environment()))
