"""What a file that should be a torch checkpoint really is: told from its bytes, before anything is unpickled."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from pipeline.errors import InputError

#: First bytes of files that are often saved under a checkpoint's name, and what they are.
KNOWN = (
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"PAR1", "a Parquet file"),
)
LFS = b"version https://git-lfs.github.com/spec/"
#: Bytes that are looked at, and those read at a time.
HEAD, CHUNK = 4096, 1 << 20
AGAIN = "Cure: download the checkpoint itself again, and compare its size with the publisher's."


def check_checkpoint_file(path: Path, safetensors: bool = False) -> None:
    """Refuse a file that cannot be a checkpoint of torch (or of safetensors), by what it is.

    Raises:
        InputError: it is empty, a web page, a Git LFS pointer, other text, an archive or a picture, a zip without
            torch's records, cut short, or damaged by the zip's own checksums.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        raise InputError(f"{path} is empty. {AGAIN}")
    if head.startswith(LFS):
        size = re.search(rb"^size (\d+)", head, re.MULTILINE)
        stands_for = f", which stands for a file of {int(size[1])} bytes" if size else ""
        raise InputError(
            f"{path} is a Git LFS pointer{stands_for}. Cure: `git lfs pull` where it was cloned, or download it."
        )
    for start, name in KNOWN:
        if head.startswith(start):
            raise InputError(f"{path} is {name}, not a checkpoint. Cure: unpack it, or download the checkpoint.")
    if head.startswith(b"PK"):
        _check_zip(path)
    elif _is_safetensors(head):
        if safetensors:
            return
        raise InputError(
            f"{path} is a safetensors file; alone it does not say of which model. "
            "Cure: give its folder, with config.json (Hugging Face) or model.json (this project) beside it."
        )
    elif (text := _text(head)) is not None:
        raise InputError(f"{path} is {_kind_of_text(text)}, not a checkpoint. {AGAIN}")


def _text(head: bytes) -> str | None:
    """The beginning of a file as text, None where it is none."""
    for encoding in ("utf-16",) if head[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig",):
        try:
            # A character may be cut in two at the end.
            text = head[: len(head) - 4].decode(encoding) if len(head) == HEAD else head.decode(encoding)
        except UnicodeDecodeError:
            return None
        if all(letter.isprintable() or letter in "\r\n\t\f" for letter in text):
            return text
    return None


def _kind_of_text(text: str) -> str:
    start = text.lstrip().lower()
    if re.match(r"<(!doctype|html|head|\?xml|!--|body|script)", start):
        title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        named = f" ({' '.join(title[1].split())[:80]!r})" if title and title[1].strip() else ""
        return f"a web page{named}"
    shown = " ".join(text.split())[:60]
    return f"text ({shown!r})" if shown else "blank text"


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 9 and head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 1 << 27


def _check_zip(path: Path) -> None:
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if not any(name.split("/")[-1] == "data.pkl" for name in names):
                shown = ", ".join(names[:3]) or "nothing"
                raise InputError(
                    f"{path} is a zip of something else: it holds {shown}, no data.pkl of torch. "
                    "Cure: unpack it, and give the checkpoint inside."
                )
            bad = [entry.filename for entry in archive.infolist() if not _whole(archive, entry)]
    except zipfile.BadZipFile:
        raise InputError(f"{path} begins as a zip but has no end: cut short at {size} bytes. {AGAIN}") from None
    # Files saved with torch's checksums switched off have wrong ones throughout.
    if bad and len(bad) < len(names):
        raise InputError(f"{path} is damaged: the checksum of {bad[0]} ({len(bad)} of {len(names)}) differs. {AGAIN}")


def _whole(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(entry) as file:
            while file.read(CHUNK):
                pass
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError):
        return False
    return True
