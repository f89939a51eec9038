"""Packages, which pyproject.toml can't declare: those found, and the configs, which are a folder of the repository."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["balanced_lvis", "balanced_lvis.*"]), "balanced_lvis.configs"],
    package_dir={"balanced_lvis.configs": "configs"},
    package_data={
        "balanced_lvis": ["py.typed"],
        "balanced_lvis.configs": ["**/*.yaml", "**/*.py"],
        "balanced_lvis.report": ["page/*", "vendor/*"],
    },
)
