"""The settings that all model families share, and what must be known of each before JAX starts."""

import itertools
from typing import Any, ClassVar

from pydantic import Field, field_validator

from charjax.config.fields import Count, Order, Section
from charjax.config.values import format_value


class FamilyConfig(Section):
    """Settings that every model family shares.

    Attributes:
      fitted: counts, and is not trained by gradients.
      carries: a state is carried along a text, whatever its length.
      default_context: training windows where model.context_length is not given and the layout is
        not lines.
      window_is_shape: the window is part of the model's shape, whatever the lines' lengths.
      depth_field: the setting that is the depth (hidden layers or blocks), if there is one.
      width_field: the setting that is their width, if there is one.
      fixed_size: where a depth or a width without a setting comes from, for messages.
      has_hidden_kernels: there are kernels between embedding and readout.
      has_readout: the readout is a layer of its own, not a table that is looked up.
      learns_from_zeros: some parameter has a gradient where all are zero.
      is_linear_layers: every kernel belongs to a linear layer whose output is its product, so that
        it can be scaled by that output's size.
      is_plain_stack: layers without gates or skips, one after the other, on the embeddings.
      is_plain_recurrence: one activation of a product with the state, without gates.
      has_forget_gate: a gate with a bias of its own multiplies the old state.
      has_residual_blocks: blocks that are added to a stream.
    """

    fitted: ClassVar[bool] = False
    carries: ClassVar[bool] = False
    default_context: ClassVar[int] = 64
    window_is_shape: ClassVar[bool] = False
    depth_field: ClassVar[str | None] = None
    width_field: ClassVar[str | None] = None
    fixed_size: ClassVar[str] = "model.context_length's"
    has_hidden_kernels: ClassVar[bool] = True
    has_readout: ClassVar[bool] = True
    learns_from_zeros: ClassVar[bool] = True
    is_linear_layers: ClassVar[bool] = True
    is_plain_stack: ClassVar[bool] = False
    is_plain_recurrence: ClassVar[bool] = False
    has_forget_gate: ClassVar[bool] = False
    has_residual_blocks: ClassVar[bool] = False

    context_length: Count | None = Field(
        None,
        description="characters seen at once; unset: 64 (bigram, mlp, wavenet 8), and with "
        "layout lines the longest line, or the 99th percentile of the lengths if the longest is "
        "over 4 times that (not mlp, wavenet)",
    )

    @property
    def depth(self) -> int:
        """Hidden layers or blocks; 0 where the family has none."""
        return getattr(self, self.depth_field) if self.depth_field else 0

    @property
    def width(self) -> int:
        """Units of each hidden layer or block; 0 where the family has none."""
        return getattr(self, self.width_field) if self.width_field else 0

    @property
    def head_width(self) -> int | None:
        """Units of one head, which `resized` keeps; None without heads."""
        return None

    def resized(self, depth: int, width: int) -> dict[str, Any]:
        """Return the settings of a model of another depth and width.

        What has a width of its own (embeddings of an MLP or a recurrent network) keeps it.

        Args:
          depth: hidden layers or blocks; not used by a family without `depth_field`.
          width: units of each; not used without `width_field`; with heads a multiple of theirs.
        """
        sizes = {self.depth_field: depth, self.width_field: width}
        return {field: size for field, size in sizes.items() if field is not None}


class TrainedConfig(FamilyConfig):
    """Settings that the families trained by gradients share."""

    counts: tuple[Order, ...] = Field(
        (),
        max_length=8,
        description="n of each of the modified Kneser-Ney counts that predict together with the "
        "network, which learns what they leave over, as in [3, 5, 8]; []: the network alone",
    )
    count_folds: int = Field(
        20,
        ge=2,
        le=1000,
        description="parts of the training split, each predicted by the counts of the others",
    )
    count_auxiliary: float = Field(
        0.3,
        ge=0,
        le=100,
        description="weight of the loss of the network alone in what is trained, beside the "
        "mixture's",
    )

    count_words: int = Field(
        0,
        ge=0,
        le=4,
        description="families that carry a state: whole words of the contexts of a further expert, "
        "which counts what followed the same words; 0: none",
    )
    count_temperature: float = Field(
        1.0,
        ge=0.1,
        le=10,
        description="divides the mixture's logits in evaluation and sampling, not in training",
    )

    @field_validator("counts", mode="before")
    @classmethod
    def _list_counts(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return (value,) if value else ()
        return value

    @field_validator("counts")
    @classmethod
    def _check_counts(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(b <= a for a, b in itertools.pairwise(value)):
            raise ValueError(
                f"model.counts: {format_value(value)} given; each n must be larger than the one "
                "before, as in [3, 5, 8]"
            )
        return value
