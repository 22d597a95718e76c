"""The dtype of a run: how much time bfloat16 takes here, and the choice of `runtime.dtype=auto`.

On a CPU bfloat16 may be slower than float32: the processor has no instructions for it, or the
products are too small to be worth rounding their operands. So it is measured, in a few tenths of a
second: the product that has most of the model's multiplications, at its real widths and with tanh
behind it, forward and backward, in both dtypes by turns. Compiling the whole step in both would
take longer than the rest of a start.
On other devices nothing is measured: their products in bfloat16 are faster wherever they have any.

Letters: N rows, D input width, E output width.
"""

import concurrent.futures
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from charjax import backend, processes
from charjax.config import Config
from charjax.models import CharModel
from charjax.models.roles import MATRIX_ROLES, Role, parameter_of
from charjax.ops.choice import is_small_product
from charjax.ops.linear import matmul

DType = Literal["float32", "bfloat16"]
_DTYPES: tuple[DType, ...] = ("float32", "bfloat16")
# Ratios closer to 1 are within what two measurements differ by.
_MARGIN = 0.05
_TURNS = 9
# Multiplications of one product, and of all that are timed in one turn (a few milliseconds).
_MOST_MULTIPLICATIONS, _TURN = 2**25, 2**26
_LEAST_ROWS = 32
_MEASURED = "measured at the start, on the model's main product"
# NVIDIA's Ampere is the first with products in bfloat16.
_AMPERE = 8.0


class Product(NamedTuple):
    """A product of the forward pass, (N, D) times (D, E)."""

    N: int
    D: int
    E: int

    @property
    def multiplications(self) -> int:
        """N D E."""
        return self.N * self.D * self.E


def choose_dtype(
    config: Config, model: CharModel, mesh: Mesh, targets: int, saved: DType | None = None
) -> tuple[DType, str | None]:
    """Return the dtype of a run, and a line for its user if there is something to say.

    All processes of a run call this; the first one measures.

    Args:
      config: with `runtime.dtype` as given.
      model: in any dtype.
      mesh: the devices in use.
      targets: of a window.
      saved: the dtype of the run that is resumed, which "auto" keeps.
    """
    requested = config.runtime.dtype
    if model.fitted or requested == "float32":
        return "float32", None
    if (platform := mesh.devices.flat[0].platform) != "cpu":
        chosen: DType = "bfloat16" if has_bfloat16(mesh.devices.flat[0]) else "float32"
        if requested != "auto":
            return "bfloat16", None
        why = f"the {platform} {'has' if chosen == 'bfloat16' else 'has no'} products in bfloat16"
        return _described(chosen, saved, why)
    text = ""
    if processes.is_first():
        product = main_product(model, config.train.batch_size, targets)
        text = "" if product is None else repr(measured_ratio(product, mesh))
    if not (text := processes.from_first(text)):
        if requested != "auto":
            return "bfloat16", None
        return _described("float32", saved, "this model has no products that gain from bfloat16")
    ratio = float(text)
    why = f"bfloat16 takes {ratio:.2f} times float32's time here ({_MEASURED})"
    if requested != "auto":
        slow = f"runtime.dtype: {why}: give runtime.dtype=float32 or auto"
        return "bfloat16", slow if ratio > 1 + _MARGIN else None
    return _described("bfloat16" if ratio < 1 - _MARGIN else "float32", saved, why)


def with_dtype(config: Config, dtype: DType) -> Config:
    """Return the configuration with a dtype in the place of what was given."""
    runtime = config.runtime.model_copy(update={"dtype": dtype})
    return config.model_copy(update={"runtime": runtime})


def _described(chosen: DType, saved: DType | None, why: str) -> tuple[DType, str]:
    """Return the dtype that "auto" is, and the line about it."""
    if saved is None or saved == chosen:
        return chosen, f"runtime.dtype=auto is {chosen}: {why}"
    return saved, (
        f"runtime.dtype=auto stays {saved}, as the run began, and would be {chosen} here: {why}"
    )


