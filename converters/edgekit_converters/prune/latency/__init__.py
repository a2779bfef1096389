"""Tables of measured layer latencies."""
