//! An OCI runtime for Linux as a library: a container is a list of steps.
