"""Access to a hub, with huggingface_hub, which reads HF_TOKEN and HF_ENDPOINT. Each error says its remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from configs.contracts.errors import HubError

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

REMEDY_TOKEN = "export HF_TOKEN with a token that may write (https://huggingface.co/settings/tokens), or run `hf auth login`"

CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S = 15.0, 120.0


def open_repository(repo_id: str, *, private: bool | None = None, revision: str | None = None) -> str:
    """Make the repository and the branch, unless they exist. Returns the full id: a name alone gets the token's user before it.

    Raises:
        HubError: no token, no right to write there, no such hub, or no network.
    """
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise HubError(f"there is no token to push to {repo_id} with: a hub takes files only from users it knows; {REMEDY_TOKEN}")
    api = HfApi()
    with _told(api, repo_id):
        user = api.whoami()["name"]
        full = repo_id if "/" in repo_id else f"{user}/{repo_id}"
        api.create_repo(full, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(full, branch=revision, exist_ok=True)
    return full


def upload(files: Mapping[str, Path | bytes], repo_id: str, *, message: str, revision: str | None = None) -> str:
    """Upload files as one commit; returns their web address.

    Args:
        files: name in the repository -> file, or its content.
        repo_id: full id of an existing repository, from `open_repository`.

    Raises:
        HubError: for the same reasons as in `open_repository`.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    with _told(api, repo_id):
        additions = [CommitOperationAdd(name, content) for name, content in files.items()]
        api.create_commit(repo_id, additions, commit_message=message, revision=revision)
    return f"{api.endpoint}/{repo_id}" + (f"/tree/{revision}" if revision else "")


@contextmanager
def _told(api: HfApi, repo_id: str) -> Iterator[None]:
    """Raise every error of the hub and of the network as a HubError that says what to do."""
    from httpx2 import HTTPError, Timeout
    from huggingface_hub import get_session
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    get_session().timeout = Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)  # without this, the client waits for ever
    try:
        yield
    except HFValidationError as error:
        raise HubError(f"{repo_id!r} is not a valid name of a repository: {str(error).splitlines()[0]}; write user/name") from None
    except OfflineModeIsEnabled:
        raise HubError(f"HF_HUB_OFFLINE is set, but pushing to {repo_id} needs the hub; unset it") from None
    except HfHubHTTPError as error:
        raise HubError(_refusal(error, api.endpoint, repo_id)) from None
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        if isinstance(cause, HfHubHTTPError):
            raise HubError(_refusal(cause, api.endpoint, repo_id)) from None
        reason = next(iter(str(cause).strip().splitlines()), "") or type(cause).__name__
        raise HubError(
            f"{api.endpoint} does not answer ({type(cause).__name__}: {reason}): pushing to {repo_id} needs the network; "
            "check the connection, the proxy and HF_ENDPOINT, and push again"
        ) from None


def _refusal(error: HfHubHTTPError, endpoint: str, repo_id: str) -> str:
    status = error.response.status_code if error.response is not None else None
    said = (error.server_message or str(error)).strip().splitlines()
    reason = f"{endpoint} answers {status}: {said[0] if said else 'no reason given'}"
    if status == 401:
        return f"{reason}. The token is not valid there; {REMEDY_TOKEN}"
    if status == 403:
        return f"{reason}. The token may not write to {repo_id}: use one that may, or push to a repository of your own with --repo-id"
    if status == 404:
        return f"{reason}. This token can see no {repo_id}; check --repo-id and --revision"
    if status is not None and (status == 429 or status >= 500):
        return f"{reason}. The hub is overloaded or broken; push again later"
    return f"{reason}. Pushing to {repo_id} was refused; correct the reason given, and push again"
