"""Imported first by tools: exits at once on signals that arrive during the imports that follow, which take seconds."""

import _checkout  # noqa: F401

from balanced_lvis_cli import end_on_early_signals

end_on_early_signals()
