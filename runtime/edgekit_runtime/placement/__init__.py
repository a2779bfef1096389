"""Which variant runs, and why: candidates, requirements, probe, golden check, failover."""
