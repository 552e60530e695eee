"""What everything else stands on: errors, names, text, checks, hashes, binning, ranks of processes."""
