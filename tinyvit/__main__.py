"""`python -m tinyvit`, and so `torchrun -m tinyvit`."""

from tinyvit.cli.main import main

if __name__ == "__main__":
    main()
