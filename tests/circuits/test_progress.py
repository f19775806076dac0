"""`circuits.progress` is `patching.progress`, which has its own tests."""

import circuits.progress
import patching.progress


def test_circuits_show_progress_as_patching_does():
    assert circuits.progress.track is patching.progress.track
