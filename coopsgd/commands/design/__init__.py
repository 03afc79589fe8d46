"""`coopsgd design`: which tau, topology and weights to choose for a given task on a given network.

Three things make a prediction. *Theory* says of any A(tau, W, v) how far its workers drift apart, and so which period of
plain averaging drifts as far: tau_eq. *Pilots*, a few runs of periodic averaging in one process, say how much of it is noise,
how much differences between workers, how far curvature holds them back, and what loss such a drift costs on this task. The
*clock* says how many steps fit into a second. Nothing else is trained.
"""
