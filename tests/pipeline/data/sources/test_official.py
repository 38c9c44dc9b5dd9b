"""Each benchmark's miniature goes from an address on loopback to a manifest."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import sample_videos
import yaml
from fault_server import Site, serve
from moto.server import ThreadedMotoServer
from rar_writer import STAND_IN, entries_of, install, rar5

from pipeline import layout
from pipeline.data import manifest
from pipeline.data.archives.rar import available_tools
from pipeline.data.sources import fetcher as fetching
from pipeline.data.sources.catalogue import Item
from pipeline.data.sources.part import Patience, RemoteFile
from pipeline.data.sources.transfer import Downloader
from pipeline.data.video import open_video, write_video
from pipeline.errors import EverestError, InputError
from pipeline.params import OfficialSource, Params, check_params
from pipeline.stages import download
from tests.ucf101_miniature import write_ucf101, zipped

QUICK = Patience(timeout_seconds=5, attempts=2, backoff_seconds=0.02)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("EVEREST_DATA", raising=False)
    # Tracking has tests of its own; here it would start a database for every miniature.
    monkeypatch.setattr(download, "stage_run", silent)
    monkeypatch.setattr(fetching, "Downloader", functools.partial(Downloader, patience=QUICK))
    monkeypatch.setattr(fetching.Fetcher, "remote", without_internet(fetching.Fetcher.remote))
    return folder


def without_internet(remote: Callable[..., RemoteFile]) -> Callable[..., RemoteFile]:
    """The publishers' own addresses lead nowhere in a test."""

    def local(fetcher: fetching.Fetcher, item: Item) -> RemoteFile:
        file = remote(fetcher, item)
        addresses = [
            replace(one, url="http://127.0.0.1:9/") if one.url.startswith("https://") else one for one in file.addresses
        ]
        return replace(file, addresses=tuple(addresses))

    return local


@contextlib.contextmanager
def silent(*_: Any, **__: Any) -> Iterator[Any]:
    class Run:
        def metrics(self, values: dict[str, float]) -> None:
            assert values["data/videos_ok"] <= values["data/videos_total"]

        def artifact(self, path: Path, folder: str) -> None:
            assert path.is_file()

    yield Run()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    folder = tmp_path / "mirror"
    folder.mkdir()
    with serve(folder) as running:
        yield running


@pytest.fixture(scope="session")
def clip() -> bytes:
    """A small real mp4 of 16 frames."""
    sink = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/tmp")
    path = sample_videos.write(
        sink / f"everest-test-{hashlib.sha256(str(sink).encode()).hexdigest()[:8]}.mp4", frames=16
    )
    content = path.read_bytes()
    path.unlink()
    return content


def unique(clip: bytes, number: int) -> bytes:
    """The same video with another hash: a `free` box at its end."""
    return clip + (12).to_bytes(4, "big") + b"free" + number.to_bytes(4, "big")


def params(root: Path, dataset: str, classes: int, source: dict[str, Any], split: int = 1) -> Params:
    raw = yaml.safe_load((root / "recipes" / "drawn.yaml").read_text())
    data = {"dataset": dataset, "split": split, "classes": classes, "frame_step": 1, "source": source}
    raw["benchmarks"]["mini"] = {"data": data, "finetune": {}, "evaluate": {}}
    return check_params(raw)


def official(site: Site, **more: Any) -> dict[str, Any]:
    site.write_sums()
    return {"kind": "official", "mirrors": [site.url], **more}


