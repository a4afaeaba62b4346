"""
The only rooms that wait: they run probes and actions, and ask the pure rooms what to do next.
"""
