"""A hundred prompts to the real server; `python -m tests.host.soak` runs a thousand, and looks at memory's slope too."""

from __future__ import annotations

from . import soak

_MOST_GROWN = 64  # MiB over eighty prompts, too few for a slope


def test_a_hundred_prompts(server):
    load = soak.run(server, 100)
    assert not load.problems
    assert sum(load.outcomes.values()) == 100
    assert set(load.outcomes) == {"good", "cancelled", "refused", "failed with a sentence", "broken upload"}
    assert load.outcomes["good"] > 2 * len(load.pictures), "graphs came again, and were compared"
    assert load.files_grown <= 4
    assert (load.resident[-1] - load.resident[20]) / 2**20 < _MOST_GROWN
