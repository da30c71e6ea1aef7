"""Stage 2: the engine that trains a student, stage after stage."""
