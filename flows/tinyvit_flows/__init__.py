"""The Prefect flows: how the functions of `tinyvit` become tasks, runs and artifacts. The only Prefect code."""
