"""A prepared page of MLflow: experiments as points, accuracy against what a clip of pre-training costs.

MLflow keeps a shared view as a tag of the experiment, in the form of its own page's state (3.17); where a later
version does not understand it, its page says so and shows the usual view.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from pipeline.tracking import names

#: The name of the view in the page's address.
VIEW = "accuracy-against-cost"
TAG = f"mlflow.sharedViewState.{VIEW}"
#: Costs on the horizontal axis: pre-training's, as tracked on the run of an experiment.
COSTS = tuple(names.of_experiment("pretrain", None, {names.GMACS_PER_CLIP: 0.0, names.WALL_SECONDS: 0.0}))


def accuracy_against_cost(benchmarks: Sequence[str]) -> dict[str, str]:
    """The tag that holds the view: two scatter charts for each benchmark, one point for each experiment."""
    section = "everest-accuracy"
    charts = [
        {
            "uuid": f"everest-{benchmark}-{number}",
            "type": "SCATTER",
            "metricSectionId": section,
            "runsCountToCompare": 100,
            "deleted": False,
            "isGenerated": False,
            "xaxis": {"key": cost, "type": "METRIC"},
            "yaxis": {"key": f"{benchmark}/{names.EVAL_TOP1}", "type": "METRIC"},
        }
        for benchmark in benchmarks
        for number, cost in enumerate(COSTS)
    ]
    state = {
        "searchFilter": "tags.`everest.kind` = 'experiment'",
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": charts,
        "compareRunSections": [
            {
                "uuid": section,
                "name": "Accuracy against the cost of pre-training",
                "display": True,
                "columns": 2,
                "isReordered": False,
                "deleted": False,
                "isGenerated": False,
            }
        ],
        "isAccordionReordered": True,
    }
    return {TAG: json.dumps(state)}


def address(page: str, experiment: str) -> str:
    """Where a server at `page` shows the view of an experiment."""
    return f"{page.rstrip('/')}/#/experiments/{experiment}/runs?viewStateShareKey={VIEW}&compareRunsMode=CHART"
