"""Drawn scenes have the statistics that their source names, and only motion tells a class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.data.sources.draw import MOTIONS
from pipeline.data.sources.generate import generate, plan
from pipeline.data.sources.scene import draw_motion, draw_state_change, falling_spectrum
from pipeline.data.video import open_video
from pipeline.errors import InputError
from pipeline.params import GeneratedSource, SceneParams, load_params


def scene(**changes: Any) -> SceneParams:
    return SceneParams(**({"mover_share": 0.15, "camera": 0.0, "noise": 0.0, "distractors": 0} | changes))


def source(**changes: Any) -> GeneratedSource:
    values = {
        "kind": "generated",
        "task": "motion",
        "seed": 3,
        "train": 8,
        "val": 1,
        "test": 1,
        "frames": 8,
        "size": 48,
    }
    return GeneratedSource.model_validate(values | {"scene": scene().model_dump()} | changes)


def moved(video: np.ndarray) -> float:
    """Share of the pixels that differ between the first and the last frame."""
    return float((np.abs(video[0].astype(int) - video[-1]).max(axis=-1) > 8).mean())


def test_a_background_has_a_falling_spectrum_and_tiles() -> None:
    picture = falling_spectrum(np.random.default_rng(0), 128, 1.5)[..., 0]
    assert picture.std() == pytest.approx(1.0, abs=0.25)
    frequency = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.rfftfreq(128)[None]) * 128
    amplitude = np.abs(np.fft.rfft2(picture))
    rings = [2, 4, 8, 16, 32]
    means = [amplitude[(frequency >= ring) & (frequency < 1.5 * ring)].mean() for ring in rings]
    assert np.polyfit(np.log(rings), np.log(means), 1)[0] == pytest.approx(-1.5, abs=0.15)
    assert abs(picture[:, 0] - picture[:, -1]).mean() < 2 * abs(np.diff(picture, axis=1)).mean()


@pytest.mark.parametrize("label", range(0, len(MOTIONS), 2))
def test_the_opposite_motion_is_the_same_video_backwards_where_camera_and_sensor_are_still(label: int) -> None:
    still = scene(distractors=2)
    forwards, backwards = (draw_motion(np.random.default_rng(5), k, 12, 48, still) for k in (label, label + 1))
    np.testing.assert_array_equal(forwards, backwards[::-1])


def test_a_mover_covers_about_the_share_that_is_named() -> None:
    """Two frames far apart differ where the mover was and where it is."""
    for share in (0.05, 0.2):
        videos = [draw_motion(np.random.default_rng(seed), 0, 6, 96, scene(mover_share=share)) for seed in range(16)]
        assert np.mean([moved(video) for video in videos]) / 2 == pytest.approx(share, rel=0.3)


def test_camera_and_noise_are_there_when_asked_for() -> None:
    def change(**changes: Any) -> float:
        return moved(draw_motion(np.random.default_rng(1), 4, 8, 64, scene(mover_share=0.05, **changes)))

    assert change() < 0.15
    assert change(noise=0.05) > 0.5
    assert change(camera=2.0) > 2 * change()


def test_halves_that_part_change_the_picture_and_those_that_do_not_leave_it() -> None:
    parted = [np.mean([moved(draw_state_change(np.random.default_rng(seed), label, 12, 64, scene(mover_share=0.3)))
                       for seed in range(12)]) for label in (0, 1)]  # fmt: skip
    assert parted[1] > 1.15 * parted[0]


def test_scenes_have_folders_of_their_own_and_are_real_videos(tmp_path: Any) -> None:
    other = source(scene=scene(noise=0.02).model_dump())
    assert (
        not {v.path for v in plan(source())}
        & {v.path for v in plan(other)}
        & {v.path for v in plan(source(scene=None))}
    )
    with open_video(tmp_path / generate(source(), tmp_path)[0].path) as reader:
        assert reader.num_frames == 8


def test_a_share_out_of_bounds_is_refused_with_its_key(root: Any) -> None:
    with pytest.raises(InputError, match=r"source\.scene\.mover_share = 0\.9"):
        load_params(root / "params.yaml", {"benchmarks.motion.data.source.scene.mover_share": 0.9})
