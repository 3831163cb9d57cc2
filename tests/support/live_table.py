from stableft.sweep.progress import Opened, View, update


def opened(runs, workers=1, done=0) -> View:
    view = View()
    update(view, Opened(runs, done, 0, 0, workers), 0.0)
    return view
