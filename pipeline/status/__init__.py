"""`everest status`: everything that runs or waits, read from the disk, from the kernel and from Prefect."""
