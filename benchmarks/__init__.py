"""
What selfheal costs, beside its peers: ``python -m benchmarks`` measures and writes RESULTS.md.
"""
