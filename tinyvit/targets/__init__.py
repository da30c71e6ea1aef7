"""What is learned of a view: a teacher's sparse probabilities, or a label, and the losses on them."""
