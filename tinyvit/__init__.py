"""Offline distillation of vision models: replay, teachers, students, training. Knows nothing of workflows."""

__version__ = "0.1.0"
