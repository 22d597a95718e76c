"""Facts of a compiled program, read from its text: collectives, custom calls, waits for the host.

XLA's HLO is text of computations, each with a line per instruction. What a GPU does in which order
is in a second text, the thunks: XLA writes it into the directory of `--xla_dump_to`.
"""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

# "%body.1 (p: f32[2]) -> f32[2] {", "ENTRY %main (...) -> ... {"
_HEAD = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
# " %name = type opcode(": the type may be a tuple with nested parentheses.
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z][\w-]*)\(")
_CALLED = re.compile(
    r"(?:calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_BODY = re.compile(r"\bbody=%?([\w.-]+)")
_TARGET = re.compile(r'custom_call_target="([^"]+)"')
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
# Instructions that the host takes part in: a callback's, infeed and outfeed.
_HOST_OPCODES = ("infeed", "outfeed", "send", "recv")
_HOST_TARGETS = re.compile(r"callback|host|Host|Debug", re.ASCII)
# Arrays in the host's memory: "f32[]{:T(128)S(5)}", "f32[8]{0:S(5)}".
_HOST_MEMORY = re.compile(r"[:)]S\(5\)")
# Thunks that copy between the device and the host, or run on the host.
_HOST_THUNKS = ("HostExecute", "HostSend", "HostRecv", "Infeed", "Outfeed", "HostToDevice")
_THUNK = re.compile(r"^(\s*)\d+: k(\w+)(.*)$")


class Collective(NamedTuple):
    """A collective operation.

    Attributes:
      kind: as XLA calls it, such as all-reduce.
      bytes: of its result on each device.
      dtypes: of its result's arrays.
      loops: 0 outside of all loops, 1 in a loop, 2 in a loop of that, ...
      source: of JAX's program.
    """

    kind: str
    bytes: int
    dtypes: tuple[str, ...]
    loops: int
    source: str


def collectives(text: str) -> list[Collective]:
    """Return the collective operations of a program in HLO."""
    found = []
    for depth, kind, type_, line in _instructions(text):
        name = kind.removesuffix("-start")
        if name in _COLLECTIVES:
            arrays = _ARRAY.findall(type_)
            # An asynchronous one returns its operands, too.
            size = sum(_bytes(*array) for array in arrays) // (2 if kind.endswith("-start") else 1)
            source = _OP_NAME.search(line)
            dtypes = tuple(dict.fromkeys(dtype for dtype, _ in arrays))
            found.append(Collective(name, size, dtypes, depth, source[1] if source else ""))
    return found


def custom_calls(text: str) -> set[str]:
    """Return the targets of the custom calls of a program in HLO."""
    return set(_TARGET.findall(text))


def host_calls(text: str) -> list[str]:
    """Return what the host takes part in during the loops of a program in HLO."""
    found = []
    for depth, kind, type_, line in _instructions(text):
        target = _TARGET.search(line)
        is_host = kind.removesuffix("-start").removesuffix("-done") in _HOST_OPCODES
        is_host |= target is not None and bool(_HOST_TARGETS.search(target[1]))
        is_host |= bool(_HOST_MEMORY.search(type_)) and kind not in (
            "parameter",
            "get-tuple-element",
        )
        if depth and is_host:
            source = _OP_NAME.search(line)
            found.append(f"{target[1] if target else kind}: {source[1] if source else ''}")
    return found


def host_waits(thunks: str) -> list[str]:
    """Return where a GPU waits for the host in every turn of a program's loops.

    A loop in a command buffer (a CUDA graph) runs on the GPU alone. Of another the host reads,
    before each turn, whether there is one more; of what is in a command buffer it does nothing.

    Args:
      thunks: the text that XLA writes as "*.thunk_sequence_after_thunk_passes.txt".
    """
    found: list[str] = []
    graphs: list[int] = []
    for line in thunks.splitlines():
        match = _THUNK.match(line)
        if match is None:
            continue
        indent, kind = len(match[1]), match[2]
        graphs = [each for each in graphs if each < indent]
        if kind == "CommandBuffer":
            graphs.append(indent)
        if kind == "While" and not graphs:
            found.append(f"{kind}: the host reads whether there is another turn")
        if kind.startswith(_HOST_THUNKS) or (kind == "CustomCall" and not graphs):
            found.append(f"{kind}:{match[3].rstrip()}")
    return found


def _instructions(text: str) -> Iterable[tuple[int, str, str, str]]:
    """Yield (loops around it, opcode, type, line) of all that is reached from the entry.

    What is called from several places comes once, with the most loops.
    """
    lines, entry = _computations(text)
    depths: dict[str, int] = {}
    left = [(entry, 0)]
    while left:
        name, depth = left.pop()
        if name not in lines or depths.get(name, -1) >= depth:
            continue
        depths[name] = depth
        for line in lines[name]:
            bodies = set(_BODY.findall(line))
            branches = [
                word.strip().lstrip("%")
                for group in _BRANCHES.findall(line)
                for word in group.split(",")
            ]
            left += [
                (called, depth + (called in bodies))
                for called in [*_CALLED.findall(line), *branches]
            ]
    for name, depth in depths.items():
        for line in lines[name]:
            if match := _INSTRUCTION.match(line):
                yield depth, match[2], match[1], line


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Return the lines of each computation, and the name of the entry."""
    lines: dict[str, list[str]] = {}
    entry = current = ""
    for line in text.splitlines():
        if match := _HEAD.match(line):
            current = match[2]
            lines[current] = []
            entry = current if match[1] else entry
        elif line.startswith("}"):
            current = ""
        elif current:
            lines[current].append(line)
    return lines, entry


def _bytes(dtype: str, dims: str) -> int:
    count = math.prod(int(dim) for dim in dims.split(",") if dim)
    bits = re.search(r"\d+", dtype)
    return count * (int(bits[0]) // 8 if bits else 1)
