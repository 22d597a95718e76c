"""PyTorch's results for a model, its loss and its optimisers on the same batches."""

import numpy as np
import torch
from torch import nn

from charjax.config import OptimConfig
from tests.parity.cases import (
    FUNCTIONAL,
    OPTIMIZERS,
    PAST_CONTEXT,
    SEED,
    V,
    draw_tokens,
    make_config,
)
from tests.parity.functional import Functional
from tests.parity.nanogpt_training import configure_adamw, get_lr, mean_loss, train_step
from tests.parity.originals import build

Arrays = dict[str, np.ndarray]


def randomise(model: nn.Module, seed: int = 1) -> None:
    """Draw every parameter and statistic anew, so that no bias is zero and no gain one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.4, generator=generator)
            if parameter.dim() == 1 and name.endswith("weight"):
                parameter.add_(1.0)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0, generator=generator)


def compute(name: str, width: int) -> Arrays:
    """Return all numbers of a case: `state/NAME`, `logits`, `grad/NAME`, `adamw/NAME`, ..."""
    config = make_config(name, width)
    model = build(config.model, V)
    randomise(model)
    if config.model.kind == "transformer" and config.model.activation == "gelu_tanh":
        # Far below 0 the slope of 1 + tanh is only rounding, of which AdamW makes steps.
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                parameter.mul_(0.25 if "c_fc" in key else 1.0)
    tokens = torch.from_numpy(draw_tokens().astype(np.int64))
    start = {key: value.clone() for key, value in model.state_dict().items()}
    numbers = {f"state/{key}": value.clone() for key, value in start.items()}
    model.eval()
    out = model(tokens[0, :, :-1])
    numbers["logits"] = (out[0] if isinstance(out, tuple) else out).detach()
    model.train()
    mean_loss(model, tokens[0, :, :-1], tokens[0, :, 1:]).backward()
    numbers |= {f"grad/{key}": p.grad.clone() for key, p in model.named_parameters()}
    after = {key: value for key, value in model.state_dict().items() if "running" in key}
    numbers |= {f"statistics/{key}": value.clone() for key, value in after.items()}
    for kind in OPTIMIZERS:
        model.load_state_dict(start)
        losses = _train(model, make_config(name, width, kind).optim, tokens)
        numbers[f"losses/{kind}"] = torch.tensor(losses)
        numbers |= {f"{kind}/{key}": v.clone() for key, v in model.state_dict().items()}
    return {key: value.numpy() for key, value in numbers.items() if value.is_floating_point()}


def generate(model: nn.Module, tokens: list[int], new: int, block_size: int) -> Arrays:
    """Continue as nanoGPT's `generate` does, always with the likeliest token.

    Each token is drawn from the last `block_size` ones, whatever stood before.

    Returns:
      state/NAME; prompt; text, the tokens with the new ones (T,); logits (new, V) of each of those.
    """
    text, logits = list(tokens), []
    model.eval()
    with torch.no_grad():
        for _ in range(new):
            logits.append(model(torch.tensor([text[-block_size:]]))[0, -1])
            text.append(int(logits[-1].argmax()))
    numbers = {f"state/{key}": value for key, value in model.state_dict().items()}
    numbers |= {"prompt": torch.tensor(tokens), "text": torch.tensor(text)}
    numbers["logits"] = torch.stack(logits)
    return {key: value.numpy() for key, value in numbers.items()}


def generate_past_the_context(width: int) -> Arrays:
    """Continue three tokens over several contexts with a model of nanoGPT's."""
    config = make_config(PAST_CONTEXT, width).model
    model = build(config, V)
    randomise(model, seed=SEED)
    assert config.context_length is not None
    return generate(model, [0, 3, 1], 5 * config.context_length, config.context_length)


def losses_in_float64(
    name: str, width: int, optimizer: str, steps: int
) -> tuple[Arrays, list[float]]:
    """Return the initial float32 state of a case, and its losses before each step, in float64."""
    config = make_config(name, width, optimizer)
    model = Functional(config.model, V) if name in FUNCTIONAL else build(config.model, V)
    randomise(model)
    start = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    tokens = torch.from_numpy(draw_tokens(steps).astype(np.int64))
    return start, _train(model.double(), config.optim, tokens)


def _train(model: nn.Module, optim: OptimConfig, tokens: torch.Tensor) -> list[float]:
    optimizer = _optimizer(model, optim)
    losses = []
    for it, batch in enumerate(tokens):
        rate = optim.learning_rate
        if optim.schedule == "cosine":
            rate = get_lr(it, rate, optim.warmup_steps, optim.decay_steps, optim.min_learning_rate)
        inputs, targets = batch[:, :-1], batch[:, 1:]
        losses.append(train_step(model, optimizer, inputs, targets, rate, optim.grad_clip))
    return losses


def _optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    if optim.kind == "adamw":
        betas = (optim.beta1, optim.beta2)
        optimizer = configure_adamw(model, optim.weight_decay, optim.learning_rate, betas)
        for group in optimizer.param_groups:
            group["eps"] = optim.eps
        return optimizer
    parameters, rate = model.parameters(), optim.learning_rate
    if optim.kind == "rmsprop":
        return torch.optim.RMSprop(
            parameters, rate, alpha=optim.rms_decay, eps=optim.eps, momentum=optim.momentum
        )
    return torch.optim.SGD(parameters, rate, momentum=optim.momentum)
