"""The conditions under which a run reads each setting.

`READ` lists every setting with the conditions that must all hold for a run to read it; without
conditions every run reads it. If one fails the setting is "unread", and
`charjax.config.load_config` rejects a value other than its default.
"""

from collections.abc import Callable
from typing import NamedTuple

from charjax.config.families import FAMILIES, families_where
from charjax.config.optimizers import KINDS, kinds_reading
from charjax.config.sections import Config
from charjax.config.values import value_text
from charjax.extensions import FIELDS, is_reference
from charjax.extensions.loading import installed_names


class When(NamedTuple):
    """A condition on the other settings.

    Attributes:
      choices: the settings (section.key) that it depends on, the most direct first.
      holds: return True if a resolved configuration satisfies it.
      clause: the reader of the setting, as a part of an error message.
    """

    choices: tuple[str, ...]
    holds: Callable[[Config], bool]
    clause: str


class Unread(NamedTuple):
    """The reason why a run does not read a setting.

    Attributes:
      choices: the settings or flags that it depends on, as in `When`.
      clause: the reader of the setting, as a part of an error message.
    """

    choices: tuple[str, ...]
    clause: str


def why_unread(config: Config, name: str) -> Unread | None:
    """Return the reason why a run of a resolved configuration does not read `section.key`.

    Returns:
      The first condition that fails; None if the setting is read.
    """
    for when in READ.get(name, ()):
        if not when.holds(config):
            return Unread(when.choices, when.clause.format(_value(config, when.choices[0])))
    return None


def _value(config: Config, name: str) -> str:
    section, _, key = name.partition(".")
    return value_text(getattr(getattr(config, section), key, "absent"))


def _one_of(choice: str, *values: str) -> When:
    section, _, key = choice.partition(".")
    named = " or ".join(values)

    def holds(config: Config) -> bool:
        value = getattr(getattr(config, section), key)
        # What code of the user's own reads is seen when it is built.
        if value in values or choice not in FIELDS:
            return value in values
        return is_reference(value) or value in installed_names(choice)

    return When(
        (choice,),
        holds,
        f"only {choice}={named} reads it, and {choice} is {{}}",
    )


