"""What a network's features are worth on other data: linear probes, neighbours, few-shot episodes."""
