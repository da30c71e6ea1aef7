"""`python -m benchmarks.gpu`: all that takes a GPU to know, in ten minutes, into one file of results.

How fast a step of training is beside timm's and beside the peak, with the batches on the GPU and with the loader; what
stored logits save; whether labelling keeps up with its teacher; and whether everything works on CUDA. No network is
needed: weights are random, the photographs come with scikit-image and scikit-learn (or are drawn, where these are not
installed).

Each job is a process of its own with a share of the time: what hangs, dies or breaks the GPU's context ends alone and
leaves a line. The file is written anew after every row, so that a run that is cut off leaves what it found.

A machine without a network needs the wheels of what its Python lacks, at the least zarr, numcodecs, google-crc32c,
donfig, webdataset, braceexpand, pydantic, pydantic-core, annotated-types and typing-inspection; on some also typer,
shellingham, rich, tensorboard, pyyaml and safetensors. On a machine with one:

    pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux2014_x86_64 \
        --platform manylinux_2_28_x86_64 -d wheels zarr numcodecs ...

and on the machine with the GPU, in a checkout:

    pip install --no-index --no-deps --target site wheels/*.whl
    PYTHONPATH=site:. python -m benchmarks.gpu
"""
