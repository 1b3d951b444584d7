"""The classifier that a phase starts from: out of a checkpoint, or an architecture with given or random weights."""

from __future__ import annotations

import torch
from torch import nn

from slr_det.adapter import TrainJob
from slr_det.data.classification import ClassificationData, MemorySplit
from slr_det.errors import ConfigError
from slr_det_adapters.timm import checkpoints, models
from slr_det_adapters.timm.arguments import Arguments
from slr_det_adapters.timm.cards import Card
from slr_det_adapters.timm.datasets import require_fit, warn


def starting_model(job: TrainJob, data: ClassificationData, arguments: Arguments) -> tuple[nn.Module, Card]:
    """The model of a training phase, tried on an image. Weights for other classes keep their backbone, with a warning.

    Raises:
        ConfigError: The model cannot be built, or cannot take images of this size.
        CheckpointError: The weights cannot be read, or do not fit the architecture or the data.
    """
    others = None
    if checkpoints.is_checkpoint(job.model):
        net, card = checkpoints.read(job.model)
    else:
        net, card, others = new_model(job.model, job.weights, data)
    require_fit(card, data, job.model, job.data)
    card = card.at(arguments.size)
    require_size(net, card)
    if others is not None:
        warn(
            f"weights={job.weights} are for {others} classes and the data has {len(data.classes)}: the output layer "
            "starts from random weights, the rest from the file"
        )
    return net, card


def new_model(name: str, weights: str, data: ClassificationData) -> tuple[nn.Module, Card, int | None]:
    """An architecture for a data set, with the weights a user asked for.

    Returns:
        The model, its card, and the number of classes that the weights are for, where that is another one than the
        data's: the output layer has then random weights.

    Raises:
        ConfigError: No such model, or it cannot take so many channels.
        CheckpointError: The weights are those of another architecture.
    """
    net, others = models.with_weights(name, weights, len(data.classes), data.channels)
    return net, _card(name, data), others


@torch.no_grad()
def require_size(net: nn.Module, card: Card) -> None:
    """Raise ConfigError where the network cannot take images of the card's size, by trying it on a black one."""
    training = net.training
    first = next(net.parameters())
    try:
        net.eval()(torch.zeros(1, card.channels, *card.size, device=first.device))
    except (RuntimeError, AssertionError, ValueError) as error:
        if "out of memory" in str(error).lower():
            raise
        raise ConfigError(
            f"model={card.model} cannot take images of {card.size[0]} x {card.size[1]} pixels "
            f"({models.one_line(error)}); give another size=N, or another model"
        ) from error
    finally:
        net.train(training)


def _card(name: str, data: ClassificationData) -> Card:
    """How a model sees a data set: small images as they are, photographs as the model was made for."""
    made_for = models.made_for(name)
    size = made_for.size
    if isinstance(data.train, MemorySplit) and data.size is not None and not made_for.only_size:
        size = data.size
    own = len(made_for.mean) == data.channels
    mean, std = (made_for.mean, made_for.std) if own else (data.mean, data.std)
    return Card(models.full_name(name), data.classes, data.channels, size, mean, std)
