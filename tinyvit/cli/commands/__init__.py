"""Distil a large teacher into small students offline: its logits are stored once, any number of students learn them."""
