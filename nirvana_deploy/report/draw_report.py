"""Draws one page of all that was given: runs, budgets, profiles, sweeps, plans, estimates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nirvana_deploy.report.compared_page import draw_compared
from nirvana_deploy.report.document import is_page, write_page
from nirvana_deploy.report.page import draw_page
from nirvana_deploy.report.read_subjects import read_subjects
from nirvana_deploy.report.roofline_chart import Roof
from profiles.targets.block_work import CallShape
from profiles.targets.target import load_target
from pruning.errors import NirvanaError

_HTML = (".html", ".htm")


def write_compared(
    paths: Sequence[Path],
    out: Path,
    *,
    targets: Sequence[str] = (),
    precision: str | None = None,
    call: CallShape | None = None,
) -> Path:
    """Draw what the paths hold into the file `out`, and return it; a run alone gets its own page.

    Raises:
        NirvanaError: a path is none of what can be drawn; a target is not known or has no rate for
            the precision; or `out` is a file of something else.
    """
    check_out(out)
    if not paths:
        raise NirvanaError("A report needs a run folder or a file of figures, got none.")
    roofs = [
        _raise_roof(name, precision, call or CallShape(batch=1, length=128)) for name in targets
    ]
    subjects = read_subjects(paths)
    alone = len(subjects) == 1 and subjects[0].kind == "run"
    page = draw_page(subjects[0], roofs) if alone else draw_compared(subjects, roofs)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_page(out, page)
    return out


def check_out(out: Path) -> None:
    """Raise NirvanaError unless `out` names an HTML file that is new or was drawn by us."""
    if out.suffix not in _HTML:
        raise NirvanaError(f"A report is an HTML file: expected {out}.html or the like, got {out}.")
    if out.is_dir() or (out.exists() and not is_page(out)):
        raise NirvanaError(
            f"{out} exists already and is not a report. Choose another --out; nothing was changed."
        )


def _raise_roof(name: str, precision: str | None, call: CallShape) -> Roof:
    target = load_target(name)
    chosen = precision or ("fp16" if "fp16" in target.tera_ops_per_s else "fp32")
    target.rate(chosen)  # a precision that it has no rate for is refused
    return Roof(target=target, precision=chosen, call=call)
