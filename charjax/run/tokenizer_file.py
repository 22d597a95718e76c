"""tokenizer.json in the directory of a run that has subword tokens."""

from pathlib import Path

from charjax import files
from charjax.data.subwords import BpeTokenizer
from charjax.data.tokenizers import Tokenizer
from charjax.errors import UserError

_NAME = "tokenizer.json"


def write_tokenizer(directory: Path, tokenizer: Tokenizer) -> None:
    """Write the file, for other programs: a run reads its tokens from its checkpoints."""
    if isinstance(tokenizer, BpeTokenizer):
        files.replace(directory / _NAME, tokenizer.json)


def check_tokenizer(directory: Path, tokenizer: Tokenizer) -> None:
    """Raise a UserError if the file has other tokens than the run; one that is missing is not.

    Args:
      directory: of a run that is to be resumed.
      tokenizer: of its checkpoints or, before the first, of its text.
    """
    path = directory / _NAME
    if not isinstance(tokenizer, BpeTokenizer) or not path.exists():
        return
    if path.read_bytes() != tokenizer.json.encode():
        raise UserError(
            f"--resume: {str(path)!r} was changed; the run goes on with the tokens it began with: "
            "put the old file back, or remove it (it is written again)"
        )
