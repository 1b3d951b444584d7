"""What became of each layer, as rows and as text."""

from __future__ import annotations

from dataclasses import dataclass

from slr_det.runtime.graph import Conv, Graph, Linear, Opaque


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
        name: The model's own name of its weight.
        kind: Such as ``conv 3x3``, ``depthwise conv 3x3``, ``linear``, or the name of torch's operation.
        shape: Of the weight.
        output: Shape of what the layer writes, after its pool where it has one.
        density: Share of the weights that are not zero.
        choice: ``sparse`` or ``dense``.
        sparse_seconds: Median time in the runtime; None where it was not measured.
        dense_seconds: Median time in torch; None where it was not measured.
        reason: Why, in a few words.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    output: tuple[int, ...]
    density: float
    choice: str
    sparse_seconds: float | None
    dense_seconds: float | None
    reason: str


def density(layer: Conv | Linear) -> float:
    """Share of a layer's weights that are not zero."""
    return float((layer.weight != 0).sum()) / layer.weight.numel()


def kind(layer: Conv | Linear) -> str:
    """What a layer is, in a word or two."""
    if isinstance(layer, Linear):
        return "linear"
    size = f"conv {layer.kernel[0]}x{layer.kernel[1]}"
    if layer.transposed:
        return f"transposed {size}"
    if layer.groups > 1:
        return f"depthwise {size}" if layer.weight.shape[1] == 1 else f"grouped {size}"
    return size


def unsupported(graph: Graph) -> list[Row]:
    """Layers with weights that the runtime leaves to torch, each named once."""
    rows: dict[str, Row] = {}
    for node in graph.nodes:
        if isinstance(node, Opaque) and node.layer and node.reason and node.layer not in rows:
            weights = [graph.constants[name] for name in node.inputs if name in graph.constants]
            weight = max(weights, key=lambda tensor: tensor.ndim)
            value = graph.values.get(node.out)
            rows[node.layer] = Row(
                name=node.layer,
                kind=str(node.op).removeprefix("aten.").partition(".")[0],
                shape=tuple(weight.shape),
                output=value.shape if value is not None else (),
                density=float((weight != 0).sum()) / max(weight.numel(), 1),
                choice="dense",
                sparse_seconds=None,
                dense_seconds=None,
                reason=f"not supported: {node.reason}",
            )
    return list(rows.values())


def report(rows: list[Row], reason: str, threads: int) -> str:
    """The table as text.

    Args:
        rows: Layers in the order in which they run.
        reason: Why the whole model runs in torch, or an empty string.
        threads: Of the runtime.
    """
    sparse = sum(row.choice == "sparse" for row in rows)
    lines = [
        f"the whole model runs dense, in torch: {reason}"
        if reason
        else f"{sparse} of {len(rows)} layers run sparse, on {threads} thread{'s' if threads > 1 else ''}"
    ]
    if not rows:
        return lines[0]
    cells = [("layer", "kind", "weights", "density", "runs", "sparse ms", "dense ms", "why")]
    cells += [
        (
            row.name,
            row.kind,
            "x".join(str(size) for size in row.shape),
            f"{row.density:.1%}",
            row.choice,
            _milliseconds(row.sparse_seconds),
            _milliseconds(row.dense_seconds),
            row.reason,
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    numbers = {3, 5, 6}
    for line in cells:
        padded = (
            text.rjust(width) if column in numbers else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.3f}"