def has_bfloat16(device: Any) -> bool:
    """Return true for an accelerator that multiplies in bfloat16: a TPU, an Ampere GPU, an AMD."""
    if device.platform == "tpu":
        return True
    if device.platform not in ("gpu", "cuda", "rocm"):
        return False
    capability = str(getattr(device, "compute_capability", ""))
    # AMD's are named, as gfx942; all that ROCm's jaxlib runs on have such products.
    return capability.startswith("gfx") or _number(capability) >= _AMPERE


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def main_product(model: CharModel, batch: int, targets: int) -> Product | None:
    """Return the product of a step's forward pass that has most of its multiplications.

    A recurrent kernel multiplies a batch at a time, any other all targets together. Left out are
    products that the family computes in float32 either way; None: there is no other.
    """
    tokens_BT = jax.ShapeDtypeStruct((1, model.lookback + 1), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens_BT)["params"]
    counts: dict[Product, int] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(shapes)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        role = parameter_of(model.roles, name).role
        if leaf.ndim != 2 or role not in (*MATRIX_ROLES, Role.READOUT):
            continue
        turns = targets if role is Role.RECURRENT else 1
        D, E = leaf.shape
        product = Product(batch * targets // turns, D, E)
        if not (model.widens_small_products and is_small_product(*product)):
            counts[product] = counts.get(product, 0) + turns
    return max(counts, key=lambda p: p.multiplications * counts[p], default=None)


def measured_ratio(product: Product, mesh: Mesh) -> float:
    """Return bfloat16's time over float32's for a product, the median of turns.

    It is the processor's time: by the clock, turns of a few milliseconds are at the mercy of
    whatever else runs on the machine.
    It is cut to the rows of a device that shares the batch, and to fewer where it is large.
    """
    most = max(_LEAST_ROWS, _MOST_MULTIPLICATIONS // (product.D * product.E))
    rows = max(1, product.N // mesh.size)
    product = product._replace(N=min(rows, most))
    repeats = max(1, round(_TURN / product.multiplications))
    # Compiling is most of the time; the two do not wait for each other.
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        build = functools.partial(_work, product, repeats, mesh)
        works = dict(zip(_DTYPES, threads.map(build, _DTYPES), strict=True))
    ratios = []
    for turn in range(_TURNS):
        order = sorted(works, reverse=bool(turn % 2))
        seconds = {dtype: _seconds(works[dtype]) for dtype in order}
        ratios.append(seconds["bfloat16"] / seconds["float32"])
    return statistics.median(ratios)


def _seconds(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    # Some systems count it in coarse steps.
    return max(time.process_time() - began, 1e-6)


def _work(product: Product, repeats: int, mesh: Mesh, dtype: DType) -> Callable[[], None]:
    """Compile a product in a dtype; return what does it so many times, and waits."""
    x_ND = jnp.full((product.N, product.D), 0.01, dtype)
    kernel_DE = jnp.full((product.D, product.E), 0.01, jnp.float32)
    lowered = jax.jit(_forward_and_backward).lower(x_ND, kernel_DE, jnp.int32(repeats))
    program = lowered.compile(compiler_options=backend.compiler_options(mesh) or None)

    def work() -> None:
        jax.block_until_ready(program(x_ND, kernel_DE, jnp.int32(repeats)))

    # The first call builds the product.
    work()
    return work


def _forward_and_backward(x_ND: Array, kernel_DE: Array, repeats: Array) -> tuple[Array, Array]:
    def updated(_: Array, operands: tuple[Array, Array]) -> tuple[Array, Array]:
        """Return operands that depend on the gradients, so that none is left out."""
        x_ND, kernel_DE = operands
        y_NE, backward = jax.vjp(_layer, x_ND, kernel_DE)
        dx_ND, dkernel_DE = backward(y_NE)
        return x_ND + dx_ND * jnp.asarray(1e-6, x_ND.dtype), kernel_DE - 1e-6 * dkernel_DE

    operands: tuple[Array, Array] = jax.lax.fori_loop(0, repeats, updated, (x_ND, kernel_DE))
    return operands


def _layer(x_ND: Array, kernel_DE: Array) -> Array:
    """Compute tanh(x W), with the product in the dtype of x."""
    product_NE = matmul(x_ND, kernel_DE.astype(x_ND.dtype))
    return jnp.tanh(product_NE.astype(jnp.float32)).astype(x_ND.dtype)
