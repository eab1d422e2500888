"""The reference image: the pixel-wise mean of a dataset's training images."""

import contextlib
import io
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from tqdm import tqdm

from nerp.base.errors import DiskError, NerpError
from nerp.base.paths import write_bytes
from nerp.data.benchmark import Item
from nerp.data.decode import decode, open_image
from nerp.data.digests import images_state
from nerp.files.opening import MIB, opened, reading

# Every image is squeezed to this size, bicubic, before the mean is taken.
SIZE = 224
_LARGEST = 64 * MIB  # of a picture in a zip


def mean_image(items: Sequence[Item], image_dir: Path) -> Image.Image:
    """The mean of the images, each resized to SIZE x SIZE; streaming, in constant memory.

    Raises NerpError if there are no images, and, naming the file, if one cannot be decoded.
    """
    if not items:
        raise NerpError(f"{image_dir}: there are no training images to take the mean of")
    total = np.zeros((SIZE, SIZE, 3), np.uint64)

    def pixels(item: Item) -> np.ndarray:
        image = open_image(image_dir / item.path)
        return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC))

    batch = 256  # images at once; pool.map would queue the whole list
    with (
        ThreadPoolExecutor() as pool,
        tqdm(total=len(items), desc="reference image", unit="img", disable=None) as bar,
    ):
        for start in range(0, len(items), batch):
            for image in pool.map(pixels, items[start : start + batch]):
                total += image
                bar.update()
    return Image.fromarray(np.round(total / len(items)).astype(np.uint8))


def cached_mean_image(
    items: Sequence[Item], image_dir: Path, name: str, folders: Sequence[Path]
) -> tuple[Image.Image, Path]:
    """`mean_image`, kept as a PNG in the first of `folders` that can be written.

    The file's name has the digest of the list of images and of their state. So a mean is never used
    for other images. A damaged file is made again.
    """
    file = f"{name}_train_image_mean-{SIZE}-{images_state(items, image_dir)}.png"
    for folder in folders:
        with contextlib.suppress(NerpError):
            return open_image(folder / file), folder / file
    image = mean_image(items, image_dir)
    content = io.BytesIO()
    image.save(content, format="PNG")
    for folder in folders:
        try:
            write_bytes(folder / file, content.getvalue())
            return image, folder / file
        except DiskError as error:
            last = error
    raise NerpError(f"the reference image cannot be kept: {last}")


def load_reference(file: str | Path, name: str) -> Image.Image:
    """NERP.REFERENCE_IMAGE: a picture, or a zip that holds `<name>_train_image_mean.png`.

    Raises NerpError for a file that is missing or neither, or a zip without that picture.
    """
    path = Path(file).expanduser()
    with opened(path) as content:
        if not zipfile.is_zipfile(content):
            content.seek(0)
            return decode(content, str(path))
        return _from_zip(content, path, f"{name}_train_image_mean.png")


def _from_zip(content: BinaryIO, path: Path, wanted: str) -> Image.Image:
    with reading(path, "a readable zip of reference images"), zipfile.ZipFile(content) as archive:
        members = [m for m in archive.infolist() if m.filename.rsplit("/", 1)[-1] == wanted]
        if not members:
            raise NerpError(f"{path}: holds no {wanted}")
        with archive.open(members[0]) as member:
            data = member.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise ValueError(f"{wanted} unpacks to more than {_LARGEST:,} bytes")
    return decode(io.BytesIO(data), f"{path}: {wanted}")
