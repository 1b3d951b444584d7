"""A parsingNet for export: images in, the answers of every row out; the auxiliary head stays behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from slr_det.adapter import EvalJob
from slr_det.data.tusimple import TuSimpleDataset
from slr_det.export.exportable import Exportable, Network, Tensors
from slr_det.export.onnxfile import as_text
from slr_det.models.parsingnet import ParsingNet
from slr_det.models.parsingnet.model import Outputs
from slr_det_adapters.lane import checkpoints
from slr_det_adapters.lane.arguments import Arguments
from slr_det_adapters.lane.data import open_data, plain_frames, require_fit
from slr_det_adapters.lane.evaluation import detect, metrics_of, score
from slr_det_adapters.subsets import spread


class Rows(nn.Module):
    """A parsingNet that answers with a tensor.

    Args:
        net: The network.
    """

    def __init__(self, net: ParsingNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """(N, griding + 1, rows, lanes) logits for (N, 3, height, width) images."""
        logits: Tensor = self.net(images, aux=False).logits
        return logits


class Deployed(ParsingNet):
    """A parsingNet whose answers are an exported file's.

    Args:
        net: The network that was exported; it says on which device images come.
        network: The file.
    """

    def __init__(self, net: ParsingNet, network: Network) -> None:
        nn.Module.__init__(self)
        self.config = net.config
        self.net = net
        self._network = network

    def forward(self, images: Tensor, aux: bool | None = None) -> Outputs:
        return Outputs(self._network(images)[0], None)


def exportable_of(job: EvalJob) -> Exportable:
    """The network of a checkpoint: ``images`` (N, 3, height, width), normalised, to ``logits``."""
    arguments = Arguments.read(job.args)
    net = checkpoints.read(job.model).eval()
    require_fit(net.config, job.model)
    folder = open_data(job.data)

    def frames_of(split: str) -> TuSimpleDataset:
        most = arguments.train_frames if split == "train" else arguments.val_frames
        return plain_frames(folder, net.config, arguments, most, split)

    def samples(split: str, count: int) -> Iterator[Tensors]:
        frames = frames_of(split)
        for number in spread(range(len(frames)), count):
            yield (frames[number].image.unsqueeze(0),)

    def evaluate(network: Network) -> dict[str, Any]:
        frames = frames_of("val")
        found = detect(
            Deployed(net, network).eval(), frames, arguments, title="" if job.verbose else "evaluation"
        )
        scores = score(frames, found)
        return {**metrics_of(scores), "frames": scores.clips, "per_class": {}}

    config = net.config
    metadata = {
        "task": "lane",
        "row_anchors": as_text(list(config.row_anchors)),
        "griding": as_text(config.griding),
        "lanes": as_text(config.lanes),
        "input": "images in [0, 1], normalised by ImageNet's mean and deviation, channels first",
        "output": "(griding + 1, rows, lanes) logits, the last class for no lane",
    }
    return Exportable(Rows(net).eval(), ("images",), ("logits",), samples, evaluate, metadata)
