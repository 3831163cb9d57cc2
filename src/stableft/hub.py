"""The Hugging Face hub and its local cache: one file of a model, a whole model, a task."""

import logging
from contextlib import contextmanager

from stableft.errors import UserError
from stableft.locate import locate_model
from stableft.rows import read_hub
from stableft.tasks import TaskSpec

SMALL_FILES = ("*.json", "*.txt", "*.model")


def model_file(name: str, revision: str | None, file: str) -> str:
    """Returns the path of a file of a hub model, downloaded if the cache lacks it.

    Raises:
        UserError: the hub cannot be reached and the cache lacks it, or the hub has no such model.
    """
    from huggingface_hub import hf_hub_download

    with _explained(name):
        return hf_hub_download(name, file, revision=revision)


def fetch_model(name: str) -> None:
    """Puts a hub model (name or name@revision) into the local cache: weights in one format, and its tokenizer.

    Raises:
        UserError: the hub cannot be reached, or has no such model.
    """
    from huggingface_hub import list_repo_files, snapshot_download

    settings, folder = locate_model(name, (), "data fetch")
    assert folder is None
    repository, revision = settings["name"], settings["revision"]
    with _explained(name):
        safe = any(file.endswith(".safetensors") for file in list_repo_files(repository, revision=revision))
        weights = "*.safetensors" if safe else "pytorch_model*.bin"
        snapshot_download(repository, revision=revision, allow_patterns=[*SMALL_FILES, weights])


def fetch_task(task: TaskSpec) -> None:
    """Puts a task's data into the local cache.

    Raises:
        UserError: the hub cannot be reached, or the task is not there.
    """
    if task.hub is None:
        raise UserError(f"data fetch: task {task.name} is generated here, there is nothing to download")
    read_hub(task, "train")
    read_hub(task, "dev")


@contextmanager
def _explained(name: str):
    """Turns what the hub's client raises into a sentence, and keeps it from telling of each of its attempts."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        yield
    except (LocalEntryNotFoundError, ConnectionError):
        raise UserError(
            f"model {name!r}: the hub cannot be reached and there is no cached copy; give a folder with --set "
            f"model=FOLDER, or run `stableft data fetch --model {name}` where there is a network"
        ) from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(f"model {name!r}: the hub has no such model: {' '.join(str(error).split())[:200]}") from None
