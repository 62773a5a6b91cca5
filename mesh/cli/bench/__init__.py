"""`mesh bench`: how fast a mesh is, measured through its public interface."""
