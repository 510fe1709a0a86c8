"""Unusual pictures and their pixels as read by Pillow: EXIF rotation, CMYK, an alpha channel.

    python tests/reference/picture_goldens.py [OUT]
"""

import sys
from pathlib import Path

import numpy
from PIL import Image, ImageOps

from golden_file import Golden


def main():
    default = Path(__file__).resolve().parents[2] / "diffusion" / "tests" / "goldens" / "pictures"
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    out.mkdir(parents=True, exist_ok=True)
    # Red grows from left to right, blue from top to bottom, slowly enough to survive JPEG.
    y, x = numpy.mgrid[0:16, 0:24]
    picture = Image.fromarray(numpy.stack([x * 10, 0 * x + 60, y * 14], axis=2).astype(numpy.uint8))
    for turned in (3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = turned
        picture.save(out / f"turned-{turned}.jpg", quality=95, subsampling=0, exif=exif)
    picture.convert("CMYK").save(out / "four-inks.jpg", quality=95, subsampling=0)
    picture.convert("L").save(out / "grey.jpg", quality=95)
    with_alpha = picture.copy()
    with_alpha.putalpha(Image.fromarray((x * 11).astype(numpy.uint8)))
    with_alpha.save(out / "alpha.png")
    golden = Golden()
    for path in sorted(out.glob("*.[jp][pn]g")):
        upright = ImageOps.exif_transpose(Image.open(path))
        if upright.mode == "RGBA":
            white = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(white, upright)
        golden.put(path.stem, numpy.asarray(upright.convert("RGB")).astype(numpy.float32))
    golden.write(out / "reference.safetensors")


if __name__ == "__main__":
    main()
