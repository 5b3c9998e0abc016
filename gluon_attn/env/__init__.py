"""What the machine is: processor, GPU, libraries, threads, and the doctor that reports it."""
