"""The cost sheet, against figures worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.bench.costs import as_markdown, command
from pipeline.errors import InputError

#: Half the pixels of a 340x256 frame.
MEASURED = {
    "ways": {
        "jpeg every 4": {"frames_per_core_second": 4000.0},
        "jpeg every 1": {"frames_per_core_second": 1000.0},
    },
    "clips": {"pixels_per_frame": 340 * 256 // 2},
    "jpeg_bytes_per_pixel": 0.25,
}


def test_the_sheet_is_what_a_hand_works_out(tmp_path: Path) -> None:
    rates = tmp_path / "rates.json"
    rates.write_text(json.dumps(MEASURED))
    row = next(row for row in command(rates) if row["data set"] == "K400")
    frames = 298_824 * 290  # planning/counts.py: one table for plans, scaling and costs
    # A frame of twice the pixels takes twice as long.
    assert row["core hours, jpeg step"] == pytest.approx(frames / 2000 / 3600, abs=0.01)
    assert row["core hours, jpeg all"] == pytest.approx(frames / 500 / 3600, abs=0.01)
    assert row["jpeg step GiB"] == pytest.approx(298_824 * 73 * 340 * 256 * 0.25 / 2**30, abs=0.1)
    assert row["raw all GiB"] == pytest.approx(290 / 73 * row["raw step GiB"], rel=1e-4)
    table = as_markdown(command(rates)).splitlines()
    assert (len(table), len({line.count("|") for line in table})) == (7, 1)


@pytest.mark.parametrize("rate", [0, -1.0, float("nan"), "fast", None])
def test_a_rate_of_nothing_is_refused(rate: object, tmp_path: Path) -> None:
    rates = tmp_path / "rates.json"
    rates.write_text(json.dumps(MEASURED | {"jpeg_bytes_per_pixel": rate}))
    with pytest.raises(InputError, match=r"jpeg_bytes_per_pixel = .*expected a number above 0. Cure: `everest bench"):
        command(rates)


@pytest.mark.parametrize("content", [None, "not JSON", "{}", '{"ways": 3}'])
def test_a_file_that_holds_no_rates_is_refused_with_the_cure(content: str | None, tmp_path: Path) -> None:
    rates = tmp_path / "rates.json"
    if content is not None:
        rates.write_text(content)
    with pytest.raises(InputError, match=r"rates.json .*Cure: `everest bench preprocess --json"):
        command(rates)
