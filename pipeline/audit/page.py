"""The audit's page: one HTML file that opens from disk."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.audit.costs import EPOCHS, Disk, Training
from pipeline.audit.record import BINS, KEEPS, STILL
from pipeline.audit.summary import Findings, Refused, ShareRow, VideoRow
from pipeline.data.ingest.verdicts import REASONS
from pipeline.report.page import Columns, Picture, Section, Table, duration, html, number
from pipeline.report.plots import bars, curves

#: Rows of a list, and files of a group, that the page shows; `--json` has all.
LISTED, OF_A_GROUP = 50, 12


def page(
    title: str,
    lines: Sequence[str],
    findings: Findings,
    savings: Sequence[tuple[float, float]],
    trainings: Sequence[Training],
    disk: Disk,
    device: str,
    pictures: Sequence[tuple[str, VideoRow, str]],
) -> str:
    """The page as HTML.

    Args:
        lines: sentences at its top.
        savings: for each of the findings' shares, multiply-adds of a clip [G] and the share saved against tube masking.
        device: in words.
        pictures: (which end, video, JPEG as a data address).
    """
    sections = [
        _change(findings),
        _shares(findings, savings),
        _costs(trainings, disk, device),
        _pictures("Most redundant", "Those in which the fewest tokens change.", pictures),
        _pictures("Least redundant", "Those in which nearly every token changes.", pictures),
        _groups(findings),
        _refused(findings),
    ]
    subtitle = (
        "everest audit: raw pixels, no model. Clips of 16 frames over 2 s, cut into 8 time slots of 14 x 14 tokens; "
        "the "
        "change of a token is its distance to the slot before."
    )
    return html(title, subtitle, lines, [s for s in sections if s.tables or s.plots or s.pictures])


def _change(findings: Findings) -> Section:
    names = [f"< {upper:g}" for upper in BINS[1:]] + [f">= {BINS[-1]:g}"]
    series = {
        name: [(keep, row[place]) for keep, row in zip(KEEPS, findings.change_kept, strict=True)]
        for place, name in ((2, "90th percentile of videos"), (1, "median video"), (0, "10th percentile"))
    }
    return Section(
        "How much changes",
        "Left: tokens by their change in grey levels of 255 (root mean square over the token's pixels); below "
        f"{STILL:g}, "
        "in the second colour, they are called still: about what compression and a camera's noise do. Right: how much "
        "of "
        "all change the tokens that change most hold.",
        plots=[
            bars(
                names,
                [100 * share for share in findings.histogram],
                title="Change of a token",
                x="grey levels",
                y="% of tokens",
                marked=sum(edge < STILL for edge in BINS),
            ),
            curves(series, title="Change that is kept", x="share of tokens kept", y="share of change kept"),
        ],
    )


def _shares(findings: Findings, savings: Sequence[tuple[float, float]]) -> Section:
    note = (
        "What EVEREST would drop if it kept this share of the change: tokens of a clip, and frames of a window of 12 "
        "slots. Multiply-adds of pre-training at that keep ratio, a tenth of all tokens shown to the encoder (a third "
        "of "
        "those kept where that is less), against tube masking of 90 %."
    )
    columns: Columns[tuple[ShareRow, tuple[float, float]]] = {
        "change kept": lambda row: number(row[0].change_kept, 0, percent=True),
        "tokens dropped": lambda row: number(row[0].tokens_dropped, 0, percent=True),
        "middle 80 % of videos": lambda row: (
            f"{100 * row[0].tokens_dropped_low:.0f} – {100 * row[0].tokens_dropped_high:.0f} %"
        ),
        "frames dropped": lambda row: number(row[0].frames_dropped, 0, percent=True),
        "G mult-adds / clip": lambda row: number(row[1][0], 1),
        "saved against tube": lambda row: number(row[1][1], 0, percent=True),
    }
    rows = list(zip(findings.shares, savings, strict=True))
    return Section("What could be dropped", note, [Table.of(rows, columns, text=())])


def _costs(trainings: Sequence[Training], disk: Disk, device: str) -> Section:
    assumed = "; ".join(dict.fromkeys(one.assumed for one in trainings))
    columns: Columns[Training] = {
        "strategy": lambda one: one.strategy,
        "kept / shown": lambda one: f"{one.keep_ratio:.2f} / {one.visible_ratio:.2f}",
        "G mult-adds / clip": lambda one: number(one.gmacs_per_clip, 1),
        "batch": lambda one: f"{one.batch} ({one.micro_batch} at a time)",
        "memory GiB": lambda one: number(one.memory_gib, 1),
        f"{EPOCHS} epochs": lambda one: duration(3600 * one.hours),
    }
    caption = f"Pre-training on {device}, as `everest plan` predicts it ({assumed})"
    sizes = [("the videos", disk.videos), ("cache as JPEG", disk.jpeg), ("cache raw", disk.raw),
             ("distance maps", disk.maps)]  # fmt: skip
    unit, scale = ("GiB", 1.0) if max(size for _, size in sizes) >= 1 else ("MiB", 1024.0)
    stored: Columns[tuple[str, float]] = {"on disk": lambda row: row[0], unit: lambda row: number(scale * row[1], 2)}
    note = "The cache at short side 256, every frame; JPEG by a frame of each video"
    return Section(
        "What a training takes", tables=[Table.of(trainings, columns, caption), Table.of(sizes, stored, note)]
    )


def _pictures(end: str, note: str, pictures: Sequence[tuple[str, VideoRow, str]]) -> Section:
    section = Section(
        end, f"{note} The middle clip of each: the first frame of its time slots, and what keep ratio 0.3 leaves of it."
    )
    for which, video, address in pictures:
        if which == end:
            caption = (
                f"{video.path}: {video.still:.0%} of tokens still, median change {video.median:.1f} grey levels; 80 % "
                "of "
                f"the change in {video.tokens_needed:.0%} of the tokens. {video.seconds:.1f} s, {video.width}x"
                f"{video.height}, {video.fps:.4g} frames a second."
            )
            section.pictures.append(Picture(address, caption))
    return section


def _groups(findings: Findings) -> Section:
    note = (
        "Copies in another size, codec or length, cuts of one source, one scene filmed twice. On both sides of a "
        "split they "
        "make a test easier than it looks."
    )
    section = Section("Near-duplicates", note)
    for name, groups in (("same bytes", findings.copies), ("nearly the same pictures", findings.similar)):
        rows = [
            [str(len(group)), ", ".join(group[:OF_A_GROUP]) + (" ..." if len(group) > OF_A_GROUP else "")]
            for group in groups[:LISTED]
        ]
        if rows:
            more = f"; {LISTED} of {len(groups)} groups" if len(groups) > LISTED else ""
            section.tables.append(Table(("videos", name), rows, f"{name}{more}", frozenset({1})))
    return section


def _refused(findings: Findings) -> Section:
    more = f"{LISTED} of {len(findings.refused)}; --json lists all" if len(findings.refused) > LISTED else ""
    columns: Columns[Refused] = {
        "file": lambda one: one.path,
        "reason": lambda one: one.reason,
        "which means": lambda one: REASONS.get(one.reason, one.message),
    }
    table = Table.of(findings.refused[:LISTED], columns, more, (0, 1, 2))
    return Section("Files that cannot be used", tables=[table] if findings.refused else [])
