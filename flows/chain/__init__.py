"""The chain of stages as a flow runs it: in which order, each as a DVC stage in a child process."""
