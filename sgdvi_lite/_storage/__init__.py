"""What outlives a process; nothing here knows of networks.

``files`` writes a file whole or not at all. ``folder`` gives one owner to a folder of named states, with a header that
tells what is computed in it, and a stopwatch. ``checkpoints`` writes states of a long computation there now and then.
"""
