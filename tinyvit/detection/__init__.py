"""Students as backbones of object detectors: COCO's format in, COCO's metrics out."""
