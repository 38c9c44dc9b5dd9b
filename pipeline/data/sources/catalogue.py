"""What the five publishers offer, and where: addresses, checksums and the traps of each set."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.data.sources.part import Address


@dataclass(frozen=True)
class Item:
    """One thing to fetch.

    Attributes:
        key: its path on a mirror, and the name under which it is fetched.
        addresses: the publisher's own.
        into: folder below the raw folder that it is unpacked to; None for a file that is kept as it is, under
            `place`.
        place: path below the raw folder of a file that is not unpacked.
        bytes: where they are known.
        alternatives: other keys that hold the same content in another form, tried after this one.
    """

    key: str
    addresses: tuple[Address, ...] = ()
    into: str | None = None
    place: str | None = None
    bytes: int | None = None
    alternatives: tuple[Item, ...] = ()


_UCF = "https://www.crcv.ucf.edu"
_HMDB = "http://serre-lab.clps.brown.edu/wp-content/uploads/2013/10"
_K400 = "https://s3.amazonaws.com/kinetics/400"

UCF101 = (
    Item(
        key="UCF101TrainTestSplits-RecognitionTask.zip",
        addresses=(
            Address(
                f"{_UCF}/wp-content/uploads/2019/03/UCF101TrainTestSplits-RecognitionTask.zip",
                sha256="5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
            ),
        ),
        into="annotations/ucf101",
        bytes=113_943,
    ),
    Item(
        key="UCF101_videos.zip",
        addresses=(
            Address(
                "https://storage.googleapis.com/thumos14_files/UCF101_videos.zip",
                sha256="dabf56f573cd19c79e096563529fec8126a2a34e18e10c72eb621dd687532b0d",
            ),
        ),
        into="videos/ucf101",
        bytes=6_960_400_115,
        alternatives=(
            Item(key="UCF101.rar", addresses=(Address(f"{_UCF}/datasets/human-actions/ucf101/UCF101.rar"),)),
        ),
    ),
)

HMDB51 = (
    Item(
        key="test_train_splits.rar",
        addresses=(Address(f"{_HMDB}/test_train_splits.rar", md5="15e67781e70dcfbdce2d7dbb9b3344b5"),),
        into="annotations/hmdb51",
    ),
    Item(
        key="hmdb51_org.rar",
        addresses=(Address(f"{_HMDB}/hmdb51_org.rar"),),
        into="videos/hmdb51",
    ),
)

#: Lists of the archives of each split, one address a line.
K400_LISTS = {
    split: Item(
        key=f"400/{split}/k400_{split}_path.txt",
        addresses=(Address(f"{_K400}/{split}/k400_{split}_path.txt"),),
        place=f"annotations/k400_{split}_path.txt",
    )
    for split in ("train", "val", "test")
}
K400 = (
    *(
        Item(
            key=f"400/annotations/{split}.csv",
            addresses=(Address(f"{_K400}/annotations/{split}.csv"),),
            place=f"annotations/k400/{split}.csv",
        )
        for split in ("train", "val", "test")
    ),
    *K400_LISTS.values(),
    Item(
        key="400/replacement_for_corrupted_k400.tgz",
        addresses=(Address(f"{_K400}/replacement_for_corrupted_k400.tgz"),),
        into="videos/k400_replacement",
    ),
)
#: What precedes an archive's key in the addresses of the lists.
K400_BASE = "/kinetics/"

SSV2_WHERE = "https://www.qualcomm.com/developer/software/something-something-v-2-dataset (free login)"
SSV2_PART = r"20bn-something-something-v2-(\d\d)(\.zip)?"
#: Older names first; the newer ones come in an archive with a folder `labels`.
SSV2_LISTS = ("labels", "train", "validation", "test")

OSCC_WHERE = "https://ego4ddataset.com (licence; keys by mail, valid for 14 days)"
OSCC_BUCKET = "s3://ego4d-consortium-sharing/public/v2"
#: Of the videos' sets, the one that the annotations' frame numbers belong to.
OSCC_VIDEOS = "full_scale"
