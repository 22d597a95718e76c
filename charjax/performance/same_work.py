"""Configurations that PyTorch's originals compute, too; PyTorch itself is not imported here."""

from charjax.config import Config
from charjax.extensions import is_reference

KINDS = ("bigram", "mlp", "rnn", "gru", "lstm", "transformer")


def why_not(config: Config) -> str | None:
    """Return why a configuration has no counterpart in PyTorch here; None if it has one."""
    model, optim, data = config.model, config.optim, config.data
    if model.kind not in KINDS:
        return f"model.kind={model.kind} has no PyTorch original here; {', '.join(KINDS)} have"
    layout = "pairs" if model.kind == "mlp" else "stream"
    if data.layout != layout:
        return f"data.layout={data.layout}; the original trains on data.layout={layout}"
    if data.sampling != "random":
        return f"data.sampling={data.sampling}; the original trains on random windows"
    if is_reference(activation := getattr(model, "activation", "")):
        return f"model.activation={activation} is code of your own; the original has its own"
    if optim.kind != "adamw" or optim.accumulate_steps != 1 or optim.l2:
        return "optim: the original trains by AdamW, without optim.accumulate_steps and optim.l2"
    if optim.clip_value or config.train.label_smoothing or config.train.z_loss:
        return (
            "optim.clip_value, train.label_smoothing or train.z_loss: the original trains the "
            "cross-entropy, clipped by its norm alone"
        )
    if model.kind == "mlp" and (len(model.hidden) != 1 or model.norm != "none"):
        return "model: the original MLP has one hidden layer and no norm"
    return None


def labels(kind: str, *, has_compiler: bool) -> dict[str, str]:
    """Return the contestants, each with the reason to leave it out, or none.

    Args:
      kind: of the model.
      has_compiler: whether there is a C++ compiler, which torch.compile needs on a CPU.
    """
    compiled = "" if has_compiler else "no C++ compiler found"
    if kind in ("rnn", "gru", "lstm"):
        compiled = "torch.compile leaves nn.RNN, nn.GRU and nn.LSTM as they are"
    return {"torch eager": "", "torch compile": compiled}
