"""Fixtures of the tests that need torch alone."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.append(str(HERE))  # for toy.py: in importlib mode a test file cannot import its neighbour

import toy  # noqa: E402

from i2vgen_core.checkpoints.scaffold import scaffold  # noqa: E402


@pytest.fixture(scope="session")
def small():
    """The smallest network of each kind, by its kind; not to be changed."""
    return {kind: toy.network(replace(toy.CONFIG, kind=kind)) for kind in toy.KINDS}


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    """bundles(base, refiner): the folder of a toy bundle of these kinds, made once a session; not to be changed."""
    made = {}

    def bundle(base="i2vgen_xl", refiner="vid2vid_xl"):
        if (base, refiner) not in made:
            made[base, refiner] = tmp_path_factory.mktemp(f"{base}-{refiner}")
            scaffold(made[base, refiner], toy.SIZE, base=base, refiner=refiner)
        return made[base, refiner]

    return bundle
