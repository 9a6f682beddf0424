"""How far two tensors are from each other."""

from torch import Tensor


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, in units of the largest value of `theirs`."""
    assert ours.shape == theirs.shape
    return ((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max()).item()
