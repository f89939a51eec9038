"""Images whose EXIF data say how they are turned."""

from PIL import Image


def save_turned(path, image, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif.tobytes())
