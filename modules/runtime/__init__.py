"""What runs need of the machine: devices, processes, signals, errors, files."""
