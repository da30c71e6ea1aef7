"""`tinyvit bench dividend`: what a student of few labels gains by its teacher's stored logits, at equal steps.

Of a data set only some images, drawn with a seed, are taken for labelled. A teacher with ImageNet weights is
fine-tuned on those, asked once about views of all images, and a student learns what it said, then the labels. Beside
it, each with the same number of steps, images a step and schedule: the same student on the labels alone; on the
teacher's logits for the labelled images only; and, as the upper bound, on the labels of all images.
"""
