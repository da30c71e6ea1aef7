"""Data sets of the Hugging Face hub as folders behind its web server."""

from __future__ import annotations

from huggingface_hub import HfApi, get_token, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from tinyvit.errors import UserError

# Stands for a file in a URL whose folder is wanted.
ANY_FILE = "x"


def hub_folder(path: str) -> tuple[str, dict[str, str]]:
    """The URL of a folder, named USER/NAME[@REVISION][/FOLDER], and the headers that a private one asks for."""
    repository, revision, folder = _parts(path)
    file = f"{folder}/{ANY_FILE}" if folder else ANY_FILE
    url = hf_hub_url(repository, file, repo_type="dataset", revision=revision)
    token = get_token()
    return url.removesuffix(f"/{ANY_FILE}"), {"Authorization": f"Bearer {token}"} if token else {}


def hub_names(path: str) -> list[str]:
    """The names of the files in a folder. UserError where the hub does not answer or has no such data set."""
    repository, revision, folder = _parts(path)
    try:
        entries = HfApi().list_repo_tree(repository, folder or None, repo_type="dataset", revision=revision)
        return [entry.path.rpartition("/")[2] for entry in entries if isinstance(entry, RepoFile)]
    except RepositoryNotFoundError as fault:
        raise UserError(f"the hub has no data set {repository}, or it needs a token: run `hf auth login`") from fault
    except EntryNotFoundError as fault:
        raise UserError(f"the data set {repository} has no folder {folder!r} at revision {revision}") from fault
    except (HfHubHTTPError, OSError) as fault:
        raise UserError(f"the hub does not answer about {repository} ({type(fault).__name__}); try again") from fault


def _parts(path: str) -> tuple[str, str, str]:
    user, _, rest = path.partition("/")
    name, _, folder = rest.partition("/")
    name, _, revision = name.partition("@")
    if not name:
        raise UserError(f"hf://datasets/{path} is not understood; write hf://datasets/USER/NAME@REVISION/FOLDER")
    return f"{user}/{name}", revision or "main", folder
