"""Loading of pickles and PyTorch files from anywhere: runs no code from the file, and limits memory and time."""
