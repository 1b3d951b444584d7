"""Pictures of a run as text that a page can hold: whole where they are small, scaled down where they are huge."""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from slr_det.report.html.markup import text

_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
_LARGEST = 3_000_000  # bytes of a file that goes into the page as it is
_SIDE = 2000  # pixels of the longer side of a picture that had to be scaled down


def figure(title: str, caption: str, file: Path) -> str:
    """A picture with its title, which a click enlarges; what is no picture is named instead."""
    try:
        source = _source(file)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        why = "is not there" if isinstance(error, FileNotFoundError) else "is no picture that can be shown"
        return f"<figure><figcaption>{text(title)}: {text(file.name)} {why}</figcaption></figure>"
    return (
        f"<figure><figcaption><strong>{text(title)}</strong> <span>{text(caption)}</span></figcaption>"
        f'<button type="button" aria-label="Enlarge: {text(title)}">'
        f'<img src="{source}" alt="{text(title)}"/></button></figure>'
    )


def _source(file: Path) -> str:
    """The picture as a ``data:`` address.

    Raises:
        OSError: It is not there, or no picture.
        Image.DecompressionBombError: It would fill the memory.
    """
    if file.exists() and not file.is_file():
        raise UnidentifiedImageError(f"{file}: no file")  # opening a pipe would wait for ever
    content = file.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            opened = Image.open(io.BytesIO(content), formats=tuple(_TYPES))
        # ultralytics replaces Image.open by one that, for an unreadable image, imports a decoder that may be missing.
        except ImportError as error:
            raise UnidentifiedImageError(f"{file}: no picture") from error
        with opened as picture:
            kind = _TYPES[str(picture.format)]
            if len(content) > _LARGEST:
                picture.thumbnail((_SIDE, _SIDE))
                small = io.BytesIO()
                picture.convert("RGB").save(small, "JPEG", quality=88)
                content, kind = small.getvalue(), "image/jpeg"
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
