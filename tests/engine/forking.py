"""Processes for tests, forked from one that has imported everything and has no threads, which a fork would lose."""

import multiprocessing

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.engine.toy", "balanced_lvis.engine.run"])
