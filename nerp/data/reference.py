"""The reference image: the pixel-wise mean of a dataset's training images."""

import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from nerp.data.benchmark import Item, split_digest
from nerp.data.decode import open_image
from nerp.errors import NerpError
from nerp.paths import replacing

# Every image is squeezed to this size, bicubic, before the mean is taken.
SIZE = 224


def mean_image(items: Sequence[Item], image_dir: Path) -> Image.Image:
    """The mean of the images, each resized to SIZE x SIZE; streaming, in constant memory.

    Raises NerpError for no images at all, and, naming the file, for one that cannot be decoded.
    """
    if not items:
        raise NerpError(f"{image_dir}: there are no training images to take the mean of")
    total = np.zeros((SIZE, SIZE, 3), np.uint64)

    def pixels(item: Item) -> np.ndarray:
        image = open_image(image_dir / item.path)
        return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC))

    batch = 256  # what is in flight at once: pool.map would queue the whole list
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

    The file's name holds the digest of the list of images and the size, so that another list
    never meets a stale mean.
    """
    file = f"{name}_train_image_mean-{SIZE}-{split_digest(items)}.png"
    for folder in folders:
        if (folder / file).is_file():
            return open_image(folder / file), folder / file
    image = mean_image(items, image_dir)
    for folder in folders:
        try:
            with replacing(folder / file) as partial:
                image.save(partial, format="PNG")
            return image, folder / file
        except OSError:
            continue
    raise NerpError(f"the reference image can be kept in none of {', '.join(map(str, folders))}")


def load_reference(file: str | Path, name: str) -> Image.Image:
    """NERP.REFERENCE_IMAGE: a picture, or a zip that holds `<name>_train_image_mean.png`.

    Raises NerpError for a file that is missing or neither, or a zip without that picture.
    """
    file = Path(file).expanduser()
    if not zipfile.is_zipfile(file):
        return open_image(file)
    wanted = f"{name}_train_image_mean.png"
    try:
        with zipfile.ZipFile(file) as archive:
            members = [m for m in archive.namelist() if m.rsplit("/", 1)[-1] == wanted]
            if not members:
                raise NerpError(f"{file}: holds no {wanted}")
            with archive.open(members[0]) as member, Image.open(member) as image:
                return image.convert("RGB")
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError) as error:
        raise NerpError(f"{file}: cannot be read as a zip of reference images ({error})") from None
