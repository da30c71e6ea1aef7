"""What a process of long work needs, whatever the work: ranks, a GPU of its own, progress, memory, provenance."""