_TRAINED = When(
    ("model.kind",),
    lambda config: not config.model.fitted,
    "only families that are trained by gradients read it, and model.kind={} counts",
)
_HELD_OUT = When(
    ("data.val_fraction",),
    lambda config: config.data.val_fraction > 0,
    "it concerns the held-out part of the text, and data.val_fraction is {}",
)
_OWN_TEXT = When(
    ("data.path",),
    lambda config: config.data.path is not None,
    "only a text of your own (data.path) is read by it, and none is given",
)
_CHARACTERS = When(
    ("data.tokenizer",),
    lambda config: config.data.tokenizer != "byte",
    "data.tokenizer={} reads every byte",
)
_LIST = When(
    ("data.layout", "data.split", "data.name"),
    lambda config: config.data.documents == "lines",
    "only a list of lines is read by it, and the text is one document (data.layout={})",
)
_NAMED = When(("data.path",), lambda config: config.data.path is None, "data.path is read instead")
_OWN_SPLIT = When(
    ("data.val_path",),
    lambda config: config.data.val_path is None,
    "data.val_path={} is the validation text",
)
# An unset split follows from the corpus and the layout.
_INTERLEAVED = When(
    ("data.split", "data.name", "data.path", "data.layout"),
    lambda config: config.data.split == "interleaved",
    "only data.split=interleaved reads it, and data.split is {}",
)
_CUT = When(
    ("data.val_fraction",),
    lambda config: config.data.val_fraction > 0 or config.data.documents == "lines",
    "data.val_fraction={} holds nothing out, and the text is one document",
)
_HIDDEN = When(
    ("model.hidden",),
    lambda config: getattr(config.model, "hidden", (1,)) != (),
    "only hidden layers have one, and model.hidden is empty",
)
# Embedding and readout are drawn by rules of their role.
_KERNELS = When(
    ("model.kind",),
    lambda config: config.model.has_hidden_kernels,
    "only layers between embedding and readout read it, and model.kind={} has none",
)
_BIASES = When(
    ("model.bias", "init.sigma_w"),
    lambda config: config.init.sigma_w is None or getattr(config.model, "bias", True),
    "only biases read it where init.sigma_w is given, and model.bias is {}",
)
_NORMS = When(
    ("model.residual", "model.qk_norm"),
    lambda config: (
        getattr(config.model, "residual", "") not in ("rezero", "plain", "fixup")
        or getattr(config.model, "qk_norm", False)
    ),
    "only norms read it, and model.residual={} has none",
)
_SEVERAL_BLOCKS = When(
    ("model.n_layer",),
    lambda config: getattr(config.model, "n_layer", 2) > 1,
    "only two blocks or more can be a loop, and model.n_layer is {}",
)
_COUNTED = When(
    ("model.counts",),
    lambda config: bool(getattr(config.model, "counts", ())),
    "only counts beside the network read it, and model.counts is {}",
)
_NOT_ADJUSTED = When(
    ("init.scheme",),
    lambda config: config.init.scheme not in ("lsuv", "metainit"),
    "init.scheme={} finds the size of every kernel itself, and would undo it",
)
_ON_GPU = When(
    ("runtime.device",),
    lambda config: config.runtime.device in ("auto", "gpu"),
    "only a GPU reads it, and runtime.device is {}",
)
_DROPOUT = When(
    ("model.dropout",),
    lambda config: getattr(config.model, "dropout", 0.0) > 0,
    "only dropout reads it, and model.dropout is {}",
)
_WANDB = When(
    ("log.wandb",),
    lambda config: config.log.wandb,
    "only log.wandb=true reads it, and log.wandb is {}",
)
_EVALUATED = When(
    ("eval.every",),
    lambda config: config.eval.every > 0,
    "only evaluations during the run count, and eval.every is {}",
)
_EXACT = _one_of("eval.protocol", "exact")
_SCORED = When(
    ("data.val_fraction",),
    lambda config: config.model.fitted or _HELD_OUT.holds(config),
    "it concerns the held-out part of the text, and data.val_fraction is {}",
)
_CARRIED = When(
    ("model.kind",),
    lambda config: config.model.carries,
    "only families that carry a state read it (" + ", ".join(families_where(carries=True)) + "), "
    "and model.kind is {}",
)
_IN_PARTS = When(
    ("eval.streams", "eval.max_targets"),
    lambda config: config.eval.streams > 1 or config.eval.max_targets is not None,
    "only parts and windows (eval.streams, eval.max_targets) have characters before them, and "
    "eval.streams is {}",
)
_DECAYS = When(
    ("optim.weight_decay",),
    lambda config: config.optim.weight_decay > 0,
    "only a decay reads it, and optim.weight_decay is {}",
)
_NO_AVERAGE = When(
    ("optim.kind",),
    lambda config: config.optim.kind != "schedule_free_adamw",
    "optim.kind={} averages its parameters itself",
)
_DECAYING = _one_of("optim.schedule", "cosine", "wsd", "exponential")
_WSD = _one_of("optim.schedule", "wsd")
_MULTIPLIED = _one_of("optim.schedule", "step", "exponential")
_RANDOM = _one_of("eval.protocol", "random")
_SCALED_WIDTH = _one_of(
    "init.scheme", "mup", "mup_zero_query", "depth_mup", "completep", "spectral"
)
_SCALED_DEPTH = _one_of("init.scheme", "depth_mup", "completep")


def _of_optimizer(setting: str) -> tuple[When, ...]:
    return (_TRAINED, _one_of("optim.kind", *kinds_reading(setting)))


