"""Many jobs on many machines, on Ray: `python -m i2vgen_core batch`. Nothing else here needs Ray; see docs/batches.md."""
