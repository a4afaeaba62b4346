"""
One file for each kind of thing: a rule is a question to it that calls nothing.
"""
