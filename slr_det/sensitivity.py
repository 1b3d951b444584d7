"""How much each layer matters: prune it alone at several ratios, measure, put it back."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from slr_det.errors import CheckpointError, ConfigError, NumericsError, nearest
from slr_det.files import atomic_write
from slr_det.layers import Layer
from slr_det.projections import Projection

SCHEMA = "slr_det.sensitivity/1"
RATIOS = (0.7, 0.5, 0.3, 0.2, 0.1)


@dataclass(frozen=True)
class SensitivityTable:
    """Metric of the model with one layer pruned, for every layer and ratio.

    Attributes:
        baseline: Metric of the model as it was.
        ratios: Keep ratios tried, largest first.
        kept: By layer, the fraction of its weights that really stayed at each ratio (slices round).
        metric: By layer, the metric at each ratio.
        projection: The set the layers were projected onto.
        higher_is_better: Whether a larger metric is a better one.
        fingerprint: SHA-256 of the weights that were scanned.
    """

    baseline: float
    ratios: tuple[float, ...]
    kept: Mapping[str, tuple[float, ...]]
    metric: Mapping[str, tuple[float, ...]]
    projection: Projection
    higher_is_better: bool = True
    fingerprint: str = field(default="", compare=False)

    def drops(self, name: str) -> tuple[float, ...]:
        """What the metric lost at each ratio with this layer pruned; negative where it gained."""
        sign = 1.0 if self.higher_is_better else -1.0
        return tuple(sign * (self.baseline - value) for value in self.metric[name])

    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """(fraction kept, metric lost) points by layer: what ``allocate(..., method="sensitivity")`` takes."""
        return {name: list(zip(self.kept[name], self.drops(name), strict=True)) for name in self.metric}

    def to_json(self) -> str:
        """The table as a JSON document that :meth:`from_json` reads back."""
        document = {
            "schema": SCHEMA,
            "projection": self.projection.to_dict(),
            "ratios": list(self.ratios),
            "higher_is_better": self.higher_is_better,
            "fingerprint": self.fingerprint,
            "baseline": self.baseline,
            "layers": {
                name: {"kept": list(self.kept[name]), "metric": list(values)}
                for name, values in self.metric.items()
            },
        }
        return json.dumps(document, indent=1)

    @classmethod
    def from_json(cls, text: str, where: str = "sensitivity table") -> SensitivityTable:
        """Read :meth:`to_json` back; CheckpointError where it is not such a document."""
        try:
            data = json.loads(text)
            if data["schema"] != SCHEMA:
                raise CheckpointError(
                    f"{where}: schema is {data['schema']!r}, expected {SCHEMA!r}; scan again"
                )
            ratios = tuple(map(float, data["ratios"]))
            layers: Mapping[str, Any] = data["layers"]
            table = cls(
                float(data["baseline"]),
                ratios,
                {name: tuple(map(float, entry["kept"])) for name, entry in layers.items()},
                {name: tuple(map(float, entry["metric"])) for name, entry in layers.items()},
                Projection.from_dict(data["projection"]),
                bool(data["higher_is_better"]),
                str(data["fingerprint"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
            raise CheckpointError(
                f"{where}: is not a sensitivity table or is damaged ({error}); scan again"
            ) from error
        rows = [*table.kept.values(), *table.metric.values()]
        if any(len(row) != len(ratios) for row in rows):
            raise CheckpointError(f"{where}: is damaged (a layer has not one value per ratio); scan again")
        return table

    @classmethod
    def load(cls, path: str | Path) -> SensitivityTable:
        """Read a table from a file; ConfigError where there is none, CheckpointError where it is damaged."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise ConfigError(f"{path}: no such file; scan the model first") from error
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error})") from error
        return cls.from_json(text, str(path))

    def save(self, path: str | Path) -> Path:
        """Write the table as JSON, as a whole or not at all."""
        return atomic_write(path, self.to_json())

    def plot(self, path: str | Path, *, metric: str = "metric") -> Path:
        """Draw a heat map, layers x keep ratios, of what the metric lost; the format follows the file's suffix."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        names = list(self.metric)
        values = [self.drops(name) for name in names]
        top = max((abs(v) for row in values for v in row), default=0.0) or 1.0
        figure = Figure(
            figsize=(4.5 + 0.75 * len(self.ratios), 1.6 + 0.26 * len(names)), layout="constrained"
        )
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        # One sign matters: a loss is red, a gain (noise) is blue, zero is white in every plot.
        image = axes.imshow(values, aspect="auto", cmap="RdBu_r", vmin=-top, vmax=top)
        axes.set_xticks(range(len(self.ratios)), [f"{ratio:g}" for ratio in self.ratios])
        axes.set_yticks(range(len(names)), [name.removesuffix(".weight") for name in names], fontsize=8)
        axes.set_xlabel(f"keep ratio ({self.projection})")
        axes.set_title(f"{metric} lost with one layer pruned (all dense: {self.baseline:.3f})", fontsize=10)
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                colour = "white" if abs(value) > 0.6 * top else "black"
                axes.text(x, y, f"{value:.3f}", ha="center", va="center", fontsize=7, color=colour)
        figure.colorbar(image, ax=axes, shrink=0.8)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=Path(path).suffix.lstrip(".") or "png", dpi=130)
        return atomic_write(path, buffer.getvalue())

    def __str__(self) -> str:
        """The table as aligned text: one line per layer, what the metric lost at each ratio."""
        width = max([len(name) for name in self.metric] + [len("layer")])
        lines = [
            f"metric lost with one layer pruned ({self.projection}); all dense: {self.baseline:.4f}",
            "layer".ljust(width) + "".join(f"{f'keep {ratio:g}':>11}" for ratio in self.ratios),
        ]
        lines += [
            name.ljust(width) + "".join(f"{v:>11.4f}" for v in self.drops(name)) for name in self.metric
        ]
        return "\n".join(lines)


def scan(
    layers: Sequence[Layer],
    evaluate: Callable[[], float],
    weights: Mapping[str, Tensor],
    ratios: Sequence[float] = RATIOS,
    projection: Projection | str = "unstructured",
    *,
    cache: str | Path | None = None,
    higher_is_better: bool = True,
    progress: bool = True,
) -> SensitivityTable:
    """Prune each layer alone at several keep ratios and evaluate.

    The given tensors are pruned in place and restored bit for bit, whatever happens in between (errors and Ctrl-C
    included). Layers that the projection cannot take, and those of an unknown kind, are passed over.

    Args:
        layers: Which layers to scan, in order.
        evaluate: Returns the metric of the model that the tensors belong to.
        weights: The model's own tensors by parameter name.
        ratios: Keep ratios in (0, 1].
        projection: The set each layer is projected onto.
        cache: JSON file, written after every layer; a scan that finds it goes on where it stopped.
        higher_is_better: False for a loss.
        progress: Show a progress bar with the time left.

    Raises:
        ConfigError: A layer is not among the weights, or a ratio is outside (0, 1].
        CheckpointError: The cache is damaged, or of other weights, ratios or another projection.
        NumericsError: ``evaluate`` returned a NaN or infinity.
    """
    chosen = Projection.parse(projection)
    wanted = [
        x
        for x in layers
        if x.kind != "other"
        and (x.kind != "deconv" or chosen.name == "unstructured")
        and chosen.check(x.shape) is None
    ]
    tried = tuple(sorted({float(ratio) for ratio in ratios}, reverse=True))
    problems = [
        f"scan: the model has no parameter '{x.name}'{nearest(x.name, weights)}"
        for x in wanted
        if x.name not in weights
    ]
    problems += [f"scan: ratio is {r}, expected a keep ratio in (0, 1]" for r in tried if not 0.0 < r <= 1.0]
    if not tried:
        problems.append("scan: no ratios given, expected at least one keep ratio in (0, 1]")
    if problems:
        raise ConfigError(problems)
    fingerprint = _fingerprint([(x.name, weights[x.name]) for x in wanted])
    table = _resume(cache, tried, chosen, higher_is_better, fingerprint)
    missing = [x for x in wanted if table is None or x.name not in table.metric]
    with tqdm(
        total=len(missing) * len(tried) + (table is None),
        desc="sensitivity scan",
        unit="eval",
        disable=not progress,
    ) as bar:
        if table is None:
            baseline = _measured(evaluate, "the dense model")
            bar.update()
            table = SensitivityTable(baseline, tried, {}, {}, chosen, higher_is_better, fingerprint)
        kept, metric = dict(table.kept), dict(table.metric)
        for layer in missing:
            bar.set_postfix_str(layer.name)
            kept[layer.name], metric[layer.name] = _scan_layer(
                layer, weights[layer.name], tried, chosen, evaluate, bar
            )
            table = SensitivityTable(
                table.baseline, tried, kept, metric, chosen, higher_is_better, fingerprint
            )
            if cache is not None:
                table.save(cache)
    order = [x.name for x in wanted]
    return SensitivityTable(
        table.baseline,
        tried,
        {name: table.kept[name] for name in order},
        {name: table.metric[name] for name in order},
        chosen,
        higher_is_better,
        fingerprint,
    )


def _scan_layer(
    layer: Layer,
    weight: Tensor,
    ratios: Sequence[float],
    projection: Projection,
    evaluate: Callable[[], float],
    bar: Any,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    kept: list[float] = []
    values: dict[float, float] = {}
    with _restored(weight) as original:
        for ratio in ratios:
            (mask,) = projection.support([original], ratio)
            kept.append(int(mask.sum()) / layer.numel)
            # n:m sets, and slices rounded to the same number, give one model for several ratios.
            if kept[-1] not in values:
                with torch.no_grad():
                    weight.copy_(torch.where(mask, original, original.new_zeros(())))
                values[kept[-1]] = _measured(evaluate, f"{layer.name} at keep {ratio:g}")
            bar.update()
    return tuple(kept), tuple(values[fraction] for fraction in kept)


@contextmanager
def _restored(weight: Tensor) -> Iterator[Tensor]:
    """A copy of the tensor, which gets its bits back when the block ends, however it ends."""
    original = weight.detach().clone(memory_format=torch.preserve_format)
    try:
        yield original
    finally:
        with torch.no_grad():
            weight.copy_(original)


def _measured(evaluate: Callable[[], float], what: str) -> float:
    value = float(evaluate())
    if not math.isfinite(value):
        raise NumericsError(f"the metric is {value} for {what}; check the model and the evaluation")
    return value


def _resume(
    cache: str | Path | None,
    ratios: tuple[float, ...],
    projection: Projection,
    higher: bool,
    fingerprint: str,
) -> SensitivityTable | None:
    if cache is None or not Path(cache).exists():
        return None
    table = SensitivityTable.load(cache)
    for what, found, asked in (
        ("ratios", table.ratios, ratios),
        ("projection", str(table.projection), str(projection)),
        ("higher_is_better", table.higher_is_better, higher),
    ):
        if found != asked:
            raise CheckpointError(
                f"{cache}: was scanned with {what} {found}, not {asked}; remove it or use another file"
            )
    if table.fingerprint != fingerprint:
        raise CheckpointError(f"{cache}: was scanned with other weights; remove it or use another file")
    return table


def _fingerprint(named: Sequence[tuple[str, Tensor]]) -> str:
    """SHA-256 over names, shapes and bits; the same on every device."""
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
