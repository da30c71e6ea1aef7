"""Stage 1: what labelling takes, doing it, and stores held against their data, their views and their teacher."""
