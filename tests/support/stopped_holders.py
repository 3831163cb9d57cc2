"""Holders of a claim that are stopped, at any moment, until another process has taken it over and given it back."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stableft.records import atomic_folder, run_record
from stableft.records.held_claims import HELD_CLAIMS
from stableft.sweep.claims import CLAIM_FILE, claim_run


def read_all(folder: Path) -> dict[str, str]:
    """Returns the texts of a folder's files, but for its claim."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != CLAIM_FILE)
    return {str(path.relative_to(folder)): path.read_text(errors="replace") for path in files}


class Moments:
    """Lets a successor take over the claim of a folder at the n-th look or change of its holder, and do its work."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]):
        self.folder, self.work, self.calls, self.at, self.busy = folder, work, 0, -1, False
        self.found: dict[str, str] = {}
        looks, changes = (atomic_folder, run_record), ("rename", "replace", "mkdir", "unlink")
        for module in looks:
            monkeypatch.setattr(module, "check_claim", self.counting(module.check_claim, after=True))
        for module, name in (*((os, name) for name in changes), (shutil, "rmtree")):
            monkeypatch.setattr(module, name, self.counting(getattr(module, name)))

    def counting(self, function, after: bool = False):
        def call(*arguments, **options):
            if not self.busy and os.path.realpath(self.folder) in HELD_CLAIMS:
                self.calls += 1
                if self.calls == self.at and not after:
                    self.take_over()
                    return function(*arguments, **options)
                if self.calls == self.at:  # it saw its own claim, and is stopped then
                    result = function(*arguments, **options)
                    self.take_over()
                    return result
            return function(*arguments, **options)

        return call

    def take_over(self) -> None:
        self.busy = True
        path = self.folder / CLAIM_FILE
        path.write_text(json.dumps(json.loads(path.read_text()) | {"start": "1"}))  # as if the holder had died
        mine = HELD_CLAIMS.copy()  # those of a process; the successor is another
        with claim_run(self.folder) as claimed:
            assert claimed
            self.found = read_all(self.folder)
            self.work()
        HELD_CLAIMS.update(mine)
        self.busy = False
