"""The processes of one command: how they are started, share the work and the machine, and are stopped."""
