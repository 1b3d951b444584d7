"""What happens to a batch of small images before a network sees it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def augment_batch(images: Tensor, generator: torch.Generator, pad: int, flip: bool) -> Tensor:
    """Crop each image at random out of its zero-padded self, and mirror half of them.

    Drawn from ``generator`` are, in this order, a row offset and a column offset per image (where ``pad`` is above 0)
    and a coin per image (where ``flip`` is set), so that its state and the images decide the result.

    Args:
        images: uint8, (N, channels, height, width), on any device; not changed.
        generator: Source of randomness; it may live on another device than the images.
        pad: Black pixels put on each side before cropping, 0 or more.
        flip: Mirror left and right with probability 1/2.

    Returns:
        A tensor like ``images``; the very same where there is nothing to do.
    """
    count, _, height, width = images.shape
    device = images.device
    if pad > 0:
        offsets = torch.randint(0, 2 * pad + 1, (2, count), generator=generator, device=generator.device).to(
            device
        )
        padded = functional.pad(images, (pad, pad, pad, pad))
        # Every window as a view, (N, channels, 2 pad + 1, 2 pad + 1, height, width): only the chosen ones are copied.
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        images = windows[torch.arange(count, device=device), :, offsets[0], offsets[1]]
    if flip:
        coins = torch.rand(count, generator=generator, device=generator.device).to(device) < 0.5
        images = torch.where(coins.view(-1, 1, 1, 1), images.flip(3), images)
    return images


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Scale pixels as networks want them: (pixels / 255 - mean) / std.

    Args:
        images: uint8, (N, channels, height, width).
        mean: Per channel, of pixels in [0, 1].
        std: Per channel, of pixels in [0, 1].

    Returns:
        float32, the shape of ``images``.
    """
    shape = (1, -1, 1, 1)
    centre = torch.tensor(mean, dtype=torch.float32, device=images.device).view(shape)
    spread = torch.tensor(std, dtype=torch.float32, device=images.device).view(shape)
    return images.to(torch.float32).div_(255).sub_(centre).div_(spread)
