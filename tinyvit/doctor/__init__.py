"""Is my set-up right? Checks of data, teacher, store and machine, each with its reason and remedy."""
