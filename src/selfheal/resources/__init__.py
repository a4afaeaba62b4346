"""
What an application owns and can heal: replaceable objects, log files. Standard library only.
"""
