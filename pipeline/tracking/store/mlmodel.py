"""What makes a registered model one that MLflow serves, and its error for a request that is refused.

The model's folder gets the description `MLmodel`, which names the module that loads it. No code and no pickle travels
with a model: this project has to be installed where it is served (`mlflow models serve --env-manager local`).
"""

from __future__ import annotations

import platform
from pathlib import Path

#: Has `_load_pyfunc(folder)`, as MLflow calls it.
LOADER = "pipeline.serving.pyfunc"
FILE = "MLmodel"
#: Columns of a request: one of them has a value in each row.
VIDEO, BASE64 = "video", "base64"


def write_description(folder: Path, run: str, model_id: str) -> Path:
    """Write the file `MLmodel` of a registered model into a folder."""
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    columns: list[ColSpec | TensorSpec] = [ColSpec("string", name, required=False) for name in (VIDEO, BASE64)]
    description = Model(run_id=run, model_id=model_id, signature=ModelSignature(inputs=Schema(columns)))
    description.add_flavor("python_function", loader_module=LOADER, python_version=platform.python_version())
    file = folder / FILE
    description.save(str(file))
    return file


def bad_request(reason: str) -> Exception:
    """The error that MLflow's server answers with 400 and the reason."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

    return MlflowException(reason, error_code=INVALID_PARAMETER_VALUE)


def server_error(reason: str) -> Exception:
    """The error that MLflow's server answers with 500 and the reason."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INTERNAL_ERROR

    return MlflowException(reason, error_code=INTERNAL_ERROR)
