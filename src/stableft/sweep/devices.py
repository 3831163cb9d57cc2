"""Find the devices that the command line names on this machine."""

from stableft.errors import UserError


def parse_devices(text: str) -> list[int]:
    """Return the GPU numbers of --devices, which are none for "auto" and "cpu". This needs neither a GPU nor torch.

    Raises:
        UserError: The text names no device, or one twice.
    """
    if text in ("auto", "cpu"):
        return []
    numbers = text.split(",")
    if not all(number.strip().isdecimal() and len(number) < 10 for number in numbers):
        raise UserError(f"--devices {text!r} must be auto, cpu, or GPU numbers such as 0,1")
    requested = [int(number) for number in numbers]
    if len(set(requested)) < len(requested):
        raise UserError(f"--devices {text!r} names a GPU twice; --jobs-per-device puts several runs on one")
    return requested


def resolve_devices(text: str) -> list[str]:
    """Return torch device names for "auto" (all GPUs, else the CPU), "cpu", or GPU numbers such as "0,1".

    Raises:
        UserError: The text names no device, or one that this machine does not have.
    """
    if text == "cpu":
        return ["cpu"]
    requested = parse_devices(text)
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text == "auto":
        return [f"cuda:{number}" for number in range(count)] or ["cpu"]
    for number in requested:
        if number >= count:
            available = f"only {count} (numbered from 0)" if count else "none that torch can use"
            raise UserError(f"--devices {text!r} asks for GPU {number}, but this machine has {available}")
    return [f"cuda:{number}" for number in requested]


def resolve_device(text: str) -> str:
    """Return the torch device name for "auto" (the first GPU, else the CPU), "cpu", or a GPU such as "cuda:0".

    Raises:
        UserError: The text names no device, or one that this machine does not have.
    """
    if text in ("auto", "cpu"):
        return resolve_devices(text)[0]
    kind, _, number = text.partition(":")
    if kind != "cuda" or not number.isdecimal():
        raise UserError(f"--device {text!r} must be auto, cpu, or a GPU such as cuda:0")
    try:
        return resolve_devices(number)[0]
    except UserError:
        raise UserError(f"--device {text!r}: torch has no such GPU on this machine") from None
