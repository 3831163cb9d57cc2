"""The state of the live table right after a sweep has started."""

from stableft.sweep.progress import SweepProgress, SweepStarted, apply_event


def start_progress(runs, workers=1, done=0) -> SweepProgress:
    view = SweepProgress()
    apply_event(view, SweepStarted(runs, done, 0, 0, workers), 0.0)
    return view
