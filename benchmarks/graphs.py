"""Compile options by which XLA starts a whole loop on a GPU as one CUDA graph.

As it is, XLA records only what lies between loops. A loop of known length is then started kernel
by kernel, and at every turn of one of unknown length, such as a chunk of training steps, the host
waits to learn whether it goes on. These are options of one compilation, not flags of the
environment: XLA ends the process at a flag that it does not know, and of an option it says so.
"""

from typing import Any

from benchmarks.section import LeftOut, first_line

# XLA's default and the loops; whole lists of names, as an option takes no "+WHILE".
_COMMANDS = "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE"
GRAPHS: dict[str, Any] = {
    "xla_gpu_enable_command_buffer": _COMMANDS,
    "xla_gpu_graph_min_graph_size": 1,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "CUDA graph": GRAPHS,
    "CUDA graph, unrolled": GRAPHS | {"xla_gpu_command_buffer_unroll_loops": True},
    "no CUDA graph": {"xla_gpu_enable_command_buffer": ""},
}


def compiled(lowered: Any, options: dict[str, Any]) -> Any:
    """Compile what has been lowered.

    Raises:
      LeftOut: this version of XLA does not know one of the options, or its value.
    """
    import jax

    try:
        return lowered.compile(compiler_options=options or None)
    except jax.errors.JaxRuntimeError as error:
        if "compile option" in str(error) or "While setting option" in str(error):
            raise LeftOut(first_line(error)) from None
        raise
