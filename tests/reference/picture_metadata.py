"""Reads the metadata of pictures, as the "PNG info" tab of AUTOMATIC1111's web UI and ComfyUI's importers do.

    python tests/reference/picture_metadata.py PICTURE...

Needs Pillow and piexif. Each picture may be a PNG, JPEG or WebP file. Fails when the parameters of A1111 are missing, or
when the recipe is missing or is about something else.
"""

import json
import struct
import sys

import piexif
import piexif.helper
from PIL import Image


def parameters(image):
    """As A1111's modules/images.py, read_info_from_image."""
    if "exif" not in image.info:
        return image.info["parameters"]
    comment = piexif.load(image.info["exif"])["Exif"][piexif.ExifIFD.UserComment]
    return piexif.helper.UserComment.load(comment)


def find(tree, name):
    if isinstance(tree, dict):
        for key, value in tree.items():
            found = value if key == name else find(value, name)
            if found is not None:
                return found
    return None


def recipe(image):
    if image.format == "PNG":
        return json.loads(image.text["pyrograph"])
    return json.loads(find(image.getxmp(), "recipe"))


def check_chunks(path):
    """As ComfyUI's pnginfo.ts, which adds up the lengths of chunks and ignores the padding byte of odd ones."""
    data = open(path, "rb").read()
    at, kinds = 12, []
    while at < len(data):
        kinds.append(data[at:at + 4])
        at += 8 + struct.unpack("<I", data[at + 4:at + 8])[0]
    assert at == len(data) and b"EXIF" in kinds, kinds


def main():
    for path in sys.argv[1:]:
        with Image.open(path) as image:
            image.load()
            said, made = parameters(image), recipe(image)
            assert said.startswith(made["prompt"]), f"{path}: {said!r} is not about {made['prompt']!r}"
            assert f"Seed: {made['seed']}, Size: {image.width}x{image.height}" in said, f"{path}: {said!r}"
            if image.format == "WEBP":
                check_chunks(path)
            print(f"{path}: {image.format}, {said.splitlines()[0]!r}")


if __name__ == "__main__":
    main()
