"""Contraction: a large student scaled down, step by step, to the best one that meets a budget."""
