"""`python -m mesh.cli` is the command `mesh`."""

from mesh.cli import main

main(prog_name="mesh")
