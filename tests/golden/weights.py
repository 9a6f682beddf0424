"""Reproducible weights and inputs with no random generator: splitmix64 of (crc32(name), index)."""

import zlib, math, numpy as np, torch


def noise(name, shape, scale=1.0, shift=0.0):
    """Uniform values of unit variance, times scale, plus shift; float32, C order."""
    n = int(np.prod(shape))
    z = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(
        zlib.crc32(name.encode()) * 0xD1B54A32D192ED03 & (2**64 - 1)
    )
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    u = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return torch.from_numpy(((u * 2 - 1) * math.sqrt(3) * scale + shift).astype(np.float32).reshape(shape))


def weight(name, shape):
    if len(shape) > 1:
        return noise(name, shape, scale=1.4 / math.sqrt(int(np.prod(shape[1:]))))
    return noise(name, shape, scale=0.1, shift=0.0 if name.endswith("bias") else 1.0)
