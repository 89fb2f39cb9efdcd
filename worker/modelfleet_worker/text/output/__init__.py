"""The parts of a chat's answer: text, reasoning and calls, read from what a model writes.

How a model writes them is its style (`styles.py`): it follows from the chat template, or the spec
names it. A parser reads an answer while it comes; whatever the pieces are in which it comes, the
result is the same. A call that is no call is text. Grammars are made of the same formats
(`grammar.py`), so that what they enforce is what the parsers read.
"""
