"""The image of an item: a file, a black one in its size, or features that come with this package."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from calib.core.checks import check_kind
from calib.data.images import open_image
from calib.vqa.perturbations import BLACK

PACKAGED = "packaged:"  # before the name of a task, its split and its image: only features are there
BLACK_SIZE = (256, 256)  # of a black image whose original is not there


def item_image(image: str | None, root: str | Path | None = None) -> Image.Image | None:
    """Return the image of an item as RGB, None where none is shown.

    Args:
        image: What its column `image` says: a path, `black:` before one, or nothing.
        root: The folder of relative paths. None: the present one.

    Raises:
        ValueError: It cannot be read, or of it there are only features.
        FileNotFoundError: There is no such file.

    Example:
        >>> item_image("black:packaged:cxr3/test/1.png").size, item_image(None)
        ((256, 256), None)
    """
    if not image:
        return None
    check_kind(image, str, "image", "An item's image is a path.")
    if image.startswith(BLACK):
        of = image.removeprefix(BLACK)
        size = BLACK_SIZE if of.startswith(PACKAGED) else _opened(of, root).size
        return Image.new("RGB", size)
    if image.startswith(PACKAGED):
        raise ValueError(
            f"Of the image {image.removeprefix(PACKAGED)} only the features come with this package: they are "
            "for the embedded backbone. Give the images (root) when the items are made."
        )
    return _opened(image, root)


def root_name(root: str | Path | None) -> str | None:
    """Return the folder of relative paths as a whole path: with another one, images are others."""
    return None if root is None else str(Path(root).resolve())


def _opened(image: str, root: str | Path | None) -> Image.Image:
    path = Path(image) if root is None else Path(root) / image
    if not path.is_file():
        where = "" if root is not None or Path(image).is_absolute() else " Relative paths need root=FOLDER."
        raise FileNotFoundError(f"There is no image {path}.{where}")
    return open_image(path)
