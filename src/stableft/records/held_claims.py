"""The claims that this process holds, for whoever writes into a claimed folder. `sweep.claims` makes them."""

import os
from pathlib import Path
from typing import Protocol

from stableft.errors import UserError


class HeldClaim(Protocol):
    """A claim that this process took. `lost`: another process was seen to have taken it over."""

    lost: bool

    def is_held(self) -> bool:
        """Return whether this process still holds it, as the file system has it now."""
        ...


HELD_CLAIMS: dict[str, HeldClaim] = {}  # by the real path of the claimed folder


class ClaimLostError(UserError):
    """Another process has taken over the claim of a folder that this process was working on."""


def check_claim(folder: Path) -> None:
    """Do nothing if this process still holds its claim of the folder, or has none.

    Raises:
        ClaimLostError: Another process holds the claim now, so this one must write nothing.
    """
    if HELD_CLAIMS and (claim := HELD_CLAIMS.get(os.path.realpath(folder))) and not claim.is_held():
        raise ClaimLostError(
            f"{folder}: another process has taken over this run, because this one was stopped and did not renew its "
            "claim, so it writes nothing more"
        )


def has_lost_claim() -> bool:
    """Return whether this process has seen that a claim of its own was taken over. Reads no file."""
    return any(claim.lost for claim in HELD_CLAIMS.values())
