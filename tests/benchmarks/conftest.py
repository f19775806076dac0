"""Benchmarks turn progress off in their process: here, for the length of a test."""

import pytest


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
