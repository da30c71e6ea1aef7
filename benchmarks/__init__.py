"""Comparisons that anyone can run again; `results/` holds what they printed."""
