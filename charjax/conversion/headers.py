"""What an exported file says of itself in its header, so that it can be imported without a config.

The tensors are all that PyTorch reads; this is one text beside them, JSON, under `charjax`.
"""

import json
from typing import Any, NamedTuple

from charjax.data.tokenizers import Tokenizer, tokenizer_from_json
from charjax.errors import UserError

_KEY = "charjax"


class Header(NamedTuple):
    """What is said: the resolved config, the alphabet, the SHA-256 of the text, and the step."""

    config: dict[str, Any]
    tokenizer: Tokenizer
    dataset_digest: str
    step: int


def write_header(header: Header) -> dict[str, str]:
    """The metadata of a safetensors file."""
    told = header._asdict() | {"tokenizer": header.tokenizer.to_json()}
    # "format" is what other readers of safetensors ask for.
    return {"format": "pt", _KEY: json.dumps(told, sort_keys=True)}


def read_header(metadata: dict[str, str]) -> Header | None:
    """The header, or None where another program wrote the file.

    Raises:
      UserError: it is there, but not as it was written.
    """
    if _KEY not in metadata:
        return None
    try:
        told = json.loads(metadata[_KEY])
        header = Header(
            {name: dict(section) for name, section in told["config"].items()},
            tokenizer_from_json(told["tokenizer"]),
            str(told["dataset_digest"]),
            int(told["step"]),
        )
        header.tokenizer.encode("")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"FILE: its header has a damaged entry {_KEY!r} ({type(error).__name__}: {error}); "
            "export the run again, or leave the header out and give a config"
        ) from None
    return header
