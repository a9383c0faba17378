"""medvit_batch: thousands of series, unattended. One command on one machine; what it has done is never lost."""
