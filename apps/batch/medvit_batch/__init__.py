"""medvit_batch: run a bundle over whole archives, unattended, on one machine or a cluster, with all states kept in a
journal.
"""
