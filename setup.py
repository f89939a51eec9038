from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (HERE / "balanced_lvis" / "__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)
REQUIREMENTS = [
    line
    for line in (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]

setup(
    name="balanced_lvis",
    version=VERSION,
    description="Long-tailed instance segmentation with Balanced Activation, on Detectron2",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["balanced_lvis", "balanced_lvis.*"]),
    python_requires=">=3.10",
    # Detectron2 is not on PyPI under its own name: README.md says how to install it.
    install_requires=["torch>=2.6", "torchvision", "lvis==0.5.3", *REQUIREMENTS],
    extras_require={
        "test": ["pytest", "pytest-xdist", "hypothesis", "ruff"],
        "docs": ["mkdocs"],
    },
)
