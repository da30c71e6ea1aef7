"""The steps of the flows as Prefect tasks: how they are run and end, and by stage what they do."""
