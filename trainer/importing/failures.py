"""What went wrong while the libraries loaded something, in one line; without a network, how to go on."""

from __future__ import annotations

from collections.abc import Iterator

# Of huggingface_hub, its HTTP library, requests and urllib, wherever in their chain of causes one stands.
_NO_NETWORK = frozenset(
    {
        "ConnectError",
        "ConnectTimeout",
        "ConnectionError",
        "LocalEntryNotFoundError",
        "MaxRetryError",
        "OfflineModeIsEnabled",
        "ReadTimeout",
        "Timeout",
        "URLError",
        "gaierror",
    }
)
_BY_HAND = {
    "hf-hub:": "its folder (open_clip_config.json, weights, tokenizer files, and config.json of the text model that it"
    " may name) and import local-dir:FOLDER",
    "hf:": "its folder (config.json, preprocessor_config.json, model.safetensors) and import hf:/path/to/FOLDER",
    "open_clip:": "its weights and import open_clip:NAME --weights FILE",
    "timm:": "its weights and import timm:NAME --weights FILE",
    "xrv:": "its weights and import xrv:NAME --weights FILE",
}


def is_no_network(error: BaseException) -> bool:
    """Whether an error says that nobody answered, and not what somebody did."""
    return any(type(one).__name__ in _NO_NETWORK for one in _causes(error))


def failure(error: BaseException, kind: str = "") -> str:
    """One line. kind: of the source (load.py)."""
    if is_no_network(error):
        by_hand = f": fetch {_BY_HAND[kind]}" if kind in _BY_HAND else ""
        return f"not on this machine, and no network to fetch it{by_hand}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__]
