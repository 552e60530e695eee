"""The same towers computed faster: fewer rows, and the fastest exact kernel. Never another result."""
