"""Training, broken on purpose: kills, power cuts, damaged files and refusing disks. Run with `python -m faults`."""
