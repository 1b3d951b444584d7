"""``report.md``: the page a person reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import yaml

from slr_det.report.published import beside_published
from slr_det.report.table import (
    METRIC_NOTES,
    PHASE_LABELS,
    Report,
    duration,
    files_line,
    headline,
    metric_label,
    metric_names,
    number,
    parts_pruned,
    phase_table,
    rate,
    runs,
    score,
    size,
)

_CLASSES_SHOWN = 12

_FILES = {"dense": "dense checkpoint", "pruned": "pruned checkpoint", "packed": "packed file"}

_PICTURES = {
    "metric_vs_iteration": (
        "Score after hard pruning",
        "What the model would score if it were hard-pruned at each iteration. The marks at the right are the "
        "final hard-pruned models, the dashed line is the dense model.",
    ),
    "convergence": (
        "Convergence",
        "Distance between the weights W and their sparse copies Z, and the step size s of the multipliers.",
    ),
    "conditions": (
        "Conditions (6) and (11)",
        "At which iterations the surrogate optimality conditions held, so that the multipliers moved.",
    ),
    "sparsity": (
        "Sparsity per layer",
        "Share of zero weights in each layer; grey rows are dense on purpose.",
    ),
    "heatmap": (
        "Weights before and after",
        "One layer as a matrix (filters x inputs): dense, and in the pruned checkpoint.",
    ),
}


def markdown(report: Report) -> str:
    """The whole page as Markdown; ``report`` is a valid report."""
    blocks: list[str] = [f"# {report['name']}", result_sentence(report)]
    if report["warnings"]:
        blocks.append("\n".join(f"> **Warning:** {_line(warning)}" for warning in report["warnings"]))
    blocks += ["## Scores", *_scores(report)]
    blocks += ["## Compression", *_compression(report)]
    blocks += ["## Budget", *_budget(report)]
    blocks += ["## How the method went", *_course(report)]
    if report["compression"]["layers"]:
        blocks += ["## Layers", *_layers(report)]
    pictures = report.get("pictures", {})
    if pictures or report["plots"]:
        blocks += ["## Pictures", *_pictures(pictures), *_plots(report["plots"])]
    blocks += ["## Make it again", *_reproduce(report)]
    return "\n\n".join(blocks) + "\n"


def result_sentence(report: Report) -> str:
    """The run in one sentence, for example "**slr** compressed ... 3.33x ...; AP50 0.871 -> 0.862 ..."."""
    block = report["compression"]
    metric = headline(report)
    text = (
        f"**{_line(report['method'])}** made the model **{rate(block['model']['rate'])} smaller** in nonzero weights, "
        f"counted over the whole model ({rate(block['groups']['rate'])} over the pruned groups)"
    )
    if report["final_phase"] == "dense":
        text = "The dense model, before any pruning"
    steps = []
    for phase, words in (
        ("hard_prune", "after hard pruning"),
        ("bn_recalibrated", "with the batch norms recalibrated"),
        ("retrain", f"after {_epochs(report, 'retrain')}masked retraining"),
    ):
        if phase in report["phases"]:
            steps.append(f"-> **{number(score(report, phase, metric))}** {words}")
    if "dense" in report["phases"]:
        steps.insert(0, f"{number(score(report, 'dense', metric))} dense")
    return (
        f"{text}; {metric_label(metric)} {', '.join(steps).replace(', ->', ' ->')}." if steps else f"{text}."
    )


def _epochs(report: Report, phase: str) -> str:
    epochs = report["phases"].get(phase, {}).get("epochs")
    if epochs is None:
        return ""
    return f"{epochs:g} epoch{'' if epochs == 1 else 's'} of "


def _scores(report: Report) -> Iterator[str]:
    names = metric_names(report) or [headline(report)]
    yield table(phase_table(report, names), text_columns=2)
    yield (
        "Scores are fractions of 1. *Hard-pruned* is the model right after its small weights were set to zero, "
        "without any further training; *BN recalibrated* adds forward passes that refresh the batch-norm "
        "statistics; *retrained* adds training in which the zeros stay zero."
    )
    notes = [METRIC_NOTES[name] for name in names if name in METRIC_NOTES]
    if notes:
        yield f"Of the columns, {'; '.join(notes)}."
    beside = beside_published(report)
    if beside is not None:
        what, rows = beside
        source = report["paper"].get("source")
        origin = f" ({_line(source)})" if source else ""
        yield f"Beside the published numbers{origin}{f', {_line(what)}' if what else ''}:"
        yield table(rows, text_columns=2)
    yield from _classes(report)


def _classes(report: Report) -> Iterator[str]:
    """Score per class, dense and at the end: the classes that lost most come first."""
    dense = report["phases"].get("dense", {}).get("metrics", {}).get("per_class") or {}
    final = report["phases"][report["final_phase"]]["metrics"].get("per_class") or {}
    if report["final_phase"] == "dense" or not final:
        return
    metric = headline(report)
    changes: list[tuple[float, str, float | None, float | None]] = []
    for name, scores in final.items():
        before, after = dense.get(name, {}).get(metric), scores.get(metric)
        gap = 0.0 if before is None or after is None else after - before
        changes.append((gap, name, before, after))
    changes.sort(key=lambda change: change[0])
    rows = [["class", "dense", PHASE_LABELS[report["final_phase"]], "change"]]
    for gap, name, before, after in changes[:_CLASSES_SHOWN]:
        known = before is not None and after is not None
        rows.append([name, number(before), number(after), f"{gap:+.3f}" if known else ""])
    more = f", the {_CLASSES_SHOWN} of {len(changes)} that lost most" if len(changes) > _CLASSES_SHOWN else ""
    yield f"{metric_label(metric)} per class{more}:"
    yield table(rows, text_columns=1)


def _compression(report: Report) -> Iterator[str]:
    rows = [["", "weights", "nonzero", "zeros", "compression rate"]]
    found = report["compression"]
    parts = found.get("parts", {})
    for title, block in (("pruned groups", found["groups"]), *parts.items(), ("whole model", found["model"])):
        zeros = 1 - block["nonzero"] / block["weights"] if block["weights"] else 0.0
        rows.append(
            [title, f"{block['weights']:,}", f"{block['nonzero']:,}", f"{zeros:.1%}", rate(block["rate"])]
        )
    yield table(rows, text_columns=1)
    yield (
        "Compression rate = all weights / nonzero weights. The rate over the *pruned groups* is what the method "
        "was asked for; the rate over the *whole model* counts every parameter, with the layers that stay dense, "
        "the biases and the norms."
    )
    told = parts_pruned(found)
    if told is not None:
        yield f"What was pruned: {told}. Each of these rates counts every parameter of its part."
    sizes = report["bytes"]
    rows = [["file", "size", "dense checkpoint / this"]]
    for name, count in sizes.items():
        ratio = f"{sizes['dense'] / count:.2f}x" if sizes["dense"] and count else ""
        rows.append([_FILES.get(name, _line(name)), size(count), ratio])
    yield table(rows, text_columns=1)
    yield (
        "The pruned checkpoint is an ordinary one that stores its zeros like any other value: pruning alone does "
        "not make it smaller, and any difference in size comes from what else a file holds (an optimizer, an "
        "averaged copy, the precision)."
    )
    if sizes.get("packed"):
        yield (
            f"The packed file is the pruned checkpoint without its zeros ({files_line(sizes)}). "
            "`python -m slr_det.unpack pruned.slr -o pruned.pt` makes the checkpoint again, byte for byte."
        )


def _budget(report: Report) -> Iterator[str]:
    """Epochs and time per phase, and the share of it that the method itself took."""
    columns = {
        "dense": "dense training",
        "hard_prune": "under the method",
        "bn_recalibrated": "BN recalibration",
        "retrain": "masked retraining",
    }
    rows = [["method", "iterations", *columns.values(), "ends of iterations"]]
    for label, run in runs(report):
        history = run["history"]
        own = [record["seconds"] for record in history if record.get("seconds") is not None]
        cells = []
        for phase in columns:
            block = run["phases"].get(phase, {})
            epochs = block.get("epochs")
            parts = ["" if not epochs else f"{epochs:g} epochs", duration(block.get("seconds"))]
            cells.append(", ".join(part for part in parts if part))
        rows.append([label, str(len(history)), *cells, duration(sum(own)) if own else ""])
    yield table(rows, text_columns=1)
    yield (
        "Every method starts from the same dense model. *Ends of iterations* is the part of the time under the "
        "method that went into projections and multipliers."
    )


def _course(report: Report) -> Iterator[str]:
    rows = [["method", "W - Z, first", "W - Z, last", "step size, last", "(6) held", "(11) held"]]
    for label, run in runs(report):
        history = run["history"]
        distances = [r["distance"] for r in history if r.get("distance") is not None]
        steps = [r["step_size"] for r in history if r.get("step_size") is not None]
        rows.append(
            [
                label,
                f"{distances[0]:.4g}" if distances else "",
                f"{distances[-1]:.4g}" if distances else "",
                f"{steps[-1]:.4g}" if steps else "",
                held(history, "condition_6"),
                held(history, "condition_11"),
            ]
        )
    yield table(rows, text_columns=1)
    yield (
        "||W - Z|| is the distance between the weights and their sparse copies: the closer to zero, the less hard "
        "pruning changes. The multipliers of SLR move only where condition (6), after training, and condition "
        "(11), after the projection, hold; methods without such conditions leave the columns empty."
    )


def held(history: Sequence[Report], condition: str) -> str:
    """How often a condition held, as "12 of 20"; empty where it never applied."""
    values = [record[condition] for record in history if record.get(condition) is not None]
    return f"{sum(values)} of {len(values)}" if values else ""


def _layers(report: Report) -> Iterator[str]:
    rows = [["layer", "shape", "projection", "weights", "nonzero", "zeros", "planned keep"]]
    for layer in report["compression"]["layers"]:
        dense = layer["keep"] is None
        zeros = 1 - layer["nonzero"] / layer["weights"] if layer["weights"] else 0.0
        rows.append(
            [
                f"`{layer['name']}`",
                " x ".join(map(str, layer["shape"])),
                f"dense: {layer['reason'] or 'not selected'}"
                if dense
                else projection_text(layer["projection"]),
                f"{layer['weights']:,}",
                f"{layer['nonzero']:,}",
                f"{zeros:.1%}",
                "" if dense else f"{layer['keep']:.4g}",
            ]
        )
    yield table(rows, text_columns=3)
    if any(layer.get("group") for layer in report["compression"]["layers"]):
        yield (
            "Layers that share a budget may trade weights with each other: their planned keep ratio is what the "
            "dense weights would have given."
        )


def projection_text(projection: Any) -> str:
    """A projection for people: ``unstructured``, ``n:m (n 2, m 4)``, ``block (rows 4, cols 4)``."""
    if projection is None:
        return ""
    if not isinstance(projection, Mapping):
        return str(projection)
    options = ", ".join(f"{key} {value}" for key, value in projection.items() if key != "name")
    name = str(projection.get("name", "projection"))
    return f"{name} ({options})" if options else name


def _pictures(pictures: Mapping[str, Report]) -> Iterator[str]:
    """What the models make of examples, with the titles and captions of those who drew it."""
    for picture in pictures.values():
        title = _line(picture["title"])
        yield f"### {title}"
        if picture.get("caption"):
            yield _line(picture["caption"])
        yield f"![{title}]({quote(picture['file'])})"


def _plots(plots: Mapping[str, str]) -> Iterator[str]:
    for name, path in plots.items():
        title, caption = _PICTURES.get(name, (name, ""))
        yield f"### {title}"
        if caption:
            yield caption
        yield f"![{title}]({path})"


def _reproduce(report: Report) -> Iterator[str]:
    if report["command"]:
        yield f"```sh\n{report['command']}\n```"
    rows = [["what", "value"]]
    rows.append(["written", report["created"]])
    rows.append(["seed", "not set" if report["seed"] is None else str(report["seed"])])
    rows.append(["device", report["device"]])
    rows.append(["slr_det commit", report["commit"] or "installed package, no checkout"])
    rows += [[f"{name} version", version] for name, version in report["versions"].items()]
    yield table(rows, text_columns=2)
    if report["config"]:
        text = yaml.safe_dump(dict(report["config"]), sort_keys=False, allow_unicode=True).rstrip()
        yield f"<details><summary>Configuration</summary>\n\n```yaml\n{text}\n```\n\n</details>"


def table(rows: Sequence[Sequence[str]], text_columns: int) -> str:
    """A Markdown table, titles first; the first ``text_columns`` flush left, columns without a value left out."""
    used = [c for c in range(len(rows[0])) if c == 0 or any(row[c] for row in rows[1:])]
    rule = [":---" if c < text_columns else "---:" for c in used]
    body = [[_line(row[c]).replace("|", "\\|") for c in used] for row in rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [body[0], rule, *body[1:]])


def _line(text: Any) -> str:
    """``text`` on one line: a newline would end a table row or a quotation."""
    return " ".join(str(text).split())
