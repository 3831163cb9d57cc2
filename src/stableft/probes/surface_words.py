"""What a surface shows, in a few lines computed from its numbers."""

import numpy as np

from stableft.probe_record import Surface
from stableft.report.surface_panels import MODELS, nearest
from stableft.text import columns

NOTHING_LEARNT = 0.95  # of the label entropy: a loss above it is that of a model that has learnt next to nothing

FINE = 0.1  # the widest step of a grid that does not stride over a barrier unseen


def surface_words(record: Surface) -> str:
    """Returns a table of losses and gradient norms at the three models, and what lies between them."""
    sentences = [_straight(record), _around(record), _valley(record), _small_gradient(record)]
    return "\n".join([_table(record), *(sentence for sentence in sentences if sentence)])


def lowest_pass(losses: np.ndarray, start: tuple[int, int], end: tuple[int, int]) -> float:
    """Returns the height that a path over the grid from one point to another cannot stay below, at its best.

    A step goes to any of the 8 neighbours; a loss that is not finite is never walked over.
    """
    from scipy.ndimage import label

    levels = np.unique(losses[np.isfinite(losses)])
    low, high = 0, len(levels)
    while low < high:
        middle = (low + high) // 2
        regions = label(losses <= levels[middle], structure=np.ones((3, 3)))[0]  # pyright: ignore[reportIndexIssue]
        if regions[start] and regions[start] == regions[end]:
            high = middle
        else:
            low = middle + 1
    return float(levels[low]) if low < len(levels) else np.inf


def _table(record: Surface) -> str:
    norms = record.line_norms or (None,) * len(record.line_losses)
    first, last = (record.line_losses[0], norms[0]), (record.line_losses[-1], norms[-1])
    values = ((record.pretrained_loss, record.pretrained_norm), first, last)
    rows = [("", "alpha", "beta", "loss", "gradient norm")]
    for (name, alpha, beta), (loss, norm) in zip(MODELS, values, strict=True):
        rows.append((name, f"{alpha:g}", f"{beta:g}", _number(loss), _number(norm)))
    losses = np.asarray(record.losses)
    if np.isfinite(losses).any():
        i, j = np.unravel_index(np.nanargmin(losses), losses.shape)
        norm = record.grad_norms[i][j] if record.grad_norms else None
        at = (f"{record.alphas[j]:.3g}", f"{record.betas[i]:.3g}")
        rows.append(("lowest on the grid", *at, _number(losses[i, j]), _number(norm)))
    return columns(rows if record.grad_norms else [row[:-1] for row in rows])


def _straight(record: Surface) -> str:
    """Returns the sentence about the straight line between failed and successful."""
    losses = np.asarray(record.line_losses)
    if not np.isfinite(losses).all():
        return "On the straight line from failed to successful the loss is not finite everywhere."
    top = int(losses.argmax())
    ends = f"{_number(losses[0])} and {_number(losses[-1])}"
    if top in (0, len(losses) - 1):
        return (
            f"On the straight line from failed to successful the loss never rises above its ends, {ends}: no barrier."
        )
    share, height = top / (len(losses) - 1), losses[top] - max(losses[0], losses[-1])
    return (
        f"On the straight line from failed to successful the loss rises to {_number(losses[top])}, {share:.0%} of the "
        f"way along: a barrier {_number(height)} above the higher of its ends, {ends}."
    )


def _around(record: Surface) -> str:
    """Returns the sentence about the best way round; none where the grid is coarse or does not reach both models."""
    step = record.alphas[1] - record.alphas[0]
    if not (record.alphas[0] <= 0 and record.alphas[-1] >= 1 and step <= FINE):
        return ""
    losses = np.asarray(record.losses)
    start, end = nearest(record, 1.0, 0.0), nearest(record, 0.0, 1.0)
    height = lowest_pass(losses, start, end)
    if not np.isfinite(height):
        return "No path over the grid leads from failed to successful: losses between them are not finite."
    begin = max(losses[start], losses[end])
    if height <= begin:
        return "A path over the grid leads from failed to successful on which the loss never rises above its ends."
    rise = f"{_number(height)}, {_number(height - begin)} above its higher end on the grid ({_number(begin)})"
    return f"Every path over the grid from failed to successful has to climb to {rise}."


def _valley(record: Surface) -> str:
    if record.label_entropy is None:
        return ""
    loss, entropy = record.line_losses[0], record.label_entropy
    learnt = "next to nothing was learnt" if loss >= NOTHING_LEARNT * entropy else "something was learnt"
    labels = f"the entropy of these examples' labels {_number(entropy)}"
    return f"The failed model's loss is {_number(loss)}, {labels}: {learnt}."


def _small_gradient(record: Surface) -> str:
    if not record.grad_norms or record.pretrained_norm is None:
        return ""
    norm = record.line_norms[0]
    share = float((np.asarray(record.grad_norms) < norm).mean())
    times = norm / record.pretrained_norm if record.pretrained_norm else np.nan
    return (
        f"The gradient norm at the failed model is {_number(norm)}, {times:.2g} times that at the pre-trained one; at "
        f"{share:.0%} of the grid's points it is smaller."
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
