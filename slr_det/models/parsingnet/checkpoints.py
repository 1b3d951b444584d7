"""Weights of Ultra-Fast-Lane-Detection, and of torchvision's ResNets, into a ParsingNet.

The other way needs no code: ``torch.save({"model": net.state_dict()}, path)`` is a checkpoint of upstream's, where
``net.config.fits_upstream``.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from slr_det.errors import CheckpointError
from slr_det.models.parsingnet.config import TUSIMPLE_ROWS, ParsingNetConfig
from slr_det.models.parsingnet.describe import AUXILIARY, deployed
from slr_det.models.parsingnet.resnet import DEPTHS, Depth, widths
from slr_det.models.weights import load_into

#: What a checkpoint without the auxiliary head does not tell: upstream's number of lanes.
_LANES = 4
#: CULane's row anchors.
CULANE_ROWS = (121, 131, 141, 150, 160, 170, 180, 189, 199, 209, 219, 228, 238, 248, 258, 267, 277, 287)
_BACKBONE = "model."
_CLASSIFIER = "fc."


def holds_backbone_alone(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is that of a ResNet for classification, as torchvision publishes them."""
    return "conv1.weight" in state and "layer1.0.conv1.weight" in state


def load(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy weights into a model, all of them or, on an error, none.

    A ResNet's classifier is left out, and an auxiliary head that the model has not. A model whose auxiliary head has
    no weights in the state dict keeps its own.

    Args:
        model: A ParsingNet, or upstream's own; it keeps its device and dtypes.
        state: Tensors by name, as :func:`slr_det.models.weights.read_state_dict` returns them: of a whole
            parsingNet, or of a ResNet, which becomes the backbone.
        source: Where they come from, for the message.

    Raises:
        CheckpointError: A name or a shape differs.
    """
    if holds_backbone_alone(state):
        backbone = {name: t for name, t in state.items() if not name.startswith(_CLASSIFIER)}
        load_into(model.get_submodule("model"), backbone, source)
        return
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(AUXILIARY)}
    if not own:
        state = deployed(state)
    elif not any(name.startswith(AUXILIARY) for name in state):
        state = {**state, **own}
    load_into(model, state, source)


def config_of(state: Mapping[str, Tensor], source: str) -> ParsingNetConfig:
    """The configuration of a checkpoint of upstream's, from the shapes of its weights.

    Without the auxiliary head the number of lanes is taken to be 4. The row anchors are TuSimple's, or CULane's where
    only their number fits.

    Raises:
        CheckpointError: These are not the weights of an upstream parsingNet.
    """
    for name in (f"{_BACKBONE}conv1.weight", "pool.weight", "cls.0.weight", "cls.2.weight"):
        if name not in state:
            raise CheckpointError(
                f"{source}: has no weight '{name}', expected a checkpoint of Ultra-Fast-Lane-Detection"
            )
    depth = next((name for name in DEPTHS if _is(name, state)), None)
    if depth is None:
        raise CheckpointError(
            f"{source}: the backbone is none of ResNet {', '.join(DEPTHS)} at full width; a network of another width "
            "comes with its configuration"
        )
    aux = any(name.startswith(AUXILIARY) for name in state)
    lanes = state["aux_combine.4.weight"].shape[0] - 1 if "aux_combine.4.weight" in state else _LANES
    answers = state["cls.2.weight"].shape[0]
    for rows in (TUSIMPLE_ROWS, CULANE_ROWS):
        cells, rest = divmod(answers, len(rows) * lanes)
        if rest == 0 and cells > 2:
            found = ParsingNetConfig(depth, cells - 1, rows, lanes, aux=aux)
            break
    else:
        raise CheckpointError(
            f"{source}: cls.2.weight has {answers} rows, expected a multiple of {lanes} lanes at "
            f"{len(TUSIMPLE_ROWS)} rows of a picture"
        )
    for name, expected in (
        ("cls.0.weight", (found.hidden, found.features)),
        ("pool.weight", (found.pool, widths(depth, 1.0)[-1], 1, 1)),
    ):
        if tuple(state[name].shape) != expected:
            raise CheckpointError(
                f"{source}: '{name}' has shape {list(state[name].shape)}, upstream's parsingNet has {list(expected)}; "
                "a network of another size comes with its configuration"
            )
    return found


def _is(name: str, state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint has this backbone, by the number of its blocks and the shapes of the first."""
    depth: Depth = DEPTHS[name]
    stem, middle, *_ = widths(name, 1.0)
    for layer, count in enumerate(depth.blocks, start=1):
        found = {key.split(".")[2] for key in state if key.startswith(f"{_BACKBONE}layer{layer}.")}
        if len(found) != count:
            return False
    first = f"{_BACKBONE}layer1.0."
    if (f"{first}conv3.weight" in state) != depth.bottleneck or f"{first}conv2.weight" not in state:
        return False
    shape = tuple(state[f"{first}conv2.weight"].shape)
    width = middle if depth.bottleneck else stem
    return shape == (width, width // depth.groups, 3, 3)
