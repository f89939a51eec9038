"""Images of a dataset: their paths and files, transforms of images and their instances, and broken images."""
