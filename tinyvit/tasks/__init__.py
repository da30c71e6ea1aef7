"""What there is to learn: classes, from a teacher or labels, and boxes; the data and the network of each."""
