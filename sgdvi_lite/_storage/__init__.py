"""What outlives a process: files that are there whole or not at all, and folders with one owner.

``files`` writes a file whole or not at all. ``folder`` gives one owner to a folder of named states, with a header that
tells what is computed in it, and a stopwatch. Checkpoints are written there now and then.
"""
