"""Views, batches and ranks: what goes into the model, and that nothing depends on how it is shared out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.data.pixels.normalise import model_pixels
from pipeline.distributed.groups import Ranks
from pipeline.errors import EverestError
from pipeline.evaluation.inference import Answer, gather, infer, names_once
from pipeline.evaluation.metrics import average_views
from pipeline.evaluation.views import video_views

CPU = torch.device("cpu")


class MeanColour(nn.Module):
    """Logits [B, 3]: the mean of each colour channel."""

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return clip.mean(dim=(2, 3, 4))


def numbered(frames: int, height: int = 32, width: int = 48) -> np.ndarray:
    """A video whose frame t is filled with t, and whose column x is x in the blue channel."""
    video = np.zeros((frames, height, width, 3), np.uint8)
    video[..., 0] = np.arange(frames)[:, None, None]
    video[..., 2] = np.arange(width)[None, None, :]
    return video


def test_views_are_segments_times_crops_from_one_reading() -> None:
    video = numbered(20)
    asked: list[list[int]] = []

    def read(numbers: list[int]) -> np.ndarray:
        asked.append(list(numbers))
        return video[numbers]

    views = video_views(read, 20, frames=4, step=2, segments=3, crops=3)
    assert views.shape == (9, 4, 32, 32, 3)
    assert len(asked) == 1
    assert len(set(asked[0])) == len(asked[0])
    assert views[:, :, 0, 0, 0].tolist()[0] == [0, 2, 4, 6]
    assert views[:, :, 0, 0, 0].tolist()[8] == [13, 15, 17, 19]
    assert views[:3, 0, 0, 0, 2].tolist() == [0, 8, 16]


def videos(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 2, 4, 32, 32, 3), dtype=np.uint8)


def answers_of(count: int, batch: int, ranks: Ranks | None = None) -> dict[int, Answer]:
    data = videos(count)
    return infer(MeanColour(), lambda n: data[n], count, views=2, resolution=32, batch=batch, device=CPU, ranks=ranks)


def test_each_video_is_the_mean_softmax_of_its_own_views() -> None:
    data = videos(5)
    result = answers_of(5, batch=4)
    assert sorted(result) == [0, 1, 2, 3, 4]
    for number, answer in result.items():
        logits = MeanColour()(model_pixels(torch.from_numpy(data[number]), 32, CPU)).numpy()
        assert answer.probability == pytest.approx(average_views(logits), abs=1e-6)


def test_two_ranks_together_give_the_bits_of_one_process() -> None:
    alone = answers_of(11, batch=4)
    parts = [answers_of(11, batch=4, ranks=Ranks(rank, 2, rank, CPU)) for rank in range(2)]
    assert sorted([*parts[0], *parts[1]]) == list(range(11))
    together = parts[0] | parts[1]
    for number in range(11):
        assert np.array_equal(together[number].probability, alone[number].probability)


def test_a_video_that_cannot_be_read_is_answered_with_its_reason() -> None:
    data = videos(3)

    def read(number: int) -> np.ndarray:
        if number == 1:
            raise EverestError("truncated")
        return data[number]

    result = infer(MeanColour(), read, 3, views=2, resolution=32, batch=2, device=CPU)
    assert result[1] == Answer(None, "truncated")
    assert result[0].probability is not None
    assert result[2].probability is not None


def test_a_video_for_which_the_model_has_no_numbers_is_a_failed_one_and_no_hit() -> None:
    class Broken(MeanColour):
        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            logits = super().forward(clips)
            logits[-1, 0] = torch.nan
            return logits

    data = videos(2)
    result = infer(Broken(), lambda n: data[n], 2, views=2, resolution=32, batch=2, device=CPU)
    assert [result[n].reason for n in (0, 1)] == ["the model gives it logits that are no numbers"] * 2


def test_every_video_is_read_once_and_an_unreadable_first_one_changes_no_batch() -> None:
    data = videos(6)
    batches: dict[bool, list[int]] = {}
    for broken in (False, True):
        reads: list[int] = []
        batches[broken] = []

        class Counting(MeanColour):
            sizes = batches[broken]

            def forward(self, clip: torch.Tensor) -> torch.Tensor:
                self.sizes.append(len(clip))
                return super().forward(clip)

        def read(number: int, broken: bool = broken, reads: list[int] = reads) -> np.ndarray:
            reads.append(number)
            if broken and number == 0:
                raise EverestError("truncated")
            return data[number]

        answers = infer(Counting(), read, 6, views=2, resolution=32, batch=4, device=CPU)
        assert sorted(reads) == list(range(6))
        assert sum(answer.probability is not None for answer in answers.values()) == 6 - broken
    assert batches == {False: [4, 4, 4], True: [2, 4, 4]}


def test_gathering_finds_a_video_that_nobody_answered() -> None:
    class Fake(Ranks):
        def gather(self, value: object) -> list[object]:
            return [value]

        def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
            return tensor

    ranks = Fake(0, 2, 0, CPU)
    done = {0: Answer(np.array([0.5, 0.5], np.float32)), 1: Answer(None, "broken")}
    whole = gather(done, 2, 2, ranks)
    assert whole[0].probability is not None
    assert whole[0].probability.tolist() == [0.5, 0.5]
    assert whole[1].reason == "broken"
    with pytest.raises(EverestError, match="1 of 3 videos were not evaluated exactly once"):
        gather(done, 3, 2, ranks)


def test_equal_file_names_in_different_folders_are_different_videos_and_equal_ids_are_refused() -> None:
    names_once(["a/clip.mp4", "b/clip.mp4"])
    with pytest.raises(EverestError, match=r"'a/clip\.mp4'"):
        names_once(["a/clip.mp4", "b/clip.mp4", "a/clip.mp4"])
