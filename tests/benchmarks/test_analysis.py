"""The suite of the analysis on a small dataset, in this process."""

import numpy as np

from benchmarks import SUITES, Options, analysis, lvis_evaluation
from tests.benchmarks.in_process import in_this_process


def test_ap_fixed_and_the_bootstrap_are_those_of_plain_implementations(monkeypatch):
    monkeypatch.setattr(analysis, "in_fresh_process", in_this_process(analysis, lvis_evaluation))
    monkeypatch.setattr(analysis, "COMPARED_RESAMPLES", 3)
    monkeypatch.setattr(analysis, "AnalysisOptions", lambda: analysis_options)
    from balanced_lvis.analysis import Options as AnalysisOptions

    analysis_options = AnalysisOptions(samples=5)
    rows = SUITES["analysis"](Options(images=20))
    sizes = [row["size"].split(", ")[-1].split(":")[0] for row in rows]
    assert sizes == ["AP-fixed", "3 bootstrap resamples", "everything"]
    assert [row["identical"] for row in rows] == [True, True, None]
    assert all(np.isfinite(row["ours_seconds"]) for row in rows)
