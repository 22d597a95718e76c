"""The section [data]: the text, its split, and its layout in batches."""

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from charjax.config.fields import Count, Section
from charjax.config.values import format_value
from charjax.errors import did_you_mean

# Default of data.device_bytes.
DEVICE_BYTES = 256_000_000

Corpus = Literal["stdlib", "shakespeare", "names", "warpeace"]
Split = Literal["tail", "shuffled_lines", "interleaved"]
Layout = Literal["stream", "lines", "pairs"]


class DataConfig(Section):
    """The text, its split, and its layout in batches."""

    name: Corpus = Field("stdlib", description="a named corpus: found, cached or downloaded")
    path: str | tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="your own text: a file, a folder, or a list of them; overrides data.name",
    )
    val_path: str | tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="your own validation text, likewise; the whole data.path is then trained on",
    )
    tokenizer: Literal["char", "byte", "bpe"] | str = Field(
        "char", description="unit of a token; or the path of a byte-level tokenizer.json"
    )
    vocab_size: int = Field(
        1024, ge=256, le=1_000_000, description="bpe: tokens learned from the training part"
    )
    split: Split | None = Field(
        None, description="the split into train, val and test; unset: the corpus's default"
    )
    val_fraction: float = Field(
        0.1, ge=0, lt=0.5, description="fraction held out (shuffled_lines: also the test part's)"
    )
    layout: Layout | None = Field(
        None, description="windows of one text, one document per line, or (context, target) pairs"
    )
    sampling: Literal["random", "epoch", "contiguous"] = Field(
        "random", description="with replacement; each window once per epoch; rows read in order"
    )
    rows: Count = Field(100, description="interleaved: rows the text is folded into")
    chunk: Count = Field(100, description="interleaved: characters per chunk of a row")
    byte_order_mark: Literal["drop", "keep"] = Field(
        "drop", description="at the start of your own text; keep: it is a symbol, as in nanoGPT"
    )
    strip_lines: bool = Field(
        False, description="lines: blanks at both ends of a line are left out, as in makemore"
    )
    device_bytes: int = Field(
        DEVICE_BYTES,
        ge=0,
        le=2 * 10**9,
        description="largest part of a text, in bytes of its tokens, that is put on the device; "
        "batches of a larger one are read on the host",
    )

    @field_validator("path", "val_path", mode="before")
    @classmethod
    def _check_paths(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse, in one line, what is neither a path nor a list of them."""
        paths = value if isinstance(value, tuple) and value else (value,)
        if value is None or all(isinstance(path, str) and _is_utf8(path) for path in paths):
            return value
        raise ValueError(
            f"data.{info.field_name}: {format_value(value)} given; must be a text file, "
            'a folder of them, or a list such as ["a.txt", "b.txt"], with names in UTF-8'
        )

    @model_validator(mode="after")
    def _resolve(self) -> "DataConfig":
        """Fill in the corpus's own split and layout, and refuse the pairs that make no sense."""
        split, layout = self.split, self.layout
        own_split, own_layout = _CORPUS_DEFAULTS[None if self.path else self.name]
        if own_split == "interleaved" and (self.val_path or self.subwords):
            own_split = "tail"
        if split == "interleaved" and self.val_path:
            raise ValueError(
                'data.split: "interleaved" given with data.val_path; it divides one text into '
                "train, val and test: leave one of the two out"
            )
        if layout is None:
            layout = "lines" if split == "shuffled_lines" else own_layout
        if layout == "lines" and (split == "interleaved" or self.sampling == "contiguous"):
            raise ValueError(
                'data.layout: "lines" given; interleaved splits and contiguous sampling read one '
                'long text: use data.layout = "stream"'
            )
        if layout == "pairs" and self.sampling == "contiguous":
            raise ValueError(
                'data.sampling: "contiguous" given; pairs have no state to carry: use "random" or '
                '"epoch", or data.layout = "stream"'
            )
        if split is None:
            is_list = own_split == "shuffled_lines" and layout != "stream"
            split = "shuffled_lines" if layout == "lines" or is_list else own_split
            split = "tail" if split == "shuffled_lines" and layout == "stream" else split
        if split == "shuffled_lines" and layout == "stream":
            raise ValueError(
                'data.split: "shuffled_lines" given with data.layout = "stream"; shuffled lines '
                'are documents: use data.layout = "lines" or "pairs", or data.split = "tail"'
            )
        object.__setattr__(self, "split", split)
        object.__setattr__(self, "layout", layout)
        return self

    @field_validator("tokenizer", mode="before")
    @classmethod
    def _check_tokenizer(cls, value: Any) -> Any:
        if value in _TOKENIZERS or (isinstance(value, str) and value.endswith(".json")):
            return value
        raise ValueError(
            f"data.tokenizer: {format_value(value)} given; must be one of "
            f"{', '.join(_TOKENIZERS)}, or the path of a tokenizer.json"
            f"{did_you_mean(value, _TOKENIZERS)}"
        )

    @property
    def subwords(self) -> bool:
        """Return true if a token may hold several characters, or a part of one."""
        return self.tokenizer not in ("char", "byte")

    @property
    def title(self) -> str:
        """The text's name in reports: the corpus, or the file, folder or first of a list."""
        if self.path is None:
            return self.name
        return self.path if isinstance(self.path, str) else self.path[0]

    @property
    def documents(self) -> Literal["lines", "one"]:
        """The documents of the text: its lines, or the text as one."""
        is_list = self.path is None and self.name == "names" and self.layout != "stream"
        lines = self.layout == "lines" or self.split == "shuffled_lines" or is_list
        return "lines" if lines else "one"


_TOKENIZERS = ("char", "byte", "bpe")


def _is_utf8(text: str) -> bool:
    """Return false for a name with bytes that config.toml could not hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_CORPUS_DEFAULTS: dict[str | None, tuple[Split, Layout]] = {
    "stdlib": ("tail", "stream"),
    "shakespeare": ("tail", "stream"),
    "names": ("shuffled_lines", "lines"),
    "warpeace": ("interleaved", "stream"),
    None: ("tail", "stream"),
}