READ: dict[str, tuple[When, ...]] = {
    "data.name": (_NAMED,),
    "data.path": (),
    "data.val_path": (),
    "data.tokenizer": (),
    "data.vocab_size": (_one_of("data.tokenizer", "bpe"),),
    "data.split": (_CUT,),
    "data.val_fraction": (_OWN_SPLIT,),
    "data.layout": (),
    "data.sampling": (_TRAINED,),
    "data.byte_order_mark": (_OWN_TEXT, _CHARACTERS),
    "data.strip_lines": (_LIST,),
    # Training reads it, and the evaluation of any family.
    "data.device_bytes": (),
    "data.rows": (_INTERLEAVED, _HELD_OUT),
    "data.chunk": (_INTERLEAVED, _HELD_OUT),
    # Settings of [model] belong to one family; all are read except these.
    **{f"model.{key}": () for family in FAMILIES.values() for key in family.model_fields},
    "model.alpha": (_one_of("model.smoothing", "additive"),),
    "model.prune": (_one_of("model.smoothing", "kneser_ney", "modified_kneser_ney"),),
    "model.norm": (_HIDDEN, _NORMS),
    "model.norm_epsilon": (_NORMS,),
    "model.scan_layers": (_SEVERAL_BLOCKS,),
    "model.count_folds": (_COUNTED,),
    "model.count_auxiliary": (_COUNTED,),
    "model.count_temperature": (_COUNTED,),
    "model.count_words": (_COUNTED, _CARRIED),
    "model.rotary_base": (_one_of("model.positions", "rotary"),),
    "init.scheme": (_TRAINED,),
    "init.std": (_TRAINED, _one_of("init.scheme", "normal")),
    "init.scale": (_TRAINED, _one_of("init.scheme", "uniform")),
    "init.gain": (_TRAINED, _KERNELS, _HIDDEN, _NOT_ADJUSTED),
    "init.sigma_w": (_TRAINED, _one_of("init.scheme", "critical"), _KERNELS, _HIDDEN),
    "init.sigma_b": (_TRAINED, _one_of("init.scheme", "critical"), _KERNELS, _HIDDEN, _BIASES),
    "init.epsilon": (_TRAINED, _one_of("init.scheme", "layerscale")),
    "init.forget_bias": (_TRAINED, _one_of("init.scheme", "forget_bias")),
    "init.longest_delay": (_TRAINED, _one_of("init.scheme", "chrono")),
    "init.base_width": (_TRAINED, _SCALED_WIDTH),
    "init.base_depth": (_TRAINED, _SCALED_DEPTH),
    "init.meta_steps": (_TRAINED, _one_of("init.scheme", "metainit")),
    "optim.kind": (_TRAINED,),
    "optim.learning_rate": (_TRAINED,),
    "optim.schedule": (_TRAINED,),
    "optim.warmup_steps": (_TRAINED,),
    "optim.decay_steps": (_TRAINED, _DECAYING),
    "optim.min_learning_rate": (_TRAINED, _DECAYING),
    "optim.decay_fraction": (_TRAINED, _WSD),
    "optim.tail": (_TRAINED, _WSD),
    "optim.boundaries": (_TRAINED, _MULTIPLIED),
    "optim.factor": (_TRAINED, _MULTIPLIED),
    "optim.staircase": (_TRAINED, _one_of("optim.schedule", "exponential")),
    "optim.weight_decay": (_TRAINED,),
    "optim.cautious_decay": (_TRAINED, _DECAYS),
    **{f"optim.{key}": _of_optimizer(key) for kind in KINDS.values() for key in kind.settings},
    "optim.l2": (_TRAINED,),
    "optim.grad_clip": (_TRAINED,),
    "optim.clip_value": (_TRAINED,),
    "optim.accumulate_steps": (_TRAINED,),
    "optim.ema": (_TRAINED, _NO_AVERAGE),
    "train.steps": (_TRAINED,),
    "train.epochs": (_TRAINED,),
    "train.batch_size": (_TRAINED,),
    # Samples read it, too.
    "train.seed": (),
    "train.log_every": (_TRAINED,),
    "train.sample_every": (_TRAINED,),
    "train.patience": (_TRAINED, _HELD_OUT, _EVALUATED),
    "train.max_skipped": (_TRAINED,),
    "train.label_smoothing": (_TRAINED,),
    "train.z_loss": (_TRAINED,),
    # The loop stops at these steps even where nothing is held out.
    "eval.every": (_TRAINED,),
    "eval.protocol": (_TRAINED, _HELD_OUT),
    "eval.batches": (_TRAINED, _HELD_OUT, _RANDOM),
    # `python -m charjax.evaluate` reads it too, and can score the training part.
    "eval.batch_size": (),
    "eval.max_targets": (_SCORED, _EXACT),
    "eval.streams": (_CARRIED, _SCORED, _EXACT),
    "eval.warmup": (_CARRIED, _SCORED, _EXACT, _IN_PARTS),
    "checkpoint.every": (_TRAINED,),
    "checkpoint.keep": (_TRAINED,),
    "log.tensorboard": (),
    "log.wandb": (),
    "log.wandb_project": (_WANDB,),
    "runtime.device": (),
    # A bigram computes in float32 either way, but the setting concerns the whole run.
    "runtime.dtype": (_TRAINED,),
    "runtime.deterministic": (_ON_GPU,),
    "runtime.prng": (_TRAINED, _DROPOUT),
    "runtime.mesh": (_TRAINED,),
}
