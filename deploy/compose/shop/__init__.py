"""A small shop to try a mesh with: three services that call each other, and customers."""
