"""The built-in cascade: trained on a synthetic world, see the README in its folder."""

from pathlib import Path

NAME = "tiny (built in)"
FOLDER = Path(__file__).parent / "tiny"
