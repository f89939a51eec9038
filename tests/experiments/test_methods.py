from balanced_lvis.config import load_config
from balanced_lvis.experiments.methods import METHODS, methods_table
from tests.common import CONFIGS, ROOT


def test_the_table_in_the_docs_is_that_of_the_code():
    """``python -m balanced_lvis.experiments.methods`` prints it."""
    assert methods_table(f"{CONFIGS}/r50_") in (ROOT / "docs" / "choosing_a_method.md").read_text(encoding="utf-8")


def test_every_config_of_a_method_is_in_the_table():
    for prefix in ("r50_", "r101_", "rendered/"):
        assert {path.relative_to(CONFIGS).as_posix() for path in CONFIGS.glob(f"{prefix}*.yaml")} == {
            f"{prefix}{key}.yaml" for key in METHODS
        }


def test_second_stages_are_those_that_name_a_first_one():
    for method in METHODS.values():
        cfg = load_config(CONFIGS / f"r50_{method.key}.yaml")
        assert (cfg.MODEL.META_ARCHITECTURE == "DecoupledRCNN") == (method.first_stage is not None)
        assert method.first_stage is None or METHODS[method.first_stage].first_stage is None