def put(site: Site, name: str, content: bytes) -> None:
    path = site.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def tarred(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return sink.getvalue()


def rows(benchmark: str = "mini") -> list[dict[str, Any]]:
    table = manifest.load(layout.manifest_dir(benchmark) / "manifest.parquet", status=None)
    result: list[dict[str, Any]] = table.to_pylist()
    return result


def make_ucf101(site: Site, clip: bytes) -> list[str]:
    names = sorted({f"Class{number:03d}" for number in range(100)} | {"HandstandPushups"})
    used = ("Class000", "Class001", "HandstandPushups")
    files = {name: name.replace("Handstand", "HandStand") for name in used}
    videos = [f"{name}/v_{files[name]}_g{group:02d}_c01.avi" for name in used for group in range(1, 5)]
    write_ucf101(site.folder, names, {video: unique(clip, number) for number, video in enumerate(videos)})
    return videos


def test_ucf101_from_address_to_manifest(site: Site, root: Path, clip: bytes) -> None:
    videos = make_ucf101(site, clip)
    metrics = download.run(params(root, "ucf101", 101, official(site), split=2), "mini")
    assert (metrics["videos_ok"], metrics["videos_total"]) == (12, 12)
    assert metrics["splits"] == {
        "test": {"videos_ok": 3, "videos_total": 3},
        "train": {"videos_ok": 9, "videos_total": 9},
    }
    result = {row["video_id"]: row for row in rows()}
    trap = result["v_HandStandPushups_g02_c01"]
    assert (trap["label_name"], trap["split"], trap["splits"]) == (
        "HandstandPushups",
        "test",
        "train,test,train",
    )
    assert all((layout.raw_dir("mini") / row["path"]).is_file() for row in result.values())
    assert len(result) == len(videos)
    classes = json.loads((layout.manifest_dir("mini") / "classes.json").read_text())
    assert classes["classes"][trap["label"]] == "HandstandPushups"
    assert any("a whole copy has 13320" in problem for problem in classes["problems"])


def test_nothing_is_fetched_or_decoded_again_for_another_split(site: Site, root: Path, clip: bytes) -> None:
    make_ucf101(site, clip)
    source = official(site)
    download.run(params(root, "ucf101", 101, source), "mini")
    first = (layout.manifest_dir("mini") / "manifest.parquet").read_bytes()
    gets = len(site.requests)
    download.run(params(root, "ucf101", 101, source, split=3), "mini")
    assert len(site.requests) == gets
    assert {row["split"] for row in rows() if "_g03_" in row["video_id"]} == {"test"}
    download.run(params(root, "ucf101", 101, source), "mini")
    assert (layout.manifest_dir("mini") / "manifest.parquet").read_bytes() == first


@pytest.mark.parametrize("page", [None, b"<!doctype html>\n<html>\n<p>caf\xe9</p>"])
def test_a_mirror_without_checksums_must_hold_the_publishers_bytes(
    site: Site, root: Path, clip: bytes, page: bytes | None
) -> None:
    make_ucf101(site, clip)
    source = official(site)
    (site.folder / "SHA256SUMS").unlink()
    if page is not None:
        (site.folder / "SHA256SUMS").write_bytes(page)
    with pytest.raises(EverestError, match="expected 5c0d1a53b8ed"):
        download.run(params(root, "ucf101", 101, source), "mini")
    assert not layout.manifest_dir("mini").exists()


def test_a_fetched_archive_is_removed_after_a_broken_off_unpacking_too_and_one_placed_by_hand_stays(
    site: Site, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(site, "x.tar.gz", tarred({"v/a.mp4": b"x"}))
    source = params(root, "ucf101", 101, official(site)).benchmark("mini").data.source
    assert isinstance(source, OfficialSource)
    raw, item = tmp_path / "raw", Item("x.tar.gz", into="videos/x")
    archive = raw / "downloads/x.tar.gz"

    def broken_off(*_: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "unpack", broken_off)
        with pytest.raises(KeyboardInterrupt):
            fetching.Fetcher(raw, source).bring([item])
    content = archive.read_bytes()
    fetching.Fetcher(raw, source).bring([item])
    assert ((raw / "videos/x/v/a.mp4").read_bytes(), archive.exists()) == (b"x", False)
    shutil.rmtree(raw / "videos")
    archive.write_bytes(content)
    fetching.Fetcher(raw, source).bring([item])
    assert ((raw / "videos/x/v/a.mp4").read_bytes(), archive.exists()) == (b"x", True)


def test_a_dry_run_tells_sizes_and_fetches_nothing(site: Site, root: Path, clip: bytes) -> None:
    make_ucf101(site, clip)
    planned = download.plan(params(root, "ucf101", 101, official(site)), "mini")
    assert planned["files_missing"] == 2
    assert planned["bytes_missing"] >= (site.folder / "UCF101_videos.zip").stat().st_size
    assert all(path != "/UCF101_videos.zip" for method, path, _ in site.requests if method == "GET")


def test_hmdb51_comes_out_of_rars_in_a_rar(
    site: Site, root: Path, clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not available_tools():
        install(tmp_path / "bin", {"unar": STAND_IN})
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def rar(files: dict[str, bytes]) -> bytes:
        return rar5(entries_of(files))

    classes = [f"class_{number:02d}" for number in range(51)]
    lists, inner = {}, {}
    for number, name in enumerate(classes):
        files = [f"{name} #{n}! (x)&[y];+~@.avi" for n in range(3)] if number < 3 else []
        for split in (1, 2, 3):
            lines = [f"{file} {(n + split) % 3} \n" for n, file in enumerate(files)]
            lists[f"testTrainMulti_7030_splits/{name}_test_split{split}.txt"] = "".join(lines).encode()
        if files:
            held = {f"{name}/{file}": unique(clip, 10 * number + n) for n, file in enumerate(files)}
            inner[f"{name}.rar"] = rar(held)
    put(site, "test_train_splits.rar", rar(lists))
    put(site, "hmdb51_org.rar", rar(inner))
    metrics = download.run(params(root, "hmdb51", 51, official(site)), "mini")
    assert (metrics["videos_ok"], metrics["videos_total"]) == (9, 9)
    assert {name: count["videos_ok"] for name, count in metrics["splits"].items()} == {
        "test": 3,
        "train": 3,
        "unused": 3,
    }
    assert {row["label_name"] for row in rows()} == set(classes[:3])


def make_k400(site: Site, clip: bytes, missing: int) -> list[str]:
    labels = [f"class {n} (it's)" if n % 2 else f"class, {n}" for n in range(400)]
    head = "label,youtube_id,time_start,time_end,split\n"
    names = [f"-{n:03d}_AbCdEf_{n:06d}_{n + 10:06d}.mp4" for n in range(400)]
    table = "".join(f'"{label}",-{n:03d}_AbCdEf,{n},{n + 10},train\n' for n, label in enumerate(labels))
    put(site, "400/annotations/train.csv", (head + table).encode())
    put(site, "400/annotations/val.csv", (head + f'"{labels[3]}",valvalvalva,1,11,val\n').encode())
    put(site, "400/annotations/test.csv", b"youtube_id,time_start,time_end,split\ntestestestt,2,12,test\n")
    base = "https://s3.amazonaws.com/kinetics/400"
    for split, parts in (("train", 2), ("val", 1), ("test", 1)):
        lines = [f"{base}/{split}/part_{number}.tar.gz\n" for number in range(parts)]
        put(site, f"400/{split}/k400_{split}_path.txt", "".join(lines).encode())
    held = {f"./{name}": unique(clip, n) for n, name in enumerate(names) if n >= missing}
    held[f"./{names[399]}"] = b"corrupt"
    first = dict(list(held.items())[:200])
    put(site, "400/train/part_0.tar.gz", tarred(first))
    put(site, "400/train/part_1.tar.gz", tarred({k: v for k, v in held.items() if k not in first}, "w"))  # a plain tar
    put(site, "400/val/part_0.tar.gz", tarred({"valvalvalva_000001_000011.mp4": unique(clip, 900)}))
    put(site, "400/test/part_0.tar.gz", tarred({"testestestt_000002_000012.mp4": unique(clip, 901)}))
    replaced = names[399][:11]
    held = {f"replacement_for_corrupted_k400/{replaced}.mp4": unique(clip, 999)}
    put(site, "400/replacement_for_corrupted_k400.tgz", tarred(held))
    return names


def test_kinetics_from_address_to_manifest(site: Site, root: Path, clip: bytes) -> None:
    names = make_k400(site, clip, missing=8)
    metrics = download.run(params(root, "k400", 400, official(site)), "mini")
    assert (metrics["videos_ok"], metrics["videos_total"]) == (394, 402)
    assert metrics["reasons"] == {"missing": 8}  # by design: within the share that the publisher's copy lacks
    result = {row["video_id"]: row for row in rows()}
    replaced = result[names[399].removesuffix(".mp4")]
    assert "replacement" in replaced["path"]
    assert replaced["status"] == "ok"
    assert result["testestestt_000002_000012"]["label"] == -1
    assert result[names[0].removesuffix(".mp4")]["reason"] == "missing"
    archives = layout.raw_dir("mini") / "downloads"
    assert not [path for path in archives.rglob("*") if path.is_file()]  # unpacked archives are removed


def test_a_dry_run_of_kinetics_says_that_more_follows_where_its_lists_are_not_here(
    site: Site, root: Path, clip: bytes
) -> None:
    make_k400(site, clip, missing=8)
    planned = download.plan(params(root, "k400", 400, official(site)), "mini")
    assert [file["name"] for file in planned["files"] if file["bytes"] is None] == [
        f"archives of {split}" for split in ("train", "val", "test")
    ]
    assert planned["sizes_unknown"] == 3


@pytest.mark.slow
def test_too_many_missing_files_stop_the_stage_with_a_list(site: Site, root: Path, clip: bytes) -> None:
    names = make_k400(site, clip, missing=30)
    with pytest.raises(EverestError, match="cannot be used") as caught:
        download.run(params(root, "k400", 400, official(site)), "mini")
    assert names[0] in str(caught.value)
    assert not (layout.manifest_dir("mini") / "manifest.parquet").exists()
    (listed,) = Path(".work/download/mini").rglob("quarantine.csv")
    assert len(listed.read_text().splitlines()) == 31


def ssv2_lists() -> dict[str, bytes]:
    labels = {f"Doing something {number:03d}": str(number) for number in range(174)}
    entries = [{"id": str(n), "template": f"Doing [something] {n:03d}"} for n in range(6)]
    lists = {"labels": labels, "train": entries[:4], "validation": entries[4:], "test": [{"id": "6"}]}
    return {f"something-something-v2-{name}.json": json.dumps(value).encode() for name, value in lists.items()}


def test_something_something_says_exactly_what_to_place(root: Path, clip: bytes) -> None:
    source = {"kind": "official"}
    with pytest.raises(InputError, match="24 files must be placed in data/raw/mini/downloads") as caught:
        download.run(params(root, "ssv2", 174, source), "mini")
    assert "20bn-something-something-v2-19" in str(caught.value)
    assert "something-something-v2-labels.json" in str(caught.value)
    downloads = layout.raw_dir("mini") / "downloads"
    for name, content in ssv2_lists().items():
        (downloads / name).write_bytes(content)
    videos = {f"20bn-something-something-v2/{n}.webm": unique(clip, n) for n in range(7)}
    whole = tarred(videos)
    third = len(whole) // 3 + 1
    for number in (0, 2):
        part = whole[number * third : (number + 1) * third]
        (downloads / f"20bn-something-something-v2-{number:02d}").write_bytes(part)
    with pytest.raises(InputError, match="1 files must be placed") as caught:
        download.run(params(root, "ssv2", 174, source), "mini")
    assert "20bn-something-something-v2-01" in str(caught.value)
    (downloads / "20bn-something-something-v2-01").write_bytes(whole[third : 2 * third])
    metrics = download.run(params(root, "ssv2", 174, source), "mini")
    assert (metrics["videos_ok"], metrics["videos_total"]) == (7, 7)
    assert [row["label"] for row in rows()] == [0, 1, 2, 3, 4, 5, -1]
    assert (downloads / "20bn-something-something-v2-01").exists()  # what was placed by hand stays


def test_something_something_from_a_mirror(site: Site, root: Path, clip: bytes) -> None:
    for name, content in ssv2_lists().items():
        put(site, name, content)
    whole = tarred({f"20bn-something-something-v2/{n}.webm": unique(clip, n) for n in range(7)})
    for number in range(2):
        half = len(whole) // 2 + 1
        put(site, f"20bn-something-something-v2-{number:02d}", whole[number * half : (number + 1) * half])
    metrics = download.run(params(root, "ssv2", 174, official(site)), "mini")
    assert (metrics["videos_ok"], metrics["videos_total"]) == (7, 7)


def test_a_part_that_a_mirror_cannot_give_now_is_not_taken_for_one_beyond_the_last(
    site: Site, root: Path, clip: bytes
) -> None:
    for name, content in ssv2_lists().items():
        put(site, name, content)
    whole = tarred({f"20bn-something-something-v2/{n}.webm": unique(clip, n) for n in range(7)})
    third = len(whole) // 3 + 1
    for number in range(3):
        put(site, f"20bn-something-something-v2-{number:02d}", whole[number * third : (number + 1) * third])
    site.faults["/20bn-something-something-v2-02"].extend([{"status": 503, "headers": {"Retry-After": "0"}}] * 2)
    with pytest.raises(EverestError, match=r"v2-02 cannot be fetched:\n.*status 503 \(2 attempts\)"):
        download.run(params(root, "ssv2", 174, official(site)), "mini")
    assert download.run(params(root, "ssv2", 174, official(site)), "mini")["videos_ok"] == 7


@pytest.mark.parametrize("as_zip", [True, False])
def test_something_something_in_its_newer_form(root: Path, clip: bytes, as_zip: bool) -> None:
    """Each part of the cut archive in a zip of its own; the lists below `labels/` without a prefix, loose or zipped."""
    downloads = layout.raw_dir("mini") / "downloads"
    downloads.mkdir(parents=True)
    lists = {f"labels/{name.rpartition('-')[2]}": content for name, content in ssv2_lists().items()}
    if as_zip:
        (downloads / "20bn-something-something-download-package-labels.zip").write_bytes(zipped(lists))
    for name, content in {} if as_zip else lists.items():
        (downloads / name).parent.mkdir(exist_ok=True)
        (downloads / name).write_bytes(content)
    whole = tarred({f"20bn-something-something-v2/{n}.webm": unique(clip, n) for n in range(7)})
    half = len(whole) // 2 + 1
    for number in range(2):
        name = f"20bn-something-something-v2-{number:02d}"
        (downloads / f"{name}.zip").write_bytes(zipped({name: whole[number * half : (number + 1) * half]}))
    metrics = download.run(params(root, "ssv2", 174, {"kind": "official"}), "mini")
    assert (metrics["videos_ok"], metrics["videos_total"]) == (7, 7)
    assert {row["video_id"]: row["label"] for row in rows()}["5"] == 5
    # The parts out of the zips are not kept beside the videos.
    assert not [path for path in downloads.iterdir() if path.name.endswith(".unpacked")]


def make_oscc(folder: Path) -> None:
    (folder / "annotations").mkdir(parents=True)
    (folder / "full_scale").mkdir()
    grey = np.repeat(np.arange(120, dtype=np.uint8)[:, None] * 2, 64 * 64 * 3, axis=1).reshape(120, 64, 64, 3)
    write_video(folder / "full_scale" / "long-1.mp4", grey, 30)
    clips = {
        "train": [("a", 0, 40, True), ("b", 40, 75, False)],
        "val": [("c", 80, 120, None)],
        "test_unannotated": [("d", 10, 50, None)],
    }
    for split, windows in clips.items():
        content = [
            {"unique_id": name, "video_uid": "long-1", "parent_start_frame": start, "parent_end_frame": end}
            | ({} if change is None else {"state_change": change})
            for name, start, end, change in windows
        ]
        (folder / "annotations" / f"fho_oscc-pnr_{split}.json").write_text(json.dumps({"clips": content}))


def check_oscc(metrics: dict[str, Any]) -> None:
    assert (metrics["videos_ok"], metrics["videos_total"]) == (4, 4)
    result = {row["video_id"]: row for row in rows()}
    assert {name: row["frames_decoded"] for name, row in result.items()} == {
        "a": 40,
        "b": 35,
        "c": 40,
        "d": 40,
    }
    assert {name: row["label"] for name, row in result.items()} == {"a": 1, "b": 0, "c": 0, "d": -1}
    grey = open_video(layout.raw_dir("mini") / result["b"]["path"]).frames([0, 34])[:, 32, 32, 0].astype(int)
    assert np.abs(grey - [80, 148]).max() <= 3


def test_oscc_windows_are_cut_out_of_a_mirrors_videos(site: Site, root: Path) -> None:
    make_oscc(site.folder)
    for path in (site.folder / "annotations").iterdir():
        path.rename(site.folder / path.name)
    check_oscc(download.run(params(root, "oscc", 2, official(site)), "mini"))


def test_a_dry_run_names_the_long_videos_or_says_that_lists_will(site: Site, root: Path) -> None:
    make_oscc(site.folder)
    settings = params(root, "oscc", 2, official(site))
    before = download.plan(settings, "mini")
    assert (before["files_missing"], before["files"][-1]["name"]) == (4, "full_scale/*.mp4")
    shutil.copytree(site.folder / "annotations", layout.raw_dir("mini") / "annotations")
    planned = download.plan(settings, "mini")
    size = (site.folder / "full_scale/long-1.mp4").stat().st_size
    assert [(file["name"], file["bytes"]) for file in planned["files"]] == [("full_scale/long-1.mp4", size)]
    bucket = download.plan(params(root, "oscc", 2, {"kind": "official"}), "mini")
    assert (bucket["files"][0]["name"], bucket["sizes_unknown"]) == ("full_scale/long-1.mp4", 1)


def test_oscc_windows_are_cut_out_of_your_own_copy(root: Path, tmp_path: Path) -> None:
    make_oscc(tmp_path / "ego4d")
    source = {
        "kind": "folder",
        "path": str(tmp_path / "ego4d" / "full_scale"),
        "annotations": str(tmp_path / "ego4d" / "annotations"),
    }
    # As earlier versions left it: windows were written through this link, into the folder of the long videos.
    layout.raw_dir("mini").mkdir(parents=True)
    (layout.raw_dir("mini") / "videos").symlink_to(tmp_path / "ego4d" / "full_scale")
    check_oscc(download.run(params(root, "oscc", 2, source), "mini"))
    assert [path.name for path in (tmp_path / "ego4d" / "full_scale").iterdir()] == ["long-1.mp4"]


@pytest.mark.parametrize("column", ["canonical_s3_location", "s3_path"])
def test_oscc_comes_from_the_licensed_buckets(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    make_oscc(tmp_path / "ego4d")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDTESTING")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRETTESTING")
    try:
        client = boto3.client("s3", region_name="us-east-1")
        shared, base = "ego4d-consortium-sharing", "public/v2"
        for bucket in (shared, "ego4d-a-university"):
            client.create_bucket(Bucket=bucket)
        for path in (tmp_path / "ego4d/annotations").iterdir():
            client.upload_file(str(path), shared, f"{base}/annotations/{path.name}")
        video = tmp_path / "ego4d/full_scale/long-1.mp4"
        client.upload_file(str(video), "ego4d-a-university", "v2/some folder/x.mp4")
        table = f"video_uid,type,{column}\nother,video,s3://ego4d-a-university/other.mp4\n"
        table += "long-1,video,s3://ego4d-a-university/v2/some folder/x.mp4\n"
        client.put_object(Bucket=shared, Key=f"{base}/full_scale/manifest.csv", Body=table.encode())
        check_oscc(download.run(params(root, "oscc", 2, {"kind": "official"}), "mini"))
    finally:
        server.stop()
    fetched = sorted(path.name for path in (layout.raw_dir("mini") / "full_scale").iterdir())
    assert fetched == ["long-1.mp4"]  # what no window lies in is not fetched


def test_an_expired_licence_is_explained(
    site: Site, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", site.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDTESTING")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRETTESTING")
    monkeypatch.setattr("fault_server._Handler.do_HEAD", refuse)
    with pytest.raises(InputError, match="expire") as caught:
        download.run(params(root, "oscc", 2, {"kind": "official"}), "mini")
    assert "ego4ddataset.com" in str(caught.value)
    assert "TESTING" not in str(caught.value)


def refuse(handler: Any) -> None:
    handler.send_response(403)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def test_your_copy_of_a_public_set_is_used_where_it_lies(site: Site, root: Path, clip: bytes, tmp_path: Path) -> None:
    make_ucf101(site, clip)
    for name in ("UCF101TrainTestSplits-RecognitionTask.zip", "UCF101_videos.zip"):
        shutil.unpack_archive(site.folder / name, tmp_path / "copy")
    source = {"kind": "folder", "path": str(tmp_path / "copy")}
    metrics = download.run(params(root, "ucf101", 101, source), "mini")
    assert (metrics["videos_ok"], metrics["videos_total"]) == (12, 12)
    assert rows()[0]["path"].startswith("videos/UCF-101/")
    assert str(tmp_path) not in json.dumps(rows())
