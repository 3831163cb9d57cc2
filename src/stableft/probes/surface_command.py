"""What `stableft probe surface` does around the measuring: looks before it starts, shows where it is, draws, tells."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from stableft.claim import claim
from stableft.errors import UserError
from stableft.launch.signals import INTERRUPTED, collected_signals
from stableft.plan import Execution, Stopped
from stableft.probe_record import PROBES_FILE, PROBES_FOLDER, Surface, read_probes
from stableft.probes.saved import sources_of
from stableft.probes.surface import Value
from stableft.probes.surface_request import SurfaceRequest, find_pair, surface_id
from stableft.probes.surface_words import surface_words
from stableft.probes.surface_work import POINTS_FILE, Work, measure_surface, prepare_work, read_points
from stableft.probes.view import open_view
from stableft.record import atomic_write
from stableft.report.drawing import file_bytes
from stableft.report.figures import draw
from stableft.report.surface_panels import surface_caption, surface_panel

FIGURES: dict[Literal["loss", "grad_norm"], str] = {
    "loss": "loss-surface.png",
    "grad_norm": "gradient-norm-surface.png",
}


def run_surface(
    request: SurfaceRequest,
    results: Path,
    pretrained: str | None,
    config: str | None,
    data_dir: Path | None,
    device: str,
    micro_batch: int | None,
) -> int:
    """Measures the surface, unless that is done, draws and describes it; returns the exit code: 0 or 130 (interrupted).

    Raises:
        UserError: the request, its runs or what they need cannot be used, or another process is at this surface.
    """
    pair = find_pair(request, results)
    folder = results / PROBES_FOLDER / surface_id(request, pair)
    record = stored_surface(folder)
    if record:
        print("this surface is done already: nothing is measured")
        return _close(record, folder)
    sources = sources_of((pair.failed, pair.successful), pretrained, config, data_dir)
    work = prepare_work(request, pair, folder, sources, Execution(device=device, micro_batch=micro_batch))
    with claim(folder) as ours, collected_signals() as received:
        if not ours:
            raise UserError(f"another process is at surface {folder.name} in {folder}")
        record = stored_surface(folder) or _measured(work, lambda: bool(received))
    return _close(record, folder) if record else INTERRUPTED


def stored_surface(folder: Path) -> Surface | None:
    """Returns the record of a finished surface, or None.

    Raises:
        UserError: it is damaged.
    """
    found = list(read_probes(folder / PROBES_FILE))
    return found[0] if found and isinstance(found[0], Surface) else None


def _measured(work: Work, stop: Callable[[], bool]) -> Surface | None:
    """Returns the surface, or None after an interruption, and tells where it goes on."""
    kept = read_points(work)
    done, total = len(kept.values) if kept else 0, len(work.points)
    what = "loss" if work.request.loss_only else "loss and gradient norm"
    weights = sum(parameter.numel() for parameter in work.plane.model.parameters())
    print(
        f"{work.folder.name}: {what} of {work.config.model.name} ({weights:,} weights on {work.device}) at {total:,} "
        f"points, {work.request.examples} examples of {work.config.data.task}"
        + (f"; {done:,} points are done" if done else ""),
        flush=True,
    )
    last = done
    with open_view(total, done) as tick:

        def show(at: int, value: Value) -> None:
            nonlocal last
            last, norm = at, "" if value[1] is None else f"  gradient norm {value[1]:.4g}"
            tick(f"point {at:,}/{total:,}  loss {value[0]:.4g}{norm}", 1)

        try:
            return measure_surface(work, kept, show, stop)
        except Stopped:
            pass
    print(f"Interrupted after {last:,} of {total:,} points; the same command goes on from there")
    return None


def _close(record: Surface, folder: Path) -> int:
    """Draws the figures, prints what the surface shows and returns the exit code."""
    print(surface_words(record))
    title, paths = f"{record.task}, {record.model}", []
    for of, name in FIGURES.items():
        if of == "loss" or record.grad_norms:
            figure = draw([surface_panel(record, of, title)], surface_caption(record))
            atomic_write(folder / name, file_bytes(figure, "png"))
            paths.append(str(folder / name))
    (folder / POINTS_FILE).unlink(missing_ok=True)  # the last of all: a kill before this leaves it for the next time
    print(f"record: {folder / PROBES_FILE}")
    print(f"figures: {', '.join(paths)}")
    return 0
