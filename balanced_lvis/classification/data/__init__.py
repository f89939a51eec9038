"""
Datasets of image classification: balanced originals, their long-tailed subsets, and batches.

============== =====================================================================================
name           content
============== =====================================================================================
characters     rendered characters, 32 x 32 pixels; made on first use
cifar10        CIFAR-10 (Krizhevsky 2009)
cifar100       CIFAR-100 (Krizhevsky 2009)
fashion_mnist  Fashion-MNIST (Xiao et al. 2017), padded to 32 x 32 pixels
folder         images in one folder per class
============== =====================================================================================
"""

from . import characters, cifar, fashion_mnist, folder  # noqa: F401  registers the datasets
from .image_set import Dataset, ImageSet, build_dataset, dataset_class, dataset_names, register_dataset
from .long_tail import long_tailed_counts, long_tailed_subset

__all__ = [
    "Dataset",
    "ImageSet",
    "build_dataset",
    "dataset_class",
    "dataset_names",
    "long_tailed_counts",
    "long_tailed_subset",
    "register_dataset",
]
