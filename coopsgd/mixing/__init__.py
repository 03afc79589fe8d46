"""Who mixes with whom, and by how much: graphs, matrices, schedules, spectra. Pure maths on small numpy matrices.

Nothing here imports torch, so that `show` and every refusal of a bad config answer at once and the process that forks
the workers never starts a thread pool.
"""
