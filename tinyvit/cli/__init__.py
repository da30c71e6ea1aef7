"""The command line: `tinyvit data|label|train|evaluate|export|store`."""
